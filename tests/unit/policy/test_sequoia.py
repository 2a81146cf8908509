"""sequoia: counts by rank, plans by tokens per second, plain decoding where nothing pays."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace
from typing import Any

import pytest

from foretoken.policy.sequoia import Counts, Sequoia
from foretoken.target.cost import CostCurve
from foretoken.tree import EMPTY, DraftTree

FLAT = CostCurve(rows=(1, 128), contexts=(1,), seconds=((1.0, 1.0),))
STEEP = CostCurve(rows=(1, 128), contexts=(1,), seconds=((1.0, 128.0),))
STEPPED = CostCurve(rows=(1, 8, 9, 128), contexts=(1,), seconds=((1.0, 1.0, 4.0, 4.0),))


def policy(curve: CostCurve | None = FLAT, **options: Any) -> Sequoia:
    return Sequoia(Sequoia.Options(**{"nodes": 16, **options}), curve)


def session(name: str = "lm", temperature: float = 0.0) -> Any:
    return SimpleNamespace(
        tokens=[0] * 50, drafter=SimpleNamespace(name=name),
        request=SimpleNamespace(sampling=SimpleNamespace(temperature=temperature)),
    )  # fmt: skip


def step(
    tree: DraftTree, path: tuple[int, ...] = (), bonus: int = 99, drafting: float = 0.0
) -> Any:
    return SimpleNamespace(
        tree=tree, verdict=SimpleNamespace(path=path, bonus=bonus), batch=1, fresh=1, prompts=0, context=50,
        rows=1 + len(tree), seconds={"draft": drafting, "target": 1.0},
    )  # fmt: skip


# --- what is counted -----------------------------------------------------------------------------


def test_who_stood_is_counted_by_rank_at_every_node_that_was_reached() -> None:
    #        root: 5, 6, 7    below 6: 8, 9    below 9: 1
    tree = DraftTree([5, 6, 7, 8, 9, 1], [-1, -1, -1, 1, 1, 4])
    counts = Counts()
    counts.learn(tree, [6, 9, 3])
    assert counts.stood == pytest.approx([0.0, 2.0, 0.0], abs=0.01)
    assert counts.tried == pytest.approx([3.0, 2.0, 1.0], abs=0.02)


def test_equal_draws_are_one_node_and_the_second_can_never_stand() -> None:
    twice = DraftTree([5], [-1], [0.5], "sampled", None, (), (), [0, 0], [-1, -1])
    counts = Counts()
    counts.learn(twice, [5, 1])
    assert (counts.tried, counts.stood) == ([1.0, 1.0], [1.0, 0.0])


def test_a_step_without_a_draft_teaches_nothing() -> None:
    counts = Counts()
    counts.learn(EMPTY, [4])
    assert counts.tried == []


def test_estimates_come_near_what_is_so_and_sum_to_one_at_most() -> None:
    counts = Counts()
    tree = DraftTree([0, 1, 2], [-1, -1, -1])
    for i in range(2000):
        counts.learn(tree, [(0, 0, 0, 0, 0, 1, 1, 2, 9, 9)[i % 10]])
    found = counts.acceptance(6)
    assert found[:3] == pytest.approx([0.5, 0.2, 0.1], abs=0.03)
    assert all(0.0 < later < 0.1 for later in found[3:])
    assert sum(found) <= 1.0
    always = Counts([100.0], [100.0])
    assert sum(always.acceptance(32)) <= 1.0
    assert min(always.acceptance(32)) > 0.0


# --- what is planned -----------------------------------------------------------------------------


def test_given_acceptance_gives_the_tree_of_the_paper() -> None:
    """Free nodes and free levels: all of them are used, as the products say."""
    budget = policy(nodes=6, depth=3, acceptance=(0.6, 0.3), curve=None).budget(session())
    assert set(budget.shape.worths) == {(0,), (0, 0), (0, 0, 0), (1,), (0, 1), (1, 0)}
    assert (budget.nodes, budget.depth) == (6, 3)


def test_the_size_is_where_tokens_per_second_are_most() -> None:
    """Eight rows are one price, the ninth costs three steps more."""
    sure = policy(STEPPED, nodes=32, acceptance=(0.7, 0.2), depth=8)
    sure._levels["lm"] = 0.0
    assert sure.budget(session()).nodes == 7
    assert policy(STEEP, acceptance=(0.9,)).budget(session()).nodes == 0


def test_no_plan_is_deeper_than_the_drafter_goes() -> None:
    shallow = session()
    shallow.drafter.options = SimpleNamespace(depth=2)
    budget = policy(nodes=6, acceptance=(0.6, 0.3), curve=None).budget(shallow)
    assert (budget.nodes, budget.depth) == (6, 2)


def test_dear_levels_make_wide_trees() -> None:
    wide, deep = (policy(FLAT, nodes=8, acceptance=(0.5, 0.3, 0.1)) for _ in range(2))
    wide._levels["lm"], deep._levels["lm"] = 1.0, 0.001
    assert wide.budget(session()).depth < deep.budget(session()).depth


@pytest.mark.parametrize(("chances", "depth", "wide"), [((0.9, 0.02), 6, 1), ((0.4, 0.4), 2, 2)])
def test_plans_follow_what_stands(chances: tuple[float, ...], depth: int, wide: int) -> None:
    """Where the first child stands nearly always a chain, where the second as often a tree."""
    learner, dice = policy(FLAT, nodes=6), random.Random(1)
    for _ in range(400):
        ranks = list(learner.budget(session()).shape.worths)
        place = {r: n for n, r in enumerate(ranks)}
        path: tuple[int, ...] = ()
        while (chosen := dice.choices((0, 1, None), (*chances, 1 - sum(chances)))[0]) is not None:
            if (*path, chosen) not in place:
                break
            path = (*path, chosen)
        tree = DraftTree([r[-1] for r in ranks], [place.get(r[:-1], -1) for r in ranks])
        nodes = tuple(place[path[: i + 1]] for i in range(len(path)))
        learner.observe(session(), step(tree, nodes))
    plan = learner.budget(session()).shape
    assert plan.depth == depth
    assert max(ranks[-1] for ranks in plan.worths) + 1 == wide


def test_a_hopeless_drafter_is_left_alone_and_tried_now_and_then() -> None:
    curve = CostCurve(rows=(1, 128), contexts=(1,), seconds=((1.0, 1.0 + 127 * 0.05),))
    hopeless, drafted = policy(curve), []
    for _ in range(600):
        budget = hopeless.budget(session())
        n = budget.nodes
        drafted.append(n)
        tree = DraftTree(range(n), [-1] * n) if n else EMPTY
        hopeless.observe(session(), step(tree, drafting=0.2 * bool(n)))
    assert drafted[0] > 0
    later = drafted[100:]
    assert 5 <= sum(map(bool, later)) <= 25, (
        "a trial of 0.25 steps, a hundredth of the time: every 25"
    )
    assert max(later) == 1


def test_drafters_and_temperatures_are_kept_apart() -> None:
    learner = policy()
    for _ in range(40):
        learner.observe(session("lm", 0.0), step(DraftTree([1], [-1])))
    cold, hot = (learner._world(session("lm", t)).counts.tried for t in (0.0, 1.0))
    assert cold
    assert not hot
    assert not learner._world(session("other", 0.0)).counts.tried


def test_plans_come_soon_and_then_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, planned = policy(replan=16), []
    plan = learner._plan
    monkeypatch.setattr(learner, "_plan", lambda s, w: planned.append(w.steps) or plan(s, w))
    for _ in range(60):
        learner.budget(session())
        learner.observe(session(), step(EMPTY))
    assert planned == [0, 4, 8, 16, 32, 48]


def test_what_was_counted_survives_as_json() -> None:
    learner, twin = policy(), policy()
    learner.observe(session("lm", 0.7), step(DraftTree([1, 2], [-1, -1]), (1,)))
    twin.load(json.loads(json.dumps(learner.state())))
    assert twin.state() == learner.state()
    key = session("lm", 0.7)
    assert twin._world(key).counts == learner._world(key).counts


@pytest.mark.parametrize("wrong", [(0.0,), (1.5,), ()])
def test_acceptance_is_a_chance(wrong: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="acceptance"):
        Sequoia.Options(acceptance=wrong)
