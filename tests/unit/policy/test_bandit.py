"""bandit: the two rules by the book, the bound on time, and the best arm in simulated worlds."""

import math
import random
from collections import Counter
from statistics import pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.steps import levels, session, step

from foretoken.policy.bandit import Bandit
from foretoken.policy.pulls import EXPLORE, Pull, Window, exp3, ucb
from foretoken.target.cost import CostCurve
from foretoken.tree import EMPTY
from foretoken.types import Budget

ALGORITHMS = ["ucb", "exp3"]
FLAT = CostCurve(rows=(1, 2), contexts=(1,), seconds=((1.0, 1.0),))
DEAR = CostCurve(rows=(1, 9), contexts=(1,), seconds=((1.0, 3.0),))


def policy(cost=FLAT, **options):
    return Bandit(Bandit.Options(**{"nodes": 64, **options}), cost)


# ------------------------------------------------------------------------------------- the rules

PULLS = st.lists(
    st.builds(Pull, st.integers(0, 3), st.floats(-2, 5), st.floats(0.05, 1.0)),
    min_size=1, max_size=40,
)  # fmt: skip


@given(pulls=PULLS, allowed=st.sets(st.integers(0, 4), min_size=1).map(sorted))
def test_ucb_has_counts_of_every_arm(pulls, allowed):
    counts = Counter(pull.arm for pull in pulls)
    chosen = ucb(Window(500, pulls), allowed)
    if new := [arm for arm in allowed if not counts[arm]]:
        assert chosen == new[0]
        return

    def bound(arm):
        mean = sum(pull.reward for pull in pulls if pull.arm == arm) / counts[arm]
        spread = pstdev(pull.reward for pull in pulls)
        return mean + spread * math.sqrt(2 * math.log(max(len(pulls), 2)) / counts[arm])

    assert bound(chosen) == pytest.approx(max(map(bound, allowed)))


@given(pulls=PULLS, size=st.integers(2, 12))
def test_the_window_knows_its_last_pulls_alone(pulls, size):
    """Running sums are those of the last pulls, counted anew."""
    slid = Window(size, pulls)
    last = pulls[-size:]
    assert list(slid) == last
    rewards = [pull.reward for pull in last]
    assert slid.deviation == pytest.approx(pstdev(rewards), abs=1e-6)
    assert slid.bounds == (min(rewards), max(rewards))
    for arm in range(4):
        mine = [pull for pull in last if pull.arm == arm]
        assert slid.count(arm) == len(mine)
        lost = sum((9.0 - pull.reward) / pull.chance for pull in mine)
        assert slid.shortfall(arm, 9.0) == pytest.approx(lost, abs=1e-9)
        if mine:
            assert slid.mean(arm) == pytest.approx(
                sum(p.reward for p in mine) / len(mine), abs=1e-9
            )


def test_the_released_codes_bonus_would_not_explore():
    """Planted fault: divided by all pulls, the bonus is the same for every arm. An arm that was
    unlucky once, and looks a little worse, is never tried again."""
    pulls = [Pull(0, 1.9), *[Pull(1, 2.0 + i % 2) for i in range(40)]]
    means = {0: 1.9, 1: 2.5}
    assert max(means, key=means.__getitem__) == 1, "the released rule's choice"
    assert ucb(Window(500, pulls), [0, 1]) == 0


@given(pulls=st.just([]) | PULLS, allowed=st.sets(st.integers(0, 4), min_size=1).map(sorted))
def test_exp3_is_a_law_over_the_allowed(pulls, allowed):
    chances = exp3(Window(200, pulls), allowed)
    assert len(chances) == len(allowed)
    assert sum(chances) == pytest.approx(1.0)
    assert min(chances) >= EXPLORE / len(allowed) - 1e-12


def test_exp3_weighs_a_loss_by_its_chance():
    """By hand: losses 0 and 1 / 0.25, rate sqrt(2 ln 2 / (2 x 8))."""
    chances = exp3(Window(8, [Pull(0, 3.0, 0.75), Pull(1, 1.0, 0.25)]), [0, 1])
    weight = math.exp(-4.0 * math.sqrt(2 * math.log(2) / 16))
    assert chances[1] == pytest.approx(0.95 * weight / (1 + weight) + 0.025)


# ------------------------------------------------------------------------------------- the policy


