"""Which pairs are measured and what the table says; expectations against full enumeration."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from foretoken import registry
from foretoken.bench.contest import Plan
from foretoken.bench.expected import LOST, Shadow, expected_accepted
from foretoken.bench.interval import Mean
from foretoken.bench.own import Own
from foretoken.bench.pairs import COINCIDE, Pairs, lm_forms, tokens_per_step
from foretoken.bench.parity import Parity
from foretoken.bench.results import make_report
from foretoken.bench.run import measure
from foretoken.bench.same_trees import same_trees
from foretoken.draft.lm import LmDrafter
from foretoken.errors import CapabilityError, ConfigError
from foretoken.prompt.chance import Coins, PositionRandom
from foretoken.prompt.sampling import TargetRows, Warper
from foretoken.tree import KINDS, DraftTree
from foretoken.types import Sampling
from tests import tiny
from tests.exact import enumeration
from tests.unit.bench import helper, stand_ins

DRAWN = Sampling(temperature=1.0)
PLAN = Plan(max_new_tokens=12, repeats=1, cut_loops=False, sampling=DRAWN)
DRAFTERS = "prompt-lookup,random"


@pytest.fixture
def _rules(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, where in (("first-child", "Greedy"), ("one-by-one", "OneByOne")):
        monkeypatch.setitem(registry._added["verifier"], name, f"{stand_ins.HERE}:{where}")


def rule(name: str):
    return registry.find("verifier", name)()


# --- the mean over prompts ------------------------------------------------------------------------


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Prompts of unequal length; 95 % intervals of 2,000 studies of 12 prompts."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        steps = rng.integers(20, 60, 12)
        rate = rng.gamma(20, 1 / 10, 12)  # tokens per step of a prompt, mean 2
        found = Mean.of(rng.poisson(steps * rate), steps)
        covered += found.low <= 2.0 <= found.high
    assert 0.925 < covered / 2000 < 0.965


def test_a_mean_of_few() -> None:
    assert Mean.of([], []) is None
    assert Mean.of([0.0], [0.0]) is None
    one = Mean.of([6.0], [3.0])
    assert (one.mean, one.error, one.low) == (2.0, None, None)
    flat = Mean.of([2.0, 4.0], [1.0, 2.0])
    assert (flat.mean, flat.error, flat.low, flat.high) == (2.0, 0.0, 2.0, 2.0)


# --- expectations ---------------------------------------------------------------------------------


def tables(seed: int, vocab: int = 3, depth: int = 2):
    q = enumeration.model(vocab, depth, seed)
    return enumeration.model(vocab, depth, seed + 1, near=q, mix=0.5), q


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", registry.names("verifier"))
def test_expectations_equal_full_enumeration(name: str, kind) -> None:
    if kind not in rule(name).accepts:
        pytest.skip("not a pair")
    p, q = tables(5)
    drafts = list(enumeration.drafts(q, kind, enumeration.SHAPES["2x1"]))
    for tree, _ in random.Random(1).sample(drafts, min(8, len(drafts))):
        rows = enumeration.Rows(p, tree, 4)
        whole = sum(
            chance * len(verdict.path)
            for verdict, chance in enumeration.outcomes(
                lambda coins: rule(name).judge(tree, rows, coins)  # noqa: B023
            )
        )
        found, lost = expected_accepted(rule(name), tree, rows)
        assert lost <= LOST
        assert found == pytest.approx(whole, abs=2 * LOST + 1e-9)


def test_the_expectation_of_walk_is_the_sum_of_the_paths() -> None:
    """Vocabulary of 97 and a tree of many branches, against the closed form."""
    torch.manual_seed(3)
    tree = DraftTree([5, 9, 5, 7, 9, 1], [-1, -1, 0, 0, 1, 3])
    rows = TargetRows(torch.randn(7, 97) * 3, tree, [0, 1], Warper(DRAWN, [0, 1], (), 9, 97))
    p = [rows.probs(i) for i in range(-1, 6)]
    whole = sum(
        math.prod(float(p[tree.parents[i] + 1][tree.tokens[i]]) for i in tree.path(node))
        for node in range(6)
    )
    for name in ("walk", "one-by-one"):
        judge = stand_ins.OneByOne() if name == "one-by-one" else rule(name)
        assert expected_accepted(judge, tree, rows)[0] == pytest.approx(whole, abs=1e-5)
    coins = (Coins(PositionRandom(seed), 2) for seed in range(4000))
    seen = np.mean([len(rule("walk").judge(tree, rows, c).path) for c in coins])
    assert seen == pytest.approx(whole, abs=4 / math.sqrt(4000))


def test_branches_that_are_left_out_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foretoken.bench.expected.MOST", 2)
    tree = DraftTree([0, 1, 2], [-1, -1, -1])
    rows = TargetRows(torch.zeros(4, 5), tree, [0], Warper(DRAWN, [0], (), 9, 5))
    found, lost = expected_accepted(rule("walk"), tree, rows)
    assert (found, lost) == pytest.approx((0.2, 0.4))  # seen: no child at all, and one of three


# --- the same drafts ------------------------------------------------------------------------------


@pytest.mark.usefixtures("_rules")
def test_rules_on_the_same_drafts() -> None:
    pairs = Pairs(DRAFTERS, nodes=6, lossy=True)
    seen: list[str] = []
    report = same_trees(
        helper.engine("small"), pairs.forms, small_prompts(3), PLAN, 6, ["/a/b.txt"], seen.append
    )
    assert seen == ["prompt-lookup"] * 3 + ["random"] * 3
    by = {(r.drafter, r.rule): r for r in report.results}
    assert {rule for _, rule in by} >= {"walk", "first-child", "one-by-one"}
    assert by["random", "walk"].drafts > 10
    for drafter in ("prompt-lookup", "random"):
        walk, other = by[drafter, "walk"], by[drafter, "one-by-one"]
        assert walk.accepted.mean == pytest.approx(other.accepted.mean, abs=1e-5)
        assert by[drafter, "first-child"].accepted.mean > walk.accepted.mean
        assert by[drafter, "first-child"].guarantee != "exact"
    assert report.files == ["b.txt"]
    assert report.left_out <= LOST
    assert not report.interrupted


def small_prompts(n: int):
    from foretoken.bench.prompts import Prompt

    return [Prompt(f"p{i}", tiny.prompt(i, 10, 32), "") for i in range(n)]


@pytest.mark.usefixtures("_rules")
def test_a_rule_above_the_reference_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lossy rule may be above; one that calls itself exact and is above must be seen."""
    monkeypatch.setattr("foretoken.bench.same_trees.REFERENCE", "walk")
    monkeypatch.setattr(stand_ins.Greedy, "exact", frozenset({"greedy", "sampling"}))
    pairs = Pairs("random", "walk,first-child,one-by-one", 6)
    report = same_trees(helper.engine("small"), pairs.forms, small_prompts(3), PLAN, 6)
    assert [r.rule for r in report.above_reference] == ["first-child"]
    by = {r.rule: r for r in report.results}
    assert by["walk"].behind is None
    assert by["first-child"].behind.mean < 0 < by["first-child"].ahead_on
    assert by["one-by-one"].behind.mean == pytest.approx(0.0, abs=1e-5)
    assert by["one-by-one"].ahead_on == 0.0


