"""The ROC point of least cost, against trying every threshold by hand."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretoken.policy.roc import best_threshold


def brute(pairs, weight):
    """Every observed score as a threshold, from the highest down; nothing at all comes first."""
    positives = sum(stood for _, stood in pairs)
    best, least = float("inf"), weight  # nothing is called positive: FPR 0, FNR 1
    for threshold in sorted({score for score, _ in pairs}, reverse=True):
        false = sum(score >= threshold and not stood for score, stood in pairs)
        missed = sum(score < threshold and stood for score, stood in pairs)
        cost = false / (len(pairs) - positives) + weight * (missed / positives)
        if cost < least - 1e-12:
            best, least = threshold, cost
    return best


@given(
    pairs=st.lists(
        st.tuples(st.integers(0, 20).map(lambda n: n / 20), st.booleans()), min_size=2, max_size=30
    ),
    weight=st.sampled_from([1.5, 3.0]),
)
def test_it_is_the_least_of_all(pairs, weight):
    if len({stood for _, stood in pairs}) < 2:
        return
    counts = Counter(pairs)
    scores = sorted({score for score, _ in pairs})
    found = best_threshold(
        scores,
        [counts[score, False] for score in scores],
        [counts[score, True] for score in scores],
        weight,
    )
    assert found == brute(pairs, weight)


@pytest.mark.parametrize(("bad", "expected"), [(0.2, 0.6), (0.7, 0.8), (0.99, 0.6)])
def test_a_missed_token_costs_three_times_a_wasted_one(bad, expected):
    """Three tokens stood and one did not: to give one of the three up costs as much as to draft the
    bad one in vain, and of equals the higher threshold is taken."""
    scores = sorted({0.6, 0.8, 0.9, bad})
    stood = [float(s != bad) for s in scores]
    assert best_threshold(scores, [1 - s for s in stood], stood) == expected
