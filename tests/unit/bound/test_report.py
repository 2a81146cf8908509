"""Means over positions, their intervals, and the verdicts on the papers' claims."""

from __future__ import annotations

import numpy as np
import pytest

from foretoken.bound.optimum import SCHEMES
from foretoken.bound.report import (
    FAILS,
    GREEDY_BEST,
    HOLDS,
    K_SEQ_ABOVE,
    OPEN,
    BoundReport,
    Collected,
    Means,
    Position,
    panel,
)
from foretoken.bound.table import RULES, Figures
from tests.unit.bound.test_optimum import language


def position(group: int, **rates: float) -> Position:
    """A made-up position with two drafts: 0.5 everywhere but in the rules named (k_seq=...)."""
    labels = {rule.label: rates.get(rule.name.replace("-", "_"), 0.5) for rule in RULES}
    return Position(
        group,
        Figures(
            {scheme: np.array([0.9]) for scheme in SCHEMES},
            {label: np.array([rate]) for label, rate in labels.items()},
            np.array([0.02]),
        ),
    )


def verdicts(found, claim):
    return [ordering.verdict for ordering in found.orderings if ordering.claim == claim]


def test_a_panel_sums_up():
    found = panel(0.5, [2], [position(0, k_seq=0.6), position(1, k_seq=0.8)])
    row = next(rule for rule in found.rows[0].rules if rule.rule == "k-seq")
    assert row.rate.mean == pytest.approx(0.7)
    assert row.gap.mean == pytest.approx(0.2)
    assert row.rate.low == pytest.approx(0.6)
    assert row.rate.high == pytest.approx(0.8)
    simulated = next(rule for rule in found.rows[0].rules if rule.rule == "recursive")
    assert simulated.standard_error == pytest.approx(0.02 / np.sqrt(2))
    assert (found.positions, found.groups, found.temperature) == (2, 2, 0.5)


def test_claims_hold_fail_or_stay_open():
    above = panel(1.0, [2], [position(i, k_seq=0.6) for i in range(8)])
    below = panel(1.0, [2], [position(i, k_seq=0.4) for i in range(8)])
    mixed = panel(1.0, [2], [position(i, k_seq=0.4 + 0.21 * (i % 2)) for i in range(8)])
    found = [verdicts(each, K_SEQ_ABOVE) for each in (above, below, mixed)]
    assert found == [[HOLDS], [FAILS], [OPEN]]
    (ordering,) = (o for o in below.orderings if o.claim == K_SEQ_ABOVE)
    assert (ordering.left_rate, ordering.right_rate) == (0.4, 0.5)
    assert ordering.difference.mean == pytest.approx(-0.1)


def test_greedy_drafting_is_compared_with_the_best_rival():
    found = panel(0.2, [2], [position(i, mixed=0.7, k_seq=0.8) for i in range(4)])
    ordering = next(o for o in found.orderings if o.claim == GREEDY_BEST)
    assert ordering.right == "k-seq, with"
    assert ordering.verdict == FAILS
    assert verdicts(panel(0.2, [1], [position(0)]), GREEDY_BEST) == []


def test_intervals_resample_texts_and_not_positions():
    """A hundred positions of two texts are two observations."""
    values = np.repeat([0.2, 0.8], 50)
    apart, together = Means(range(100)).of(values), Means([0] * 50 + [1] * 50).of(values)
    assert apart.high - apart.low < 0.25
    assert (together.low, together.high) == (pytest.approx(0.2), pytest.approx(0.8))
    alone = Means([3, 3]).of(np.array([0.2, 0.4]))
    assert (alone.mean, alone.low, alone.high) == (pytest.approx(0.3), None, None)


def test_many_groups_are_thrown_together():
    values = np.random.default_rng(7).random(2500)
    found = Means(range(2500)).of(values)
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 50, rel=0.15)


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(5)
    hits = 0
    means = Means(range(40))
    for _ in range(200):
        values = rng.random(40)
        found = means.of(values)
        hits += found.low <= 0.5 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_a_collected_report_is_the_same_again_and_survives_json():
    rng = np.random.default_rng(6)
    pairs = [language(rng, 60) for _ in range(3)]

    def run() -> BoundReport:
        found = Collected([1, 3], seed=4, draws=8)
        for i, (p, q) in enumerate(pairs):
            found.add(0.5, i, 0, p, q)
            found.add(1.0, i, 0, p, q)
        return found.report("a", "b", 60)

    report = run()
    assert BoundReport.model_validate_json(report.model_dump_json()) == report == run()
    assert [panel.temperature for panel in report.panels] == [0.5, 1.0]
    assert [row.drafts for row in report.panels[0].rows] == [1, 3]
    assert not report.interrupted