def test_the_text_is_walks_and_ctrl_c_keeps_the_figures() -> None:
    shadow = Shadow({"walk": rule("walk")})
    engine, prompt = helper.engine("small"), small_prompts(1)[0]
    shadow.seen.append([])
    request = tiny.request(prompt.tokens, 12, DRAWN)
    watched = engine.run([request], engine.use("random", "fixed", shadow, None, {"nodes": 4}))[0]
    plain = engine.run([request])[0]
    assert watched.tokens == plain.tokens
    assert len(shadow.seen[0]) == watched.stats.steps - (watched.stats.tokens == 12)

    def impatient(_: str) -> None:
        raise KeyboardInterrupt

    pairs = Pairs("random", nodes=4)
    report = same_trees(engine, pairs.forms, small_prompts(3), PLAN, 4, (), impatient)
    assert report.interrupted
    assert report.results[0].drafts > 0


def test_greedy_text_has_one_rule() -> None:
    with pytest.raises(ConfigError, match="temperature"):
        same_trees(helper.engine(), {}, helper.prompts(1), Plan(), 4)


# --- the table ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_rules")
def test_the_allowed_pairs() -> None:
    accept_point = [n for n in registry.names("verifier") if "point" in rule(n).accepts]
    exact = [n for n in accept_point if "sampling" in rule(n).exact]
    pairs = Pairs(DRAFTERS, nodes=5)
    assert [rule for _, rule in pairs.of.values()] == exact * 2
    assert {"walk", "one-by-one"} <= set(exact)
    assert pairs.specs[0].label == "plain"
    assert {s.policy_options["nodes"] for s in pairs.specs[1:]} == {"5"}
    assert {s.policy for s in pairs.specs} == {"fixed"}
    assert [rule for _, rule in Pairs("random", lossy=True).of.values()] == accept_point
    assert list(Pairs("random", "walk").of.values()) == [("random", "walk")]
    named = Pairs("random:seed=3,verifier=one-by-one,random:seed=3", "walk")
    assert list(named.of) == ["random:seed=3,verifier=one-by-one", "random:seed=3,verifier=walk"]


