"""pearl-length: the modes, the window, and PEARL's own figures for judged tokens."""

import random

import pytest
from tests.steps import levels, session, step

from foretoken.policy.pearl_length import PearlLength
from foretoken.tree import EMPTY


def policy(**options):
    return PearlLength(PearlLength.Options(nodes=64, **options))


def warm(p, forward, level, s=None):
    s = s or session()
    for _ in range(3):
        p.observe(s, step(levels(2), 0, forward, 2 * level))
    return p


def test_one_until_one_stands_then_the_window():
    p, s, trace = policy(), session(), []
    # the window's draft stands, then it does not, then the one does not, then it does
    for stands in (True, True, True, False, False, True):
        depth = p.budget(s).depth
        trace.append(depth)
        p.observe(s, step(levels(depth), depth if stands else depth - 1, 4.0, 1.0 * depth))
    assert trace == [1, 4, 4, 4, 1, 1]
    assert p.budget(s).depth == 4
    p.observe(s, step(EMPTY, 0))
    assert p.budget(s).depth == 4, "nothing was judged"
    assert p.budget(session()).depth == 1, "every session has its mode"


@pytest.mark.parametrize(
    ("forward", "level", "window"),
    [(1.0, 0.2, 5), (1.0, 0.3, 3), (1.0, 3.0, 1), (1.0, 0.0, 20), (1.0, 0.001, 20)],
)
def test_the_window_is_the_ratio_of_the_speeds(forward, level, window):
    assert warm(policy(), forward, level).window("stub") == window


@pytest.mark.parametrize(("a", "g"), [(0.8, 5), (0.6, 4), (0.9, 5)])
def test_judged_tokens_follow_pearls_rounds(a, g):
    """PEARL's tokens per round are [1/(1-a)] / [1 + a/(1-a^g)] (our notes on pearl, 6), and POST
    brings no token of the target's own. Take these off, and the modes give its figure."""
    dice, p, s = random.Random(1), policy(window=g), session()
    tokens, rounds = 0, 10_000
    for _ in range(rounds):
        depth = p.budget(s).depth
        accepted = 0
        while accepted < depth and dice.random() < a:
            accepted += 1
        tokens += accepted + (accepted < depth)  # where all stand, PEARL has no bonus
        p.observe(s, step(levels(depth), accepted, float(g), float(depth)))
    assert p.window("stub") == g
    assert tokens / rounds == pytest.approx((1 / (1 - a)) / (1 + a / (1 - a**g)), rel=0.03)
