"""The dynamic programme over ranks, against every tree there is."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretoken.draft.shapes import Place
from foretoken.policy.rank_trees import RankTree, RankTrees

Tree = tuple[Any, ...]  # a node is the tuple of its children


@cache
def forests(nodes: int) -> list[Tree]:
    """Every ordered forest of so many nodes."""
    if nodes == 0:
        return [()]
    return [
        (below, *others)
        for first in range(1, nodes + 1)
        for below in forests(first - 1)
        for others in forests(nodes - first)
    ]


def height(forest: Tree) -> int:
    return max((1 + height(below) for below in forest), default=0)


def widest(forest: Tree) -> int:
    return max([len(forest), *map(widest, forest)])


def value(forest: Tree, acceptance: Any) -> float:
    """Expected accepted tokens."""
    return sum(
        a * (1.0 + value(below, acceptance)) for a, below in zip(acceptance, forest, strict=False)
    )


def ranked(forest: Tree, above: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    for rank, below in enumerate(forest):
        yield (*above, rank)
        yield from ranked(below, (*above, rank))


def vectors(seed: int, ranks: int) -> list[float]:
    dice = random.Random(seed)
    found = [dice.random() * dice.random() for _ in range(ranks)]
    return sorted(found, reverse=True) if seed % 2 else found  # counted ones need not fall


def test_there_are_catalan_many_forests() -> None:
    assert [len(forests(n)) for n in range(8)] == [1, 1, 2, 5, 14, 42, 132, 429]


@pytest.mark.parametrize("seed", range(12))
def test_the_programme_equals_brute_force(seed: int) -> None:
    """Every tree of up to 8 nodes with the root, every depth."""
    ranks = 2 + seed % 3
    acceptance = vectors(seed, ranks)
    trees = RankTrees(acceptance, 7, 4)
    for nodes, depth in itertools.product(range(8), range(5)):
        able = [f for f in forests(nodes) if height(f) <= depth and widest(f) <= ranks]
        if not able:
            assert trees.tokens[depth, nodes] == -float("inf")
            with pytest.raises(ValueError, match=f"no tree of {nodes} nodes"):
                trees.tree(nodes, depth)
            continue
        best = max(value(forest, acceptance) for forest in able)
        assert trees.tokens[depth, nodes] == pytest.approx(1.0 + best, abs=1e-12)
        tree = trees.tree(nodes, depth)
        assert len(tree) == nodes
        assert tree.depth <= depth
        matching = [f for f in able if set(ranked(f)) == set(tree.worths)]
        assert len(matching) == 1
        assert value(matching[0], acceptance) == pytest.approx(best, abs=1e-12)


@given(seed=st.integers(0, 500), nodes=st.integers(0, 24))
@settings(max_examples=40)
def test_where_acceptance_falls_the_likeliest_nodes_are_the_best_tree(
    seed: int, nodes: int
) -> None:
    acceptance = sorted(vectors(seed, 4), reverse=True)
    every = [
        value for n in range(1, 5) for ranks in itertools.product(range(4), repeat=n)
        for value in [_product(acceptance, ranks)]
    ]  # fmt: skip
    best = sum(sorted(every, reverse=True)[:nodes])
    assert RankTrees(acceptance, 24, 4).tokens[4, nodes] == pytest.approx(1.0 + best)


def _product(acceptance: list[float], ranks: tuple[int, ...]) -> float:
    out = 1.0
    for rank in ranks:
        out *= acceptance[rank]
    return out


def test_a_later_sibling_pays_for_its_earlier_ones() -> None:
    """Rank 1 never stands, rank 2 often: the heap of likeliest nodes would not get there."""
    trees = RankTrees([0.5, 0.0001, 0.45], 3, 2)
    assert set(trees.tree(2, 2).worths) == {(0,), (0, 0)}
    assert set(trees.tree(3, 1).worths) == {(0,), (1,), (2,)}
    assert trees.tokens[1, 3] == pytest.approx(1.9501)


def test_worths_never_rise_downwards_or_sidewards() -> None:
    tree = RankTree({(0,): 0.4, (1,): 0.9, (0, 0): 0.8, (1, 0): 0.3})
    assert tree.worths == {(0,): 0.4, (1,): 0.4, (0, 0): 0.4, (1, 0): 0.3}
    at = Place(1.0, (1,))
    assert [tree.worth(at, rank, (), None) for rank in (0, 1)] == [0.3, 0.0]
    assert tree.worth(Place(0.1, ()), 1, (), 0.5) == 0.4


@given(seed=st.integers(0, 300), nodes=st.integers(0, 10), depth=st.integers(0, 4))
def test_within_is_a_tree_of_the_worthiest(seed: int, nodes: int, depth: int) -> None:
    whole = RankTrees(vectors(seed, 3), 10, 4).tree(10, 4)
    part = whole.within(nodes, depth)
    assert len(part) <= nodes
    assert part.depth <= depth
    for ranks in part.worths:
        *above, rank = ranks
        assert not above or tuple(above) in part.worths
        assert not rank or (*above, rank - 1) in part.worths
    left = [w for r, w in whole.worths.items() if r not in part.worths and len(r) <= depth]
    assert len(part) == nodes or not left
    assert not left or not len(part) or max(left) <= min(part.worths.values()) + 1e-12


def test_it_raises_for_a_child_without_its_parent_or_earlier_sibling() -> None:
    for worths in ({(0, 0): 1.0}, {(1,): 1.0}):
        with pytest.raises(KeyError):
            RankTree(worths)
