"""`slack`: whatever a published rule asks for, what drafting costs in time keeps its bound."""

import random
from dataclasses import replace

import pytest
from tests.steps import levels, session, step

from foretoken import registry
from foretoken.policy.constant import Constant
from foretoken.policy.fixed import Fixed
from foretoken.policy.guard import STALE, Bounded
from foretoken.policy.rank_trees import RankTree
from foretoken.target.cost import CostCurve
from foretoken.tree import EMPTY
from foretoken.types import Budget

FLAT = CostCurve(rows=(1, 2), contexts=(1,), seconds=((1.0, 1.0),))
DEAR = CostCurve(rows=(1, 9), contexts=(1,), seconds=((1.0, 3.0),))
BOUNDED = [
    n for n in registry.names("policy") if issubclass(registry.find("policy", n).Options, Bounded)
]


def policy(cost=FLAT, **options):
    return Constant(Constant.Options(**{"nodes": 64, "length": 8, "slack": 0.01, **options}), cost)


def played(rule, chance, level, steps=600, requests=6, cost=FLAT):
    """(seconds, tokens) of each step; a level takes `level`, a token stands with `chance`."""
    coins, out, sessions = random.Random(5), [], [session() for _ in range(requests)]
    for n in range(steps):
        s = sessions[n % requests if n < 300 else -1]
        asked = rule.guard.granted(s, rule.budget(s)) if rule.guard else rule.budget(s)
        tree = levels(asked.depth) if asked.nodes else EMPTY
        stands = 0
        while stands < len(tree) and coins.random() < chance:
            stands += 1
        seconds, drafting = cost(1 + len(tree), 1), level * len(tree)
        done = step(tree, stands, seconds, drafting, budget=asked)
        rule.observe(s, done)
        if rule.guard:
            rule.guard.observe(s, done)
        out.append((seconds + drafting, stands + 1))
    return out


def test_without_slack_a_rule_is_as_published():
    assert Constant(Constant.Options(nodes=4), FLAT).guard is None
    assert not Constant.wants_curve(Constant.Options(nodes=4))
    assert Constant.wants_curve(Constant.Options(nodes=4, slack=0.0))


@pytest.mark.parametrize("name", BOUNDED)
def test_every_rule_takes_a_bound(name):
    cls = registry.find("policy", name)
    assert cls(cls.Options(slack=0.01), FLAT).guard is not None


@pytest.mark.parametrize(("cost", "level"), [(FLAT, 0.3), (DEAR, 0.05), (FLAT, 5.0)])
def test_every_window_keeps_its_bound_if_nothing_ever_stands(cost, level):
    """Of all requests together: none loses an allowance of its own. One plain step is allowed (it
    is longer than 0.1 s), 4 are credit, and the first draft's level is dearer than anyone knew."""
    steps = played(policy(cost), 0.0, level, cost=cost)
    once = 1.0 + 4.0 + level
    owed = worst = 0.0
    for seconds, tokens in steps:
        owed = max(owed, 0.0) + seconds - 1.01 * tokens
        worst = max(worst, owed)
    assert worst <= once + 1e-9
    free = played(policy(cost, slack=None), 0.0, level, cost=cost)
    assert sum(s for s, _ in free) > 1.2 * sum(s for s, _ in steps), "what it would have cost"


def test_what_pays_is_left_alone():
    bound, free = (played(policy(slack=s), 0.9, 0.01) for s in (0.01, None))
    pace = [sum(t for _, t in steps) / sum(s for s, _ in steps) for steps in (bound, free)]
    assert pace[0] > 0.95 * pace[1] > 4


def test_a_part_of_a_budget_is_granted():
    """Levels of 0.3 plain steps: three of them fit in one plain step of allowance."""
    rule, s = policy(), session()
    for _ in range(3):
        rule.guard.observe(s, step(levels(2), 2, 1.0, 0.6))
    rule.guard.debt.owed = 0.0
    assert rule.guard.granted(s, Budget(64, 8)) == Budget(64, 3)
    assert rule.guard.granted(s, Budget(64, 2)) == Budget(64, 2)
    assert rule.guard.granted(s, Budget(0)) == Budget(0)


def test_a_bad_moment_is_forgotten():
    rule, s = policy(), session()
    for _ in range(2):
        rule.guard.observe(s, step(levels(1), 0, 1.0, 90.0))
    rule.guard.debt.owed = 0.0
    asked = [rule.guard.granted(s, Budget(64, 8)).nodes for _ in range(STALE + 1)]
    assert asked == [0] * STALE + [64]


def test_a_prompt_is_no_debt_but_what_the_drafter_reads_is():
    rule = policy(slack=0.0)
    rule.guard.observe(session(), step(EMPTY, 0, 400.0, 0.0, fresh=300))
    assert rule.guard.debt.owed == 0.0
    rule.guard.observe(session(), step(levels(1), 0, 400.0, 3.0, fresh=300))
    assert rule.guard.debt.owed == 3.0


def test_a_first_draft_costs_reading():
    """Planted fault: at the price of its levels alone, the first draft of every short request is
    granted, and each costs three plain steps."""
    rule, old = policy(slack=0.0), session()
    for n in range(3):
        rule.guard.observe(old, step(levels(1), 1, 1.0, 0.1 if n else 3.0))
    rule.guard.debt.owed = 0.0
    assert rule.guard.granted(old, Budget(64, 8)).nodes == 64
    assert rule.guard.granted(session(), Budget(64, 8)) == Budget(0)
    rule.guard.debt.owed = -3.0
    assert rule.guard.granted(session(), Budget(64, 8)).nodes == 64


def test_a_settled_shape_is_granted_as_one():
    """Levels that a planned tree has not are not paid for."""
    rule, s = Fixed(Fixed.Options(nodes=64, slack=0.01), FLAT), session()
    for _ in range(3):
        rule.guard.observe(s, step(levels(2), 2, 1.0, 0.6))
    rule.guard.debt.owed = 0.0
    planned = Budget(2, 60, shape=RankTree({(0,): 1.0, (0, 0): 0.5}))
    assert rule.guard.granted(s, planned) == replace(planned, depth=2)
