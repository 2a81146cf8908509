"""Drafts that branch as a shape asks: best trees against brute force, DySpec against its heap, and
that no slot is kept or left out for the token in it."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.draft.test_lm_forms import Rows, growth_joint, least, path_of

from foretoken.draft import shaped as module
from foretoken.draft.growth import Growth
from foretoken.draft.shaped import InTurn, shaped
from foretoken.draft.shapes import Shape
from foretoken.policy.dyspec import Arrival
from foretoken.policy.eagle2_tree import Beam
from foretoken.policy.opt_tree import LikeliestPaths
from foretoken.policy.rank_trees import RankTree
from foretoken.types import Budget

V = 6
TREE = RankTree({(0,): 0.7, (1,): 0.2, (2,): 0.1, (0, 0): 0.5, (0, 1): 0.1, (1, 0): 0.15,
                 (0, 0, 0): 0.3})  # fmt: skip
SHAPES: dict[str, Shape] = {
    "opt-tree": LikeliestPaths(0.2), "eagle2-tree": Beam(3), "dyspec": Arrival(),
    "dyspec, threshold": Arrival(0.05), "sequoia": TREE,
}  # fmt: skip
KINDS = ("point", "without_replacement", "sampled")
PAIRS = [(n, k) for n in SHAPES for k in KINDS if SHAPES[n].settled or k != "sampled"]
pairs = pytest.mark.parametrize(("name", "kind"), PAIRS)


def grow(
    shape: Shape, kind: Any, rows: Any, budget: Budget, seed: int = 0, greedy: bool = False,
    eos: Any = (),
) -> Growth:  # fmt: skip
    asked = Budget(budget.nodes, budget.depth, budget.min_prob, shape=shape)
    growth = shaped(kind, asked, torch.Generator().manual_seed(seed), greedy, eos)
    while growth.frontier:
        assert growth.frontier == sorted(set(growth.frontier))
        growth.grow(torch.stack([rows(path_of(growth, node)) for node in growth.frontier]))
    return growth


# --- laws of all shapes and kinds ----------------------------------------------------------------


@pairs
@settings(max_examples=40)
@given(
    budget=st.builds(
        Budget, st.integers(0, 16), st.integers(0, 4), st.sampled_from([0.0, 0.0, 0.05, 0.3])
    ),
    seed=st.integers(0, 99), banned=st.integers(0, V - 1), greedy=st.booleans(),
    eos=st.sets(st.integers(0, V - 1), max_size=2),
)  # fmt: skip
def test_laws(
    name: str, kind: Any, budget: Budget, seed: int, banned: int, greedy: bool, eos: set[int]
) -> None:
    rows = Rows(seed, banned)
    tree = grow(SHAPES[name], kind, rows, budget, seed, greedy, eos).tree()
    assert tree.kind == kind
    assert len(tree) <= budget.nodes
    assert tree.depth <= budget.depth
    if budget.nodes and budget.depth and not budget.min_prob:
        assert len(tree)
    for at in range(-1, len(tree)):
        below, path = tree.children[at + 1], tuple(tree.tokens[i] for i in tree.path(at))
        tokens = [tree.tokens[i] for i in below]
        assert len(set(tokens)) == len(tokens), "a token is drafted once"
        assert all(rows(path)[t] > -math.inf for t in tokens)
        ended = at >= 0 and (tree.tokens[at] in eos or growth_joint(tree, rows, at) < least(budget))
        assert not (ended and below)
    drawn = not greedy and kind != "point"
    assert (tree.dist is not None) == (drawn and len(tree) > 0)
    for i in range(len(tree)):
        row = rows(tuple(tree.tokens[j] for j in tree.path(tree.parents[i]))).exp()
        assert tree.q[i] == pytest.approx(float(row[tree.tokens[i]]), abs=1e-6)
        if drawn:
            assert torch.equal(tree.dist[tree.dist_row[i]], row), "the row that was drawn from"
        else:
            assert growth_joint(tree, rows, i) >= least(budget)


@pairs
def test_same_seed_same_tree_and_greedy_uses_no_chance(name: str, kind: Any) -> None:
    rows, budget = Rows(1), Budget(9, 4)
    made = [grow(SHAPES[name], kind, rows, budget, seed).tree() for seed in (*range(8), 0)]
    assert (made[0].tokens, made[0].parents) == (made[-1].tokens, made[-1].parents)
    assert (len({tree.tokens for tree in made}) > 1) == (kind != "point")
    chosen = [grow(SHAPES[name], kind, rows, budget, seed, True) for seed in range(3)]
    point = grow(SHAPES[name], "point", rows, budget).tree()
    assert {(g.tree().tokens, g.tree().parents) for g in chosen} == {(point.tokens, point.parents)}
    fresh = torch.Generator().manual_seed(0)
    assert torch.equal(chosen[0].generator.get_state(), fresh.get_state())


@pairs
@pytest.mark.parametrize("greedy", [True, False])
def test_a_vocabulary_of_one(name: str, kind: Any, greedy: bool) -> None:
    tree = grow(SHAPES[name], kind, lambda _: torch.zeros(1), Budget(9, 3), 0, greedy).tree()
    assert tree.depth == 3
    assert len(tree) == 3, "a row that is sure of one token gives one child"


# --- opt-tree and eagle2-tree against brute force ------------------------------------------------


def paths(rows: Any, vocab: int, depth: int) -> dict[tuple[int, ...], float]:
    """Joint probability of every path."""
    out = {}
    for n in range(1, depth + 1):
        for path in itertools.product(range(vocab), repeat=n):
            out[path] = math.exp(sum(float(rows(path[:i])[t]) for i, t in enumerate(path)))
    return out


@given(seed=st.integers(0, 80), nodes=st.integers(1, 16))
@settings(max_examples=30)
def test_without_a_threshold_opt_tree_is_the_best_of_all_trees(seed: int, nodes: int) -> None:
    rows = Rows(seed, vocab=4, sharp=0.7)
    tree = grow(LikeliestPaths(0.0), "point", rows, Budget(nodes, 3)).tree()
    joint = paths(rows, 4, 3)
    assert len(tree) == nodes
    assert sum(tree.joint) == pytest.approx(sum(sorted(joint.values())[-nodes:]))


@given(seed=st.integers(0, 200), nodes=st.integers(1, 12), threshold=st.floats(0.0, 1.0))
@settings(max_examples=60)
def test_opt_tree_stops_where_the_best_sum_stops_growing(
    seed: int, nodes: int, threshold: float
) -> None:
    """Against the best n nodes of every depth, exhaustively."""
    rows = Rows(seed, vocab=4, sharp=1.5)
    joint, best, depth = paths(rows, 4, 4), [0.0], 0
    for depth in (1, 2, 3, 4):
        known = sorted((j for path, j in joint.items() if len(path) <= depth), reverse=True)
        best.append(sum(known[:nodes]))
        if best[-1] - best[-2] <= threshold:
            break
    tree = grow(LikeliestPaths(threshold), "point", rows, Budget(nodes, 4)).tree()
    assert sum(tree.joint) == pytest.approx(best[-1], abs=1e-6)
    assert tree.depth <= depth


def test_opt_tree_keeps_the_level_that_brought_too_little() -> None:
    row = torch.tensor([0.6, 0.3, 0.1]).log()
    tree = grow(LikeliestPaths(0.5), "point", lambda _: row, Budget(3, 9)).tree()
    # one level: 1.0; two: 0.6 + 0.36 + 0.3 = 1.26, which is 0.26 more and ends it
    assert sorted(tree.joint) == pytest.approx([0.3, 0.36, 0.6])
    tree = grow(LikeliestPaths(0.2), "point", lambda _: row, Budget(3, 9)).tree()
    assert sorted(tree.joint) == pytest.approx([0.3, 0.36, 0.6])  # three levels: no better
    tree = grow(LikeliestPaths(1.1), "point", lambda _: row, Budget(3, 9)).tree()
    assert tree.depth == 1


@given(seed=st.integers(0, 80), nodes=st.integers(1, 14), k=st.integers(1, 3))
@settings(max_examples=40)
def test_eagle2_is_its_definition(seed: int, nodes: int, k: int) -> None:
    """All levels grown, k^2 candidates each, then the best of the pool."""
    rows = Rows(seed, vocab=5, sharp=1.2)
    pool: dict[tuple[int, ...], float] = {}
    frontier: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(3):
        level = {}
        for path, joint in frontier.items():
            values, ids = rows(path).topk(k)
            for value, token in zip(values.tolist(), ids.tolist(), strict=True):
                level[(*path, token)] = joint * math.exp(value)
        pool |= level
        frontier = dict(sorted(level.items(), key=lambda item: -item[1])[:k])
    best = sorted(pool, key=lambda path: -pool[path])[:nodes]
    tree = grow(Beam(k), "point", rows, Budget(nodes, 3)).tree()
    assert {tuple(tree.tokens[i] for i in tree.path(n)) for n in range(len(tree))} == set(best)


def test_saturated_probabilities_leave_no_child_without_its_parent() -> None:
    """Ties all over: a sure row gives every path probability 1."""
    sure = torch.tensor([0.0, -math.inf, -math.inf])
    tree = grow(Beam(3), "point", lambda _: sure, Budget(2, 5)).tree()
    assert (tree.tokens, tree.parents) == ((0, 0), (-1, 0))
    flat = torch.full((3,), 1 / 3).log()
    tree = grow(Beam(3), "point", lambda _: flat, Budget(7, 2)).tree()
    assert len(tree) == 7
    assert [tree.parents.count(i) for i in range(-1, 3)] == [3, 3, 1, 0]


def test_levels_that_cannot_enter_are_not_read() -> None:
    growth = shaped("point", Budget(2, 9, shape=LikeliestPaths()), torch.Generator(), True)
    growth.grow(torch.tensor([[0.6, 0.3, 0.1]]).log())
    assert growth.frontier == [0], "below 0.3 nothing is as likely as 0.3"
    growth = shaped("point", Budget(9, 9, shape=TREE), torch.Generator(), True)
    growth.grow(torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log())
    assert growth.frontier == [0, 1], "a leaf of the settled tree needs no row"


# --- drawn drafts --------------------------------------------------------------------------------


class Told:
    """Stands in for `Turns`: the draw of a slot is a function of its path and rank alone, but where
    it is told to draw anew."""

    above: list[tuple[int, ...]] = []
    anew: dict[tuple[tuple[int, ...], int], int] = {}
    seed = 0

    def __init__(self, rows: torch.Tensor, generator: Any) -> None:
        self.rows, self.paths = rows.double(), list(Told.above)

    def _drawn(self, row: int, rank: int) -> tuple[list[int], list[float]]:
        mass, tokens, left = self.rows[row].tolist(), [], [1.0]
        for j in range(rank + 1):
            key = (self.paths[row], j)
            dice = random.Random(hash((Told.seed, key, Told.anew.get(key, 0))))
            (token,) = dice.choices(range(len(mass)), mass) if sum(mass) > 0 else (0,)
            tokens.append(token)
            mass[token] = 0.0
            left.append(sum(mass))
        return tokens, left

    def token(self, row: int, rank: int) -> int:
        return self._drawn(row, rank)[0][rank]

    def left(self, row: int, rank: int) -> float:
        return self._drawn(row, rank)[1][rank]


Slots = set[tuple[tuple[int, ...], int]]


def told(
    shape: Shape, rows: Any, budget: Budget, seed: int, anew: Any = (), made: Any = InTurn
) -> tuple[Slots, Slots]:
    """Slots as (path above, rank): those of the draft, and all that were drawn on the way."""
    Told.seed, Told.anew = seed, dict(anew)
    growth = made("without_replacement", shape, budget, torch.Generator(), False)
    while growth.frontier:
        Told.above = [path_of(growth, node) for node in growth.frontier]
        growth.grow(torch.stack([rows(path) for path in Told.above]))
    every = [
        (path_of(growth, growth.parents[n]), growth._ranks[n][-1])
        for n in range(len(growth.tokens))
    ]
    return {every[n] for n in growth._best}, set(every)


class Wide(LikeliestPaths):
    """Of each level two nodes go on."""

    width = 2


BY_TOKENS = {**SHAPES, "narrow": Wide()}


def swayed(
    shape: Shape, rows: Any, budget: Budget, seed: int, made: Any = InTurn, tries: int = 1
) -> int:
    """Slots that come or go when another token is drawn in them."""
    kept, every = told(shape, rows, budget, seed, made=made)
    return sum(
        (slot in told(shape, rows, budget, seed, {slot: again}, made)[0]) != (slot in kept)
        for slot in every for again in (1, 2)[:tries]
    )  # fmt: skip


@pytest.fixture
def by_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Turns", Told)


@pytest.mark.parametrize("name", BY_TOKENS)
@pytest.mark.usefixtures("by_path")
def test_no_slot_is_kept_or_left_out_for_its_own_token(name: str) -> None:
    for seed in range(8):
        rows = Rows(seed, vocab=8, sharp=1.5)
        for budget in (Budget(5, 3), Budget(8, 4), Budget(8, 4, 0.02)):
            assert swayed(BY_TOKENS[name], rows, budget, seed) == 0


class OfJoint(InTurn):
    """Fault: who goes on is chosen by the probability of what was drawn."""

    def _select(self, start: int) -> None:
        width, self.shape.width = self.shape.width, 1 << 30
        super()._select(start)
        self.shape.width = width
        self.frontier = sorted(sorted(self.frontier, key=lambda n: -self.joint[n])[:width])


class Stopping(InTurn):
    """Fault: drawn drafts end by their sum, too."""

    def grow(self, logprobs: torch.Tensor) -> None:
        before = self._total()
        super().grow(logprobs)
        if self.frontier and not self.shape.goes_on(before, self._total()):
            self.stop()


class Free(InTurn):
    """Fault: a child may be worth more than the slot that its parent stands in."""

    def _select(self, start: int) -> None:
        for node in range(start, len(self.tokens)):
            self._worths[node] = max(self._worths[node], math.exp(self.joint[node]))
        super()._select(start)


@pytest.mark.usefixtures("by_path")
@pytest.mark.parametrize(
    ("fault", "shape", "depth", "seeds"),
    [(OfJoint, Wide(), 4, (9, 10)), (Free, LikeliestPaths(), 4, (0, 1, 2)),
     (Stopping, LikeliestPaths(0.2), 6, (4,))],
)  # fmt: skip
def test_a_slot_that_its_own_token_sways_is_seen(
    fault: type[InTurn], shape: Shape, depth: int, seeds: Any
) -> None:
    """Rare as some of these are, they can be; the same drafts grow without a fault otherwise."""
    rows, budget = [Rows(seed, vocab=6, sharp=3.0) for seed in seeds], Budget(8, depth)
    both = [
        [swayed(shape, row, budget, seed, made, 2) for row, seed in zip(rows, seeds, strict=True)]
        for made in (InTurn, fault)
    ]
    assert sum(both[0]) == 0 < sum(both[1])


def heap_of_dyspec(rows: Any, nodes: int, depth: int, seed: int, least: float = 0.0) -> Slots:
    """DySpec as written: one slot after the other from a heap, each with a forward of its own."""
    Told.seed, Told.anew = seed, {}
    out: Slots = set()
    # (-value, order of arrival, path above, rank, share of the row that is left)
    heap: list[Any] = [(-1.0, 0, (), 0, 1.0)]
    order = 0
    while heap and len(out) < nodes:
        negative, _, path, rank, left = heapq.heappop(heap)
        value = -negative
        if value < least:
            break
        out.add((path, rank))
        Told.above = [path]
        row = rows(path).exp()[None]
        token = Told(row, None).token(0, rank)
        q = float(row[0, token]) / left
        order += 1
        if len(path) + 1 < depth:
            heapq.heappush(heap, (-value * q, order, (*path, token), 0, 1.0))
        if (rest := left - float(row[0, token])) > 1e-6:
            heapq.heappush(heap, (-value * (1 - q), order, path, rank + 1, rest))
    return out


@pytest.mark.usefixtures("by_path")
@pytest.mark.parametrize(("nodes", "least"), [(1, 0.0), (6, 0.0), (15, 0.0), (60, 0.08)])
def test_dyspec_level_by_level_is_its_heap(nodes: int, least: float) -> None:
    for seed in range(25):
        rows = Rows(seed, vocab=7, sharp=1.5)
        kept, every = told(Arrival(least), rows, Budget(nodes, 4), seed)
        assert kept == heap_of_dyspec(rows, nodes, 4, seed, least)
        assert kept <= every


def test_the_value_of_a_slot_is_the_chance_to_arrive_there() -> None:
    """If each draw is accepted with the probability that it was drawn with: expected accepted
    tokens are the sum of v q over all slots, here counted node by node."""
    for seed in range(10):
        rows = Rows(seed, vocab=5, sharp=1.0)
        growth = grow(Arrival(), "without_replacement", rows, Budget(12, 3), seed)
        assert isinstance(growth, InTurn)
        tree, arrive, accepted = growth.tree(), {-1: 1.0}, 0.0
        worth = [growth._worths[node] for node in growth._best]
        for at in range(-1, len(tree)):
            here = arrive.pop(at)  # chance that verification has accepted this node
            path = tuple(tree.tokens[i] for i in tree.path(at))
            left = 1.0
            for child in tree.children[at + 1]:
                assert worth[child] == pytest.approx(here, rel=1e-4)
                q = float(rows(path).exp()[tree.tokens[child]]) / left
                arrive[child] = here * q
                here, left = here * (1 - q), left * (1 - q)
                accepted += arrive[child]
        assert accepted == pytest.approx(sum(tree.joint), rel=1e-4)


@pytest.mark.parametrize("kind", ["point", "without_replacement"])
def test_policies_may_stop_fixed_and_settled_drafts_only(kind: Any) -> None:
    def never(level: Any) -> bool:
        return False

    asked = Budget(9, 3, go_on=never, shape=LikeliestPaths())
    growth = shaped(kind, asked, torch.Generator(), False)
    assert (growth.budget.go_on is never) == (kind == "point")
    growth = shaped(kind, Budget(9, 3, go_on=never, shape=TREE), torch.Generator(), False)
    assert growth.budget.go_on is never


@given(seed=st.integers(0, 60), nodes=st.integers(1, 9), depth=st.integers(1, 4))
def test_a_settled_tree_is_cut_to_its_worthiest_part(seed: int, nodes: int, depth: int) -> None:
    tree = grow(TREE, "without_replacement", Rows(seed), Budget(nodes, depth), seed).tree()
    low = sorted((r for r in TREE.worths if len(r) <= depth), key=lambda r: -TREE.worths[r])
    assert len(tree) == min(nodes, len(low))
    counts = sorted(len(tree.children[i + 1]) for i in range(-1, len(tree)))
    inner = [r[:-1] for r in low[:nodes]]
    expected = [inner.count(r) for r in {*inner, *low[:nodes], ()}]
    assert counts == sorted(expected)


def test_independent_draws_end_with_the_budget_even_if_the_shape_does_not() -> None:
    class Endless(Shape):
        settled = True

        def worth(self, at: Any, rank: int, likeliest: Any, left: Any) -> float:
            return 1.0 / (1 + rank)

    tree = grow(Endless(), "sampled", Rows(3), Budget(7, 3)).tree()
    assert len(tree.draws.nodes) <= 7
    assert tree.depth <= 3
