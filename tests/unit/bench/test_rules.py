"""Synthetic drafts are lawful, every rule is timed on every kind, and what is refused says why."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foretoken import registry
from foretoken.bench import rules as module
from foretoken.bench.rules import RuleBench, known_rules
from foretoken.bench.synthetic import CHAIN, Synthetic
from foretoken.errors import CapabilityError, ConfigError
from foretoken.tree import KINDS, DraftTree, Kind
from foretoken.verify.walk import Walk
from tests.unit.bench import stand_ins

V = 50


class Picky(Walk):
    """Refuses large vocabularies, as a rule that solves a linear programme must."""

    name = "picky"
    kinds: list[Kind] = []

    def decide(self, tree, rows, coins):
        if rows.logits.shape[-1] > 10:
            raise CapabilityError("picky: a vocabulary of 50 tokens is too large; at most 10")
        return super().decide(tree, rows, coins)


@pytest.fixture(autouse=True)
def _small_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHE_BYTES", 1 << 10)


@pytest.mark.parametrize("shape", [*KINDS, CHAIN])
def test_a_synthetic_draft_is_of_its_shape(shape: str) -> None:
    tree, logits = Synthetic(V, 3).draft(shape, 24, "usual")
    assert logits.shape == (len(tree) + 1, V)
    assert logits.dtype == torch.float32
    assert tree.kind == ("sampled" if shape == CHAIN else shape)
    assert len(tree.draws.nodes) == 24
    assert tree.is_chain == (shape == CHAIN)
    again = Synthetic(V, 3).draft(shape, 24, "usual")
    assert again.tree.tokens == tree.tokens
    assert torch.equal(again.logits, logits)
    assert Synthetic(V, 4).draft(shape, 24, "usual").tree.tokens != tree.tokens


@pytest.mark.parametrize("shape", [*KINDS, CHAIN])
def test_the_usual_targets_row_is_near_its_own_drafters(shape: str) -> None:
    """Node by node: a row that had landed at another node would be a row of another language."""
    near: list[float] = []
    for seed in range(20):
        tree, logits = Synthetic(V, seed).draft(shape, 12, "usual")
        below = [[tree.tokens[i] for i in children] for children in tree.children]
        p = logits.softmax(dim=-1)
        near += [
            float(p[at, tokens].sum()) / len(tokens) for at, tokens in enumerate(below) if tokens
        ]
    assert np.mean(near) > 3 / V  # what was drafted is likely


def test_the_worst_case_rejects_and_the_usual_one_does_not() -> None:
    bench = RuleBench(2000, 16, 12)
    bench.run()
    walk = [r for r in bench.report().results if r.rule == "walk"]
    for kind in KINDS:
        usual, worst = (next(r for r in walk if (r.shape, r.case) == (kind, case))
                        for case in ("usual", "worst"))  # fmt: skip
        assert usual.accepted > worst.accepted
        assert worst.accepted < 0.2
        assert usual.rows == pytest.approx(usual.accepted + 1)  # walk reads what it passes


def test_every_rule_is_timed_on_every_kind_that_it_accepts(monkeypatch) -> None:
    monkeypatch.setitem(registry._added["verifier"], "picky", f"{__name__}:Picky")
    monkeypatch.setitem(registry._added["verifier"], "broken", "no.such.module:Rule")
    monkeypatch.setitem(registry._added["verifier"], "one-by-one", f"{stand_ins.HERE}:OneByOne")
    bench, made = RuleBench(V, 12, 2), 0

    def note() -> None:
        nonlocal made
        made += 1

    bench.run(note)
    assert made == bench.total
    report = bench.report()
    assert {(r.rule, r.shape) for r in report.results} >= {
        (rule.name, kind) for rule in known_rules() for kind in KINDS if kind in rule.accepts
    }
    for result in report.results:
        if result.rule == "picky":
            assert "at most 10" in result.refused
            assert result.median_ms is None
        elif not result.refused:
            assert result.drafts == 2
            assert 0 < result.median_ms <= result.slowest_ms
    assert "broken" not in {r.rule for r in report.results}
    point = {r.rule for r in report.results if r.shape == "point"}
    assert {"walk", "one-by-one", "picky"} <= point


def test_a_verdict_starts_from_scratch(monkeypatch) -> None:
    """No rule may profit from rows or fields that another has derived before it."""
    fresh = []

    class Spy(Walk):
        name = "spy"

        def judge(self, tree: DraftTree, rows, coins):
            fresh.append(rows.normalised == 0 and "children" not in vars(tree))
            return super().judge(tree, rows, coins)

    monkeypatch.setattr(module, "known_rules", lambda: iter([Spy(), Spy()]))
    RuleBench(V, 6, 1).run()
    assert fresh == [True] * len(fresh)
    assert len(fresh) > 8


def test_ctrl_c_keeps_what_was_timed() -> None:
    bench = RuleBench(V, 6, 1)

    def impatient() -> None:
        raise KeyboardInterrupt

    bench.run(impatient)
    report = bench.report()
    assert report.interrupted
    assert all(r.drafts == 0 and r.median_ms is None for r in report.results)


@pytest.mark.parametrize("field", ["vocab", "nodes", "drafts"])
def test_bad_sizes_are_named(field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: 0"):
        RuleBench(**{field: 0})
