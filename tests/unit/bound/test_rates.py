"""Rates of the rules against lists of drafts, known values, and the optimum above them."""

from __future__ import annotations

import numpy as np
import pytest

from foretoken.bound import rates
from foretoken.bound.covered import covered
from foretoken.bound.optimum import optima
from foretoken.bound.table import RULES, figures
from tests.unit.bound import oracles
from tests.unit.bound.test_optimum import CLOSE, language

MOST = 3


@pytest.fixture
def rng():
    return np.random.default_rng(21)


def test_walks_and_multi_round_equal_the_listed_draws(rng):
    for _ in range(100):
        p, q = oracles.laws(rng, int(rng.integers(1, 6)))
        found = {
            "with": rates.walk_with(p, q, MOST), "without": rates.walk_without(p, q, MOST),
            "greedy": rates.walk_greedy(p, q, MOST),
        }  # fmt: skip
        rejection = rates.multi_round(p, q, MOST)
        for k in range(1, MOST + 1):
            for scheme, listed in oracles.LISTED.items():
                expected = oracles.walked(p, listed(q, k))
                assert found[scheme][k - 1] == pytest.approx(expected, abs=1e-12), scheme
            expected = oracles.rejected_in_turn(p, q, k, replace=True)
            assert rejection[k - 1] == pytest.approx(expected, abs=1e-12)
            best = oracles.by_subsets(p, oracles.greedy(q, k))
            assert rates.mixed(p, q, MOST)[k - 1] == pytest.approx(best, abs=1e-12)


def test_recursive_rejection_within_its_standard_error(rng):
    standardised = []
    for _ in range(25):
        p, q = rng.dirichlet(np.ones(int(rng.integers(3, 6))), 2)
        found = rates.recursive(p, q, MOST, 2000, rng)
        for k in range(1, MOST + 1):
            expected = oracles.rejected_in_turn(p, q, k, replace=False)
            if found.error[k - 1] > 1e-9:
                standardised.append((found.mean[k - 1] - expected) / found.error[k - 1])
            else:
                assert found.mean[k - 1] == pytest.approx(expected, abs=1e-6)
    assert len(standardised) > 20
    assert np.abs(standardised).max() < 4.5
    assert 0.5 < np.std(standardised) < 1.5


def test_recursive_rejection_is_split_into_chunks_that_fit(rng, monkeypatch):
    p, q = rng.dirichlet(np.ones(5), 2)
    monkeypatch.setattr(rates, "CHUNK", 5 * 70)
    found = rates.recursive(p, q, MOST, 1000, rng)
    expected = [oracles.rejected_in_turn(p, q, k, replace=False) for k in (1, 2, 3)]
    assert (np.abs(found.mean - expected) <= 5 * found.error + 1e-9).all()


def test_an_exhausted_drafter_stops(rng):
    p, q = np.array([0.2, 0.5, 0.3]), np.array([0.0, 0.6, 0.4])
    for found in (rates.recursive(p, q, 4, 10, rng).mean, rates.walk_without(p, q, 4)):
        assert found[1:] == pytest.approx([found[1]] * 3)
    assert rates.walk_without(p, q, 2)[1] == pytest.approx(0.8)


def test_k_seq_at_its_factor(rng):
    """The law of what is accepted plus the residual is p, and the residual is (p - rho q)+."""
    for _ in range(300):
        p, q = rng.dirichlet(np.full(8, 1.0), 2)
        k = int(rng.integers(2, 6))
        rho = rates.k_seq_factor(p, q, k)
        kept = np.minimum(q, p / rho)
        beta = kept.sum()
        accepted = 1 - (1 - beta) ** k
        residual = p - kept * accepted / beta
        assert residual.min() >= -1e-15
        assert residual == pytest.approx(np.maximum(p - rho * q, 0), abs=1e-12)
        assert rates.k_seq_rate(p, q, k, rho) == pytest.approx(accepted, abs=1e-12)
        smaller = 0.9 * rho
        kept = np.minimum(q, p / smaller)
        if smaller > 1:
            factor = (1 - (1 - kept.sum()) ** k) / kept.sum()
            assert (p - kept * factor).min() < 0