def test_rules_for_tiny_vocabularies_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_ins.OneByOne, "max_vocab", 8)
    monkeypatch.setitem(registry._added["verifier"], "one-by-one", f"{stand_ins.HERE}:OneByOne")
    assert "one-by-one" not in {rule for _, rule in Pairs("random").of.values()}
    named = Pairs("random", "one-by-one").specs[1]
    Own(helper.engine("six"), named)
    with pytest.raises(CapabilityError, match="up to 8 tokens, this target has 97"):
        Own(helper.engine(), named)


@pytest.mark.usefixtures("_rules")
def test_greedy_needs_one_rule_a_drafter() -> None:
    pairs = Pairs(DRAFTERS, greedy=True)
    assert list(pairs.of.values()) == [("prompt-lookup", "walk"), ("random", "walk")]
    assert pairs.note == COINCIDE


@pytest.mark.usefixtures("_rules")
@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("random", "first-child"), ConfigError, "--lossy"),
        (("random:verifier=first-child",), ConfigError, "--lossy"),
        (("random", "magic"), ConfigError, "magic"),
        (("random", ""), ConfigError, "verifiers"),
        (("plain",), ConfigError, "methods"),
        (("random:verifier=none-such",), ConfigError, "none-such"),
    ],
)
def test_impossible_tables_are_refused(arguments, error, says: str) -> None:
    with pytest.raises(error, match=says):
        Pairs(*arguments)


def test_a_forbidden_pair_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_ins.OneByOne, "accepts", frozenset({"sampled"}))
    monkeypatch.setitem(registry._added["verifier"], "one-by-one", f"{stand_ins.HERE}:OneByOne")
    with pytest.raises(CapabilityError, match=r"'random'.*'point'.*'one-by-one'"):
        Pairs("random:verifier=one-by-one")


@pytest.mark.usefixtures("_rules")
def test_the_table_of_a_comparison() -> None:
    pairs = Pairs(DRAFTERS, "walk,one-by-one,first-child", 5, lossy=True)
    engine = helper.engine()
    contestants = [Own(engine, spec) for spec in pairs.specs]
    measured = measure(engine, contestants, helper.prompts(3), PLAN)
    report = make_report(measured, tiny.target("llama"))
    assert not report.failed  # another rule draws another text: nothing to compare
    assert report.of("random:verifier=one-by-one").identical is None
    assert report.of("random:verifier=walk").identical is True
    table = pairs.table(measured, report)
    assert [(p.drafter, p.rule) for p in table.pairs] == [("plain", ""), *pairs.of.values()]
    for pair in table.pairs:
        assert pair.tokens_per_step.low <= pair.tokens_per_step.mean <= pair.tokens_per_step.high
        assert 0 < pair.draft + pair.target + pair.verify <= 1
        result = report.of("plain" if not pair.rule else f"{pair.drafter}:verifier={pair.rule}")
        assert pair.tokens_per_step.mean == pytest.approx(result.tokens_per_step)
    lossy = [p for p in table.pairs if p.rule == "first-child"]
    assert all("lossy" in p.guarantee for p in lossy)
    assert max(p.tokens_per_step.mean for p in table.pairs) == max(
        p.tokens_per_step.mean for p in lossy
    )
    assert "first-child" not in table.best_by_tokens_per_step  # exact ones only
    assert "first-child" not in table.best_by_tokens_per_s


def test_best_is_the_largest() -> None:
    pairs = Pairs("prompt-lookup,random", "walk", 5)
    engine = helper.engine()
    greedy = Plan(max_new_tokens=24, repeats=1, cut_loops=False)
    measured = measure(engine, [Own(engine, s) for s in pairs.specs], helper.prompts(3), greedy)
    report = make_report(measured, tiny.target("llama"))
    assert tokens_per_step(measured, "prompt-lookup:verifier=walk").mean > 1.2
    assert pairs.table(measured, report).best_by_tokens_per_step == "prompt-lookup with walk"


@pytest.mark.usefixtures("_rules")
def test_parity_of_another_drawn_text_is_refused() -> None:
    specs = Pairs("random", "one-by-one", 4).specs
    parity = Parity(helper.engine(), specs, helper.prompts(1), max_new_tokens=4, sampling=DRAWN)
    with pytest.raises(ConfigError, match="walk"):
        parity.run(1, False)


def test_the_forms_of_lm_are_found() -> None:
    for name in lm_forms():
        assert issubclass(registry.find("drafter", name), LmDrafter)
    assert len(lm_forms()) >= 2
    assert not {"aded", "random"} & set(lm_forms())
    pairs = Pairs(None)
    assert {drafter for drafter, _ in pairs.of.values()} == set(lm_forms())
