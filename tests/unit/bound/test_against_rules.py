"""The table's figures are what the verifiers themselves accept: each rule is run on every draft of
one level, with every coin followed both ways."""

from __future__ import annotations

import numpy as np
import pytest

from foretoken import registry
from foretoken.bound.optimum import optimum
from foretoken.bound.table import RULES, Rule, figures
from foretoken.tree import Kind
from tests.exact.enumeration import drafts, law, model

KINDS: dict[str, Kind] = {
    "with": "sampled", "without": "without_replacement", "greedy": "mixed", "top-k": "point",
}  # fmt: skip


def accepted(rule: str, scheme: str, k: int, vocab: int, seed: int) -> tuple[float, object, object]:
    """(chance that a draft stands, p, q) by running the registered verifier."""
    p = model(vocab, 1, seed, concentration=0.7)
    q = model(vocab, 1, seed + 1000, p, 0.3, 0.7)
    verifier = registry.find("verifier", rule)()
    _, expected = law(verifier, p, drafts(q, KINDS[scheme], [[]] * k), 1)
    return expected, p[()].numpy(), q[()].numpy()


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.label)
def test_the_rate_is_what_the_verifier_accepts(rule: Rule, k: int) -> None:
    for seed, vocab in ((1, 3), (2, 4)):
        expected, p, q = accepted(rule.name, rule.scheme, k, vocab, seed)
        found = figures(p, q, [k], 4000, np.random.default_rng(seed))
        slack = 1e-9 if rule.exact else 5 * float(found.error[0]) + 1e-9
        assert float(found.rates[rule.label][0]) == pytest.approx(expected, abs=slack)
        assert expected <= found.optima[rule.scheme][0] + 1e-9


@pytest.mark.parametrize("name", ["token", "block", "traversal"])
def test_rules_that_the_table_leaves_out_are_others_at_one_position(name: str) -> None:
    expected, p, q = accepted(name, "without", 1, 4, 5)
    assert expected == pytest.approx(optimum(p, q, 1, "without"), abs=1e-9)
    if name == "traversal":
        for k in (2, 3):
            same, *_ = accepted("recursive", "without", k, 3, 6)
            assert accepted(name, "without", k, 3, 6)[0] == pytest.approx(same, abs=1e-9)


@pytest.mark.parametrize("scheme", ["with", "without", "greedy"])
def test_the_verifier_of_optimal_transport_reaches_the_optimum(scheme: str) -> None:
    for k in (1, 2, 3):
        expected, p, q = accepted("optimal", scheme, k, 4, 7)
        assert optimum(p, q, k, scheme) == pytest.approx(expected, abs=1e-9)


def test_the_enumeration_sees_a_wrong_rate() -> None:
    expected, p, q = accepted("walk", "with", 2, 4, 1)
    assert abs(expected - optimum(p, q, 2, "with")) > 0.01
