"""The controller of Draft & Verify, and the two rules that use it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.steps import chain, level, levels, session, step

from foretoken.policy.adaedl import AdaEdl
from foretoken.policy.draft_verify import DraftVerify
from foretoken.policy.threshold import Threshold
from foretoken.tree import EMPTY

CAP = 8


def original(steps, threshold):
    """decoding.py, line by line, with its auto_parameters [1, 0.5, 0.9, 1e-2, 0.9]."""
    matchness = 0.0
    for matched, drafted in steps:
        matchness = 0.5 * matchness + (1 - 0.5) * (matched / drafted)
        if matchness < 0.9:
            new = threshold + 1e-2
        elif drafted == CAP:
            new = threshold
        else:
            new = threshold - 1e-2
        threshold = 0.9 * threshold + (1 - 0.9) * new
    return threshold


@given(
    steps=st.lists(st.integers(1, CAP).flatmap(
        lambda n: st.tuples(st.integers(0, n) | st.just(n), st.just(n))
    ), max_size=60),
    start=st.floats(0.3, 0.7),
)  # fmt: skip
def test_it_moves_as_the_original(steps, start):
    held = Threshold(start)
    for matched, drafted in steps:
        held.fired = drafted < CAP  # nothing but the threshold and the cap ends a draft there
        held.observe(matched, drafted)
    assert held.value == pytest.approx(original(steps, start), abs=1e-12)


def test_it_stays_within_its_range_and_ignores_empty_drafts():
    low, high = Threshold(0.001), Threshold(0.999)
    for _ in range(500):
        low.fired = True
        low.observe(3, 3)
        high.observe(0, 3)
    assert (low.value, high.value) == (0.0, 1.0)
    high.observe(0, 0)
    assert high.value == 1.0


def test_draft_verify_starts_as_published():
    policy = DraftVerify(DraftVerify.Options(nodes=64))
    greedy, sampled = session(), session(temperature=0.7)
    assert policy.budget(greedy).depth == CAP
    assert policy.go_on(greedy, level(0.8))
    assert not policy.go_on(greedy, level(0.79))
    assert policy.go_on(sampled, level(0.5))
    assert not policy.go_on(sampled, level(0.49))
    given = DraftVerify(DraftVerify.Options(threshold=0.3))
    assert given.go_on(session(), level(0.3))


def run(policy, s, tree, accepted, stop):
    """A step in which the policy was asked once, about a level that stops or not."""
    policy.budget(s)
    assert (
        policy.go_on(s, level(*([0.01] if stop else [0.99]), nats=[5.0 if stop else 0.0])) != stop
    )
    policy.observe(s, step(tree, accepted))


@pytest.mark.parametrize("cls", [DraftVerify, AdaEdl])
def test_the_threshold_seeks_a_share_that_stands(cls):
    policy = cls(cls.Options(nodes=64, threshold=0.5))
    bad, good, whole = session(), session(), session()
    for _ in range(300):
        run(policy, bad, levels(4), 1, stop=True)
        run(policy, good, levels(4), 4, stop=True)
        run(policy, whole, levels(8), 8, stop=False)
    assert policy.threshold(bad).value > 0.7
    assert policy.threshold(good).value < 0.3
    # raised while the share was unknown, then left alone: only the cap ended these drafts
    assert 0.5 < policy.threshold(whole).value < 0.51
    before = policy.threshold(bad).value
    policy.budget(bad)
    policy.observe(bad, step(EMPTY, 0))
    assert policy.threshold(bad).value == before


@pytest.mark.parametrize("nats", [0.0, 0.7, 1.79, 1.81, 3.0])
def test_adaedl_stops_by_its_estimate(nats):
    policy, s = AdaEdl(AdaEdl.Options(nodes=64)), session()
    assert policy.go_on(s, level(0.2, nats=[nats])) is (1 - math.sqrt(0.2 * nats) >= 0.4)


def test_adaedl_looks_at_the_row_of_the_likeliest_node():
    policy, s = AdaEdl(AdaEdl.Options()), session()
    two = level(0.2, 0.5, nats=[9.0, 0.1])
    two.parents[1] = 1
    assert policy.go_on(s, two)
    two.parents[1] = 0
    assert not policy.go_on(s, two)


def test_sessions_have_thresholds_of_their_own():
    policy = DraftVerify(DraftVerify.Options(nodes=64))
    policy.observe(session(), step(chain(0.9), 0))
    assert policy.threshold(session()).value == 0.8
    assert policy.state() == {}