def test_k_seq_above_its_factor_by_listing_the_draws(rng):
    for _ in range(30):
        p, q = rng.dirichlet(np.full(4, 1.0), 2)
        k = 2
        rho = min(k, 1.3 * rates.k_seq_factor(p, q, k))
        kept = np.minimum(q, p / rho)
        residual = p - kept * (1 - (1 - kept.sum()) ** k) / kept.sum()
        residual /= residual.sum()
        expected = 0.0
        for drawn, chance in oracles.with_replacement(q, k).items():
            missed = np.prod([1 - kept[x] / q[x] for x in drawn])
            expected += chance * (1 - missed + missed * residual[list(set(drawn))].sum())
        assert rates.k_seq_rate(p, q, k, rho) == pytest.approx(expected, abs=1e-12)


def test_bounds_between_the_rules(rng):
    for _ in range(300):
        p, q = oracles.laws(rng, int(rng.integers(2, 6)))
        best = optima(p, q, range(1, MOST + 1), "with")
        k_seq, rejection = rates.k_seq(p, q, MOST), rates.multi_round(p, q, MOST)
        factor = np.array([1 - (1 - 1 / k) ** k for k in range(1, MOST + 1)])
        assert (k_seq <= best + 2 * CLOSE).all()
        assert (k_seq >= factor * best - CLOSE).all()
        assert (k_seq >= rejection - 1e-9).all()  # seen always, not proven
        assert (rejection >= rates.walk_with(p, q, MOST) - 1e-12).all()


def test_equal_laws_accept_all(rng):
    p = rng.dirichlet(np.ones(30))
    found = figures(p, p, [1, 3, 5], 4, rng)
    for rule in RULES:
        if rule.name != "walk":
            assert found.rates[rule.label] == pytest.approx([1.0] * 3, abs=1e-9), rule
    assert found.optima["with"] == pytest.approx([1.0] * 3, abs=1e-12)
    assert rates.k_seq_factor(p, p, 4) == 1.0


def test_spectrs_example_of_a_rule_that_does_not_cover():
    p, q = np.array([1.0, 0.0]), np.array([0.5, 0.5])
    assert rates.k_seq(p, q, 2)[1] == pytest.approx(0.75)
    assert optima(p, q, [2], "without")[0] == pytest.approx(1.0)


def test_one_draft_is_one_rule_and_no_rule_beats_its_optimum(rng):
    for temperature in (0.2, 1.0):
        p, q = language(rng, 600, temperature)
        found = figures(p, q, [1, 2, 4, 8], 32, rng)
        for rule in RULES:
            room = 1e-9 if rule.exact else 5 * found.error + 1e-9
            assert (found.rates[rule.label] <= found.optima[rule.scheme] + room).all(), rule
            if rule.name != "walk":
                assert found.rates[rule.label][0] == pytest.approx(np.minimum(p, q).sum())


@pytest.mark.parametrize("slope", [0.002, 0.05, 1.0])
def test_covered_on_laws_of_any_range(rng, slope):
    """Against simulated races of exponential clocks; the tail reaches far below float32."""
    q = np.exp(-slope * np.arange(500.0))
    q /= q.sum()
    p = rng.dirichlet(np.ones(500))
    rings = rng.exponential(size=(4000, 500)) / q
    drawn = np.argsort(rings, axis=1)[:, :5]
    simulated = np.cumsum(p[drawn], axis=1)
    error = simulated.std(axis=0) / np.sqrt(4000)
    assert (np.abs(covered(p, q, 5) - simulated.mean(axis=0)) < 5 * error + 1e-9).all()
    assert covered(p, q, 5)[0] == pytest.approx(p @ q, abs=1e-12)
