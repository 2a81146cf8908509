"""What length policies share, and the two that only count: constant and heuristic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.steps import chain, levels, session, step

from foretoken.policy.constant import Constant
from foretoken.policy.heuristic import Heuristic
from foretoken.policy.length import likeliest, spine
from foretoken.tree import EMPTY, DraftTree
from foretoken.types import Budget, Level

MISS, WHOLE = (levels(4), 1), (levels(4), 4)


def heuristic(**options):
    return Heuristic(Heuristic.Options(nodes=64, **options))


def test_constant_never_moves():
    policy, s = Constant(Constant.Options(nodes=7, length=3)), session()
    for outcome in (MISS, WHOLE):
        policy.observe(s, step(*outcome))
        assert policy.budget(s) == Budget(7, 3)


@pytest.mark.parametrize("transient", [False, True])
def test_hugging_faces_trace(transient):
    """Brief, check 5: 5 -> 7 -> 6 -> 5 for (all, miss, miss)."""
    policy, s, trace = heuristic(transient=transient), session(), []
    for outcome in (WHOLE, MISS, MISS):
        trace.append(policy.budget(s).depth)
        policy.observe(s, step(*outcome))
    assert [*trace, policy.budget(s).depth] == [5, 7, 6, 5]


def oracle(outcomes, start, most):
    """`update_candidate_strategy`, word for word, between 1 and a cap."""
    n = start
    for tree, accepted in outcomes:
        n = min(n + 2, most) if accepted == len(tree) else max(1, n - 1)
    return n


@given(outcomes=st.lists(st.sampled_from([MISS, WHOLE]), max_size=40), start=st.integers(1, 12))
def test_heuristic_is_the_original_within_its_cap(outcomes, start):
    policy, s = heuristic(start=start, length=12), session()
    for outcome in outcomes:
        policy.observe(s, step(*outcome))
    assert policy.budget(s).depth == oracle(outcomes, start, 12)


def test_a_length_lives_on_unless_it_is_transient():
    for transient, expected in ((False, 7), (True, 5)):
        policy = heuristic(transient=transient)
        policy.observe(session(), step(*WHOLE))
        assert policy.budget(session()).depth == expected
        assert policy.budget(session("another drafter")).depth == 5
        assert bool(policy.state()) is not transient


def test_a_step_without_a_draft_changes_nothing():
    policy, s = heuristic(), session()
    policy.observe(s, step(EMPTY, 0))
    assert policy.budget(s).depth == 5


def test_a_length_does_not_run_away_from_what_can_be_drafted():
    """Six nodes are six levels at most: after 40 drafts that stood, one miss is seen at once."""
    policy, s = Heuristic(Heuristic.Options(nodes=6)), session()
    for _ in range(40):
        policy.observe(s, step(levels(6), 6))
    policy.observe(s, step(levels(6), 0))
    assert policy.budget(s).depth == 5


def test_a_length_is_taken_up_within_the_options():
    policy = heuristic(length=3)
    policy.load({"lengths": {"stub": 9}})
    assert policy.budget(session()).depth == 3


def test_a_level_is_judged_by_its_likeliest_node():
    assert likeliest(Level(2, [0.9, 0.4, 0.4], [0.1, 0.3, 0.3])) == 1
    tree = DraftTree([1, 2, 3, 4], [-1, -1, 0, 1], [0.7, 0.3, 0.2, 0.6])
    assert spine(tree) == [0.7, 0.6]  # joint 0.14 against 0.18
    assert spine(chain(0.5, 0.25)) == [0.5, 0.25]
    assert spine(EMPTY) == []