def run(p, s, steps, chance, level, dice=None, rows=0.0):
    """A world: every token stands with a chance; (depth, seconds over a plain step, tokens)."""
    dice, out = dice or random.Random(5), []
    for _ in range(steps):
        budget = p.budget(s)
        depth = min(budget.depth, budget.nodes) if budget.nodes else 0
        stood = 0
        while stood < depth and dice.random() < chance:
            stood += 1
        seconds, draft = 1.0 + rows * depth, level * depth
        tree = levels(depth) if depth else EMPTY
        p.observe(s, step(tree, stood, seconds, draft, budget=budget))
        s.tokens += [0] * (stood + 1)
        out.append((depth, seconds + draft, stood + 1))
    return out


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("level", [0.05, 0.5, 3.0])
def test_every_window_keeps_its_bound_if_nothing_ever_stands(algorithm, level):
    """Brief, check 3, after a good quarter that would hide it: time is at most (1 + slack) x plain
    + allowance + credit, and once what the first trial took beyond its price."""
    slack, allowance, credit = 0.02, 2.0, 4.0
    p = policy(DEAR, algorithm=algorithm, slack=slack, allowance=allowance, credit=credit)
    s, dice = session(), random.Random(2)
    history = run(p, s, 300, 0.9, level, dice, rows=0.25) + run(p, s, 900, 0.0, level, rows=0.25)
    worst = running = 0.0
    for _, seconds, tokens in history:  # the largest sum of any window
        running = max(0.0, running + seconds - (1 + slack) * tokens)
        worst = max(worst, running)
    assert worst <= allowance + credit + level + 1e-6
    late = history[600:]
    assert sum(seconds for _, seconds, _ in late) <= (1 + slack) * len(late) + allowance + credit


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_level_dearer_than_a_token_is_given_up(algorithm):
    """Brief, check 6: from the 20th step on, almost all are plain, although all stands."""
    history = run(policy(algorithm=algorithm, allowance=0.0), session(), 400, 1.0, 1.2)
    assert [depth for depth, _, _ in history[20:]].count(0) > 0.9 * 380


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("chance", "level"), [(0.9, 0.05), (0.6, 0.15), (0.05, 0.4)])
def test_it_comes_near_the_best_arm(algorithm, chance, level):
    """Tokens per second of the second half, against every arm's own."""
    p = policy(algorithm=algorithm, allowance=3.0)
    late = run(p, session(), 2000, chance, level)[800:]
    found = sum(tokens for *_, tokens in late) / sum(seconds for _, seconds, _ in late)

    def rate(k):
        return sum(chance**i for i in range(k + 1)) / (1.0 + level * k)

    best, plain = max(map(rate, p.lengths)), rate(0)
    assert found > plain + (0.7 if algorithm == "ucb" else 0.5) * (best - plain) - 0.02


def test_a_stationary_best_arm_is_pulled_most():
    late = run(policy(allowance=3.0), session(), 2000, 0.9, 0.05)[1000:]
    assert Counter(depth for depth, *_ in late).most_common(1)[0][0] == 8


def test_what_paid_once_is_forgotten():
    p, s = policy(), session()
    run(p, s, 600, 0.9, 0.05)
    assert [depth for depth, *_ in run(p, s, 600, 0.0, 0.3)[300:]].count(0) > 250


def test_only_the_shortest_is_tried_before_a_level_was_measured():
    p, s = policy(), session()
    asked = [p.budget(s).nodes and p.budget(s).depth]
    p.observe(s, step(EMPTY, 0))
    for _ in range(3):
        budget = p.budget(s)
        asked.append(budget.depth if budget.nodes else 0)
        p.observe(s, step(levels(1) if budget.nodes else EMPTY, 0, 1.0, 0.01, budget=budget))
    assert asked[0] == 0
    assert set(asked) == {0, 1}


def test_a_pull_that_the_texts_end_cut_short_is_no_pull():
    p, s = policy(lengths=(4,)), session()
    for _ in range(4):
        budget = p.budget(s)
        whole = step(levels(4) if budget.nodes else EMPTY, 0, 1.0, 0.1, budget=budget)
        p.observe(s, whole)
    before = len(p._arms["stub"].pulls)
    p._held(s).pulled = (4, 1.0)
    p.observe(s, step(levels(2), 2, budget=Budget(64, 2)))
    assert len(p._arms["stub"].pulls) == before
    p._held(s).pulled = (4, 1.0)
    p.observe(s, step(EMPTY, 0, budget=Budget(64, 4)))
    assert p._arms["stub"].pulls.pulls[-1].arm == 4, "a drafter that finds nothing cost its time"


def test_exp3_draws_by_seed_and_position_alone():
    def drawn(seed):
        p, s = policy(algorithm="exp3", allowance=9.0), session(seed=seed)
        out = []
        for n in range(40):
            out += [depth for depth, *_ in run(p, s, 1, 0.5, 0.1, random.Random(n))]
        return out

    assert drawn(1) == drawn(1) != drawn(2)


def test_pulls_are_taken_up_for_the_arms_that_there_are():
    p = policy(lengths=(1, 2), allowance=3.0)
    run(p, session(), 50, 0.9, 0.1)
    twin = policy(lengths=(1,))
    twin.load(p.state())
    kept = [pull for pull in p._arms["stub"].pulls if pull.arm < 2]
    assert list(twin._arms["stub"].pulls) == kept
    assert 0 < len(kept) < 50
    assert policy(None, nodes=6).budget(session()) == Budget(6, 6)
    assert policy(nodes=0).lengths == [0]
