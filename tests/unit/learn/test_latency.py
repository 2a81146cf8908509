"""Latency: the curve where nothing is known, the median of what was seen, never falling."""

import itertools

from foretoken.learn.latency import KEPT, Latency
from foretoken.target.cost import CostCurve

CURVE = CostCurve(rows=(1, 64), contexts=(1,), seconds=((1.0, 2.0),))


def test_without_samples_it_is_the_curve():
    assert Latency(CURVE)(1, 50) == 1.0
    assert Latency(CURVE)(64, 50) == 2.0


def test_a_slower_machine_is_known_soon():
    latency = Latency(CURVE)
    for _ in range(KEPT):
        latency.observe(1, 50, 3.0)
    assert latency(1, 50) == 3.0
    assert latency(64, 50) == 6.0  # no samples there: the drift of all


def test_one_slow_step_changes_nothing():
    latency = Latency(CURVE)
    for i in range(32):
        latency.observe(1, 50, 100.0 if i == 7 else 1.0)
    assert latency(1, 50) == 1.0


def test_buckets_are_corrected_apart_and_never_fall():
    latency = Latency(CURVE)
    for _ in range(32):
        latency.observe(8, 50, CURVE(8) * 4)
        latency.observe(1, 50, 1.0)
        latency.observe(64, 50, 1.0)  # a bucket that seems cheaper than a smaller one
    line = latency.line(50, 64)
    assert line[8] > 3.9
    assert all(a <= b for a, b in itertools.pairwise(line))


def test_nonsense_is_ignored_and_long_prompts_are_answered():
    latency = Latency(CURVE)
    latency.observe(1, 50, 0.0)
    assert latency(1, 50) == 1.0
    assert latency(5000, 50) > latency(64, 50)
