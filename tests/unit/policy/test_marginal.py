"""marginal: takes nodes while they pay, none if none pays, and is not misled by a prompt."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretoken.policy.marginal import Marginal
from foretoken.target.cost import CostCurve
from foretoken.tree import DraftTree

FLAT = CostCurve(rows=(1, 64), contexts=(1,), seconds=((1.0, 1.0),))
STEEP = CostCurve(rows=(1, 64), contexts=(1,), seconds=((1.0, 64.0),))
SESSION = SimpleNamespace(tokens=[0] * 50)


def policy(curve):
    return Marginal(Marginal.Options(nodes=32), curve)


def chain(*q):
    return DraftTree.chain(list(range(len(q))), list(q))


def seen(tree, accepted, fresh=1, tokens=None):
    return SimpleNamespace(
        batch=1, fresh=fresh, tree=tree, context=50, rows=fresh + len(tree),
        committed=SimpleNamespace(tokens=[0] * (accepted + 1 if tokens is None else tokens)),
        verdict=SimpleNamespace(path=range(accepted)), seconds={"draft": 0.0, "target": 1.0},
    )  # fmt: skip


def test_free_nodes_are_all_taken_and_dear_ones_never():
    tree = chain(0.9, 0.9, 0.5)
    assert len(policy(FLAT).cut(SESSION, tree)) == 3
    assert len(policy(STEEP).cut(SESSION, tree)) == 0  # a second row costs a whole plain step


@given(
    q=st.lists(st.floats(0.01, 0.99), min_size=1, max_size=8),
    slope=st.floats(0.0, 1.5),
)
def test_the_choice_is_the_best_of_all(q, slope):
    curve = CostCurve(rows=(1, 64), contexts=(1,), seconds=((1.0, 1.0 + 63 * slope),))
    tree = chain(*q)
    value = [0.0]
    for n, joint in enumerate(tree.joint, 1):
        value.append(value[-1] + joint - slope if n else 0.0)
    taken = len(policy(curve).cut(SESSION, tree))
    assert value[taken] == pytest.approx(max(value), abs=1e-9)


def test_promises_that_are_not_kept_count_less():
    curve = CostCurve(rows=(1, 64), contexts=(1,), seconds=((1.0, 1.0 + 63 * 0.4),))
    tree = chain(0.6)
    strict = policy(curve)
    assert len(strict.cut(SESSION, tree)) == 1
    for _ in range(60):
        strict.observe(SESSION, seen(tree, accepted=0))
    assert strict.calibration < 0.6
    assert len(strict.cut(SESSION, tree)) == 0


def test_reading_a_prompt_does_not_change_the_rate():
    told = policy(FLAT)
    told.observe(SESSION, seen(chain(0.5), accepted=0))
    before = len(told.cut(SESSION, chain(0.3, 0.3))), told._rate(1.0)
    told.observe(SESSION, seen(chain(0.5), accepted=0, fresh=500))
    assert (len(told.cut(SESSION, chain(0.3, 0.3))), told._rate(1.0)) == before


def test_without_a_curve_or_probabilities_the_draft_is_left_alone():
    assert len(policy(None).cut(SESSION, chain(0.1, 0.1))) == 2
    assert len(policy(STEEP).cut(SESSION, DraftTree.chain([1, 2]))) == 2


def test_drafting_comes_back_after_a_hard_text():
    """Where nothing is worth drafting nothing is learned about drafting, so mistrust must fade."""
    curve = CostCurve(rows=(1, 64), contexts=(1,), seconds=((1.0, 1.0 + 63 * 0.4),))
    hurt = policy(curve)
    tree = chain(0.6)
    for _ in range(60):
        hurt.observe(SESSION, seen(tree, accepted=0))
    assert len(hurt.cut(SESSION, tree)) == 0
    for _ in range(200):
        hurt.observe(SESSION, seen(DraftTree(), accepted=0))
    assert len(hurt.cut(SESSION, tree)) == 1
