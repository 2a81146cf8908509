"""Intervals of ratios: as wide as prompts differ, and right as often as they say."""

import numpy as np
import pytest

from foretoken.bench.bootstrap import ratio_interval


def test_what_is_twice_as_fast_everywhere_has_no_spread():
    theirs = [(10.0, 1.0), (30.0, 4.0), (5.0, 2.0)]
    ours = [(tokens, seconds / 2) for tokens, seconds in theirs]
    assert ratio_interval(ours, theirs) == pytest.approx((2.0, 2.0))


def test_pairs_matter():
    """The same speeds, but paired otherwise: prompts that are slow for one are fast for the other."""
    theirs = [(10.0, s) for s in (1.0, 2.0, 3.0, 4.0)]
    paired = ratio_interval([(10.0, s / 2) for s in (1.0, 2.0, 3.0, 4.0)], theirs)
    crossed = ratio_interval([(10.0, s / 2) for s in (4.0, 3.0, 2.0, 1.0)], theirs)
    assert paired is not None
    assert crossed is not None
    assert crossed[1] - crossed[0] > 10 * (paired[1] - paired[0])


def test_the_truth_is_inside_as_often_as_it_says():
    rng, inside = np.random.default_rng(1), 0
    for trial in range(200):
        seconds = rng.uniform(1, 3, 40)
        theirs = [(10.0, float(s)) for s in seconds]
        gains = rng.gamma(16, 1 / 16, 40) * 1.5
        ours = [(10.0, float(s / r)) for s, r in zip(seconds, gains, strict=True)]
        low, high = ratio_interval(ours, theirs, seed=trial) or (0.0, 0.0)
        # 1 / E[1 / r] for a gamma law of shape 16 and mean 1.5
        inside += low <= 1.5 * 15 / 16 <= high
    assert 0.88 <= inside / 200 <= 0.99


def test_one_prompt_has_none():
    assert ratio_interval([(1.0, 1.0)], [(1.0, 1.0)]) is None
    with pytest.raises(ValueError, match="1 and 2"):
        ratio_interval([(1.0, 1.0)], [(1.0, 1.0)] * 2)
