"""What each form of the lm drafter grows: its shape against brute force, its law by enumeration."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.exact.every_draft import drafts, sequences
from tests.unit.draft.test_gumbel import ALARM, p_value
from tests.unit.draft.test_lm_forms import Rows, V, grow

from foretoken.draft.growth import Growth
from foretoken.draft.lm_greedy_k import LikeliestAndDrawn
from foretoken.draft.lm_iid_k import Sequences
from foretoken.draft.lm_rsd_c import Branching, shared
from foretoken.draft.lm_rsd_s import StochasticBeam
from foretoken.draft.lm_sampled import Chain
from foretoken.draft.lm_top_k import BestFirst
from foretoken.types import Budget


def test_chain_of_one_branch_is_the_chain() -> None:
    for seed in range(20):
        chain = grow(Chain, Rows(3), Budget(5, 5), seed).tree()
        alike = grow(Branching, Rows(3), Budget(5, 5), seed, branching=(1,)).tree()
        assert chain.is_chain
        assert chain.tokens == alike.tokens


def test_branching_numbers() -> None:
    tree = grow(Branching, Rows(4), Budget(99, 3)).tree()
    assert [tree.depths.count(d) for d in (1, 2, 3)] == [3, 6, 6]
    tree = grow(Branching, Rows(4), Budget(8, 9)).tree()
    assert [len(tree.children[i + 1]) for i in range(-1, 3)] == [3, 2, 2, 1]
    assert shared(10, 3, 2) == [2, 2, 2]
    assert shared(2, 3, 2) == [1, 1, 0]


def test_beam_is_as_wide_as_it_says() -> None:
    for form in (StochasticBeam, LikeliestAndDrawn):
        tree = grow(form, Rows(5), Budget(11, 9), width=4).tree()
        assert [tree.depths.count(d) for d in (1, 2, 3)] == [4, 4, 3], form


@pytest.mark.parametrize("form", [StochasticBeam, LikeliestAndDrawn])
@given(seed=st.integers(0, 50))
@settings(max_examples=15)
def test_greedy_beam_is_beam_search(form: type[Growth], seed: int) -> None:
    rows = Rows(seed)
    tree = grow(form, rows, Budget(12, 3), greedy=True, width=4).tree()
    beam: dict[tuple[int, ...], float] = {(): 0.0}
    for depth in (1, 2, 3):
        longer = {(*p, t): s + float(rows(p)[t]) for p, s in beam.items() for t in range(V)}
        beam = {p: longer[p] for p in sorted(longer, key=lambda p: -longer[p])[:4]}
        mine = {
            tuple(tree.tokens[i] for i in tree.path(n))
            for n in range(len(tree)) if tree.depths[n] == depth
        }  # fmt: skip
        assert mine == set(beam)


@given(seed=st.integers(0, 50), nodes=st.integers(1, 14), greedy=st.booleans())
@settings(max_examples=20)
def test_a_wide_top_k_is_the_best_tree(seed: int, nodes: int, greedy: bool) -> None:
    """Against the joint probability of every path of three tokens."""
    rows = Rows(seed, vocab=4, sharp=0.7)
    tree = grow(BestFirst, rows, Budget(nodes, 3), greedy=greedy, width=nodes).tree()
    joint = {}
    for depth in (1, 2, 3):
        for path in itertools.product(range(4), repeat=depth):
            joint[path] = math.exp(sum(float(rows(path[:i])[t]) for i, t in enumerate(path)))
    assert len(tree) == nodes
    assert sum(tree.joint) == pytest.approx(sum(sorted(joint.values())[-nodes:]))


def test_a_narrow_top_k_expands_the_likeliest() -> None:
    growth = BestFirst(Budget(10, 3), torch.Generator(), True, width=2)
    rows = Rows(6)
    growth.grow(rows(())[None])
    assert [growth.tokens[n] for n in growth.frontier] == rows(()).topk(2).indices.tolist()


def test_a_full_top_k_asks_for_no_level_that_cannot_enter() -> None:
    growth = BestFirst(Budget(2, 3), torch.Generator(), True)
    growth.grow(torch.tensor([[0.6, 0.3, 0.1]]).log())
    assert growth.frontier == [0], "below 0.3 nothing is as likely as 0.3"


@given(seed=st.integers(0, 200), k=st.integers(1, 5), nodes=st.integers(1, 16))
def test_sequences_keep_their_number(seed: int, k: int, nodes: int) -> None:
    """On every level the draws are one per sequence; equal ones share a node."""
    tree = grow(Sequences, Rows(seed, sharp=3.0), Budget(nodes, 4), seed, sequences=k).tree()
    draws, alive = tree.draws, list(range(len(tree.draws.children[0])))
    k = min(k, nodes)
    assert len(alive) == k
    assert tree.depth == min(4, nodes // k)
    for depth in range(1, tree.depth + 1):
        assert len(alive) == k
        assert {tree.depths[draws.nodes[d]] for d in alive} == {depth}
        for d in alive:
            below = draws.children[d + 1]
            assert all(tree.parents[draws.nodes[c]] == draws.nodes[d] for c in below)
        alive = [c for d in alive for c in draws.children[d + 1]]
    assert set(draws.nodes) == set(range(len(tree)))


@given(seed=st.integers(0, 200), width=st.integers(1, 5))
def test_likeliest_are_fixed_and_one_is_drawn_from_the_rest(seed: int, width: int) -> None:
    rows = Rows(seed, banned=seed % 3)
    tree = grow(LikeliestAndDrawn, rows, Budget(12, 3), seed, width=width).tree()
    for at in range(-1, len(tree)):
        below = tree.children[at + 1]
        if not below:
            continue
        q = rows(tuple(tree.tokens[i] for i in tree.path(at))).exp()
        fixed = [tree.tokens[i] for i in below[1:]]
        assert [tree.dist_row[i] for i in below[1:]] == [-1] * len(fixed)
        assert fixed == q.topk(len(fixed)).indices.tolist()
        rest = q.clone()
        rest[fixed] = 0.0
        law = tree.dist[tree.dist_row[below[0]]]
        assert torch.allclose(law, rest / rest.sum())
        assert law[tree.tokens[below[0]]] > 0, "the drawn child stands first"
        assert tree.q[below[0]] == law[tree.tokens[below[0]]]


def test_the_drawn_child_is_never_what_decides_the_shape() -> None:
    """Children per node by path, over many draws: a function of the node's path alone among all
    drafts that share the level above."""
    rows = Rows(9, vocab=4, sharp=0.6)
    shapes: dict[Any, set[Any]] = {}
    for seed in range(200):
        tree = grow(LikeliestAndDrawn, rows, Budget(6, 2), seed, width=3).tree()
        level = tuple(tree.tokens[i] for i in tree.children[0])
        counts = tuple(len(tree.children[i + 1]) for i in tree.children[0])
        shapes.setdefault(level, set()).add(counts)
    assert len(shapes) > 1
    assert all(len(counts) == 1 for counts in shapes.values())


def key(tree: Any) -> Any:
    return tuple(tree.tokens), tuple(tree.parents), tuple(tree.draw_nodes), tuple(tree.draw_parents)


LEAF: list[Any] = []
LAWS = {
    "chain": (Chain, {}, 2, lambda q: drafts(q, "sampled", [[LEAF]])),
    "iid-k": (Sequences, {"sequences": 2}, 4, lambda q: sequences(q, 2, 2)),
    "rsd-c": (
        Branching, {"branching": (2, 1)}, 4,
        lambda q: drafts(q, "without_replacement", [[LEAF], [LEAF]]),
    ),
    "rsd-s of width 1": (StochasticBeam, {"width": 1}, 2, lambda q: drafts(q, "sampled", [[LEAF]])),
    "greedy-k": (LikeliestAndDrawn, {"width": 2}, 2, lambda q: drafts(q, "mixed", [LEAF, LEAF])),
}  # fmt: skip


@pytest.mark.parametrize("name", LAWS)
def test_trees_have_the_law_that_is_enumerated(name: str) -> None:
    form, options, nodes, enumerate_ = LAWS[name]
    rows, count = Rows(10, vocab=3, sharp=0.8), 1500
    q = {
        p: rows(p).double().exp() for n in (0, 1, 2) for p in itertools.product(range(3), repeat=n)
    }
    law: Counter[Any] = Counter()
    for tree, weight in enumerate_({p: row / row.sum() for p, row in q.items()}):
        law[key(tree)] += weight
    found = Counter(
        key(grow(form, rows, Budget(nodes, 2), seed, **options).tree()) for seed in range(count)
    )
    assert p_value(found, law, count) > ALARM
