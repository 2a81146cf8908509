"""goodput: against Leviathan's rule, the extremes, steps in the cost, and coming back."""

import random

import pytest
from tests.steps import levels, session, step

from foretoken.policy.goodput import Goodput, _Plan
from foretoken.target.cost import CostCurve
from foretoken.tree import EMPTY
from foretoken.types import Budget


def curve(*seconds):
    """Seconds of 1, 2, 3 ... rows."""
    return CostCurve(rows=tuple(range(1, len(seconds) + 1)), contexts=(1,), seconds=(seconds,))


FLAT = curve(1.0, 1.0)


def policy(cost=FLAT, **options):
    return Goodput(Goodput.Options(**{"nodes": 400, "length": 400, **options}), cost)


def known(alpha, level):
    plan = _Plan(alpha=alpha)
    plan.pace.levels.append(level)
    return plan


def leviathan(alpha, c):
    """Raise g while alpha^(g+1) / c > E(g) / (c g + 1): the best speed-up (brief, rule 1)."""
    g, expected = 0, 1.0
    while alpha ** (g + 1) / c > expected / (c * g + 1):
        g += 1
        expected += alpha**g
    return g


def test_it_is_leviathans_length_where_every_forward_costs_the_same():
    """Brief, check 1, on random cases."""
    dice, rule = random.Random(0), policy(bonus=1.0)
    for _ in range(400):
        alpha, c = dice.uniform(0.05, 0.98), dice.uniform(0.005, 0.9)
        best = rule.best(known(alpha, c), 50)
        assert best == leviathan(alpha, c)
        assert (best > 0) == (alpha > c)


def test_a_plain_step_has_a_bonus():
    """alpha 0.35 over c 0.3 gains 4 %: less than the tenth that drafting must be ahead."""
    assert policy(bonus=1.0).best(known(0.35, 0.3), 50) == 1
    assert policy().best(known(0.35, 0.3), 50) == 0


def test_a_step_in_the_cost_is_crossed_when_it_pays():
    """The first length that is worse is not the last: T rises at once by half, then no more."""
    stepped = curve(1.0, 1.9, *[1.95] * 8)
    rule = policy(stepped, nodes=8, length=8)
    assert rule.best(known(0.9, 0.0), 50) == 8
    assert rule.best(known(0.5, 0.0), 50) == 0


def run(p, s, steps, accepted=None, level=0.0, chance=1.0, dice=None):
    """Steps of a world; the lengths asked for. accepted: None follows the chance."""
    asked = []
    for _ in range(steps):
        budget = p.budget(s)
        depth = budget.depth if budget.nodes else 0
        asked.append(depth)
        stood = 0
        while stood < depth and (chance == 1.0 or (dice and dice.random() < chance)):
            stood += 1
        stood = stood if accepted is None else min(accepted, depth)
        tree = levels(depth) if depth else EMPTY
        p.observe(s, step(tree, stood, 1.0, level * depth, budget=budget))
    return asked


def test_a_perfect_free_draft_goes_to_the_end():
    """Brief, check 6."""
    assert run(policy(length=12), session(), 60)[-1] == 12


def test_a_level_dearer_than_a_token_is_not_drafted():
    """Brief, check 6: 0 within 20 steps, even if all of it stands."""
    asked = run(policy(probe=0), session(), 60, level=1.2)
    assert asked[0] == 1, "somebody has to find out"
    assert set(asked[19:]) == {0}


@pytest.mark.parametrize(("chance", "level"), [(0.3, 0.02), (0.7, 0.05), (0.9, 0.1), (0.5, 0.4)])
def test_it_comes_to_the_best_length(chance, level):
    """Within one of Leviathan's, whatever the rate at the start."""
    dice, p = random.Random(3), policy(bonus=1.0)
    asked = run(p, session(), 2000, level=level, chance=chance, dice=dice)
    assert abs(asked[-1] - leviathan(chance, level)) <= 1
    assert p._plans["stub"].alpha == pytest.approx(chance, abs=0.06)


def test_the_rate_moves_by_what_was_judged():
    """Three of nine stood: 3 were accepted and one rejected, whatever was drafted behind that."""
    p, s = policy(every=1), session()
    run(p, s, 2, accepted=0)
    before = p._plans["stub"].alpha
    p.observe(s, step(levels(9), 3))
    p.budget(s)
    plan = p._plans["stub"]
    assert plan.alpha == pytest.approx(before + 0.15 * (3 / 6 - before)), "two misses before it"


def test_drafting_comes_back():
    p, s = policy(probe=50, every=10), session()
    assert run(p, s, 1500, accepted=0, level=0.3)[-30:].count(0) >= 29
    assert run(p, s, 1500, level=0.3)[-1] > 3


def test_it_plans_for_the_batch():
    """Where eight rows are one forward's worth, a batch of eight has nothing left."""
    cost = curve(*[1.0] * 8, *[1.0 + n for n in range(1, 60)])
    alone, together = policy(cost, nodes=7, length=7), policy(cost, nodes=7, length=7)
    together._batch = 8
    assert alone.best(known(0.8, 0.01), 50) == 7
    assert together.best(known(0.8, 0.01), 50) == 0


def test_without_a_curve_all_is_drafted_and_rates_are_taken_up():
    assert policy(None, nodes=5, length=3).budget(session()) == Budget(5, 3)
    p, twin = policy(every=1), policy(every=1)
    run(p, session(), 30, accepted=0)
    twin.load(p.state())
    assert twin._plans["stub"].alpha == p._plans["stub"].alpha < 0.3
