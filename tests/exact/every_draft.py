"""Every tree that a drafter may draw, with its probability, in all four kinds.

A drafter is an `Expand`: given a state and the tokens above, it lists what the children may be.
`every` follows all of them, `one` throws dice. Equal independent draws share a node.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from foretoken.tree import DraftTree, Kind

Context = tuple[int, ...]
Table = dict[Context, Tensor]  # context -> [V] float64 probabilities of the next token
# A child is (token, the row it was drawn from or None if it is fixed, state of what is below it).
Child = tuple[int, Tensor | None, Any]
Expand = Callable[[Any, Context], Iterator[tuple[list[Child], float]]]
Grown = list[tuple[int, Tensor | None, Any]]  # the same with the grown children in place of states

# A shape says how many children each node has: a list of the shapes below it; [] is a leaf.
Shape = list[Any]
LEAF: Shape = []
SHAPES: dict[str, Shape] = {
    "chain1": [LEAF],
    "chain2": [[LEAF]],
    "chain3": [[[LEAF]]],
    "fan2": [LEAF, LEAF],
    "fan3": [LEAF, LEAF, LEAF],
    "fan4": [LEAF, LEAF, LEAF, LEAF],
    "2x1": [[LEAF], [LEAF]],
    "1x2": [[LEAF, LEAF]],
    "2x2": [[LEAF, LEAF], [LEAF, LEAF]],
    "uneven": [[LEAF, LEAF], LEAF],
}


def height(shape: Shape) -> int:
    return 1 + max(map(height, shape)) if shape else 0


def drafts(q: Table, kind: Kind, shape: Shape) -> Iterator[tuple[DraftTree, float]]:
    """Every draft of this shape; fewer siblings where the draft law has fewer tokens.

    "mixed" is Optimal MDSD's greedy drafting: the last branch of the shape is drawn from q without
    the likeliest tokens, which fill the other branches, and stands first.
    """
    yield from every(by_shape(q, kind), shape, kind)


def sequences(q: Table, k: int, depth: int) -> Iterator[tuple[DraftTree, float]]:
    """K independent sequences of `depth` tokens (SpecTr): chains side by side, merged if equal."""
    chain: Shape = LEAF
    for _ in range(depth - 1):
        chain = [chain]
    yield from drafts(q, "sampled", [chain] * k)


def fused(q: Table, guess: Table, levels: Sequence[tuple[int, int]]) -> Expand:
    """Fusion of a drafter that draws with one that does not. State: the level, from 0.

    levels: (drawn, fixed) children of every node of a level. Drawn from the whole row, without
    repeats; then the likeliest tokens of `guess`, whose place a drawn token takes if it equals one.
    """

    def expand(level: int, context: Context) -> Iterator[tuple[list[Child], float]]:
        if level == len(levels):
            yield [], 1.0
            return
        n_drawn, n_fixed = levels[level]
        fixed = ranked(guess[context])[:n_fixed]
        for drawn, weight in draws(q[context], n_drawn, repeat=False):
            children: list[Child] = [(x, q[context], level + 1) for x in drawn]
            yield [*children, *((t, None, level + 1) for t in fixed if t not in drawn)], weight

    return expand


def by_shape(q: Table, kind: Kind) -> Expand:
    """The drafter of a kind; its state is a shape."""

    def expand(shape: Shape, context: Context) -> Iterator[tuple[list[Child], float]]:
        # the drawn child of a mixed node takes the shape's last branch
        branches = [shape[-1], *shape[:-1]] if kind == "mixed" and shape else shape
        for tokens, weight in _siblings(q[context], kind, len(shape)):
            pairs = zip(tokens, branches, strict=False)  # the row may have run dry
            yield [(token, row, below) for (token, row), below in pairs], weight

    return expand


def _siblings(
    q: Tensor, kind: Kind, n: int
) -> Iterator[tuple[list[tuple[int, Tensor | None]], float]]:
    fixed: list[int] = ranked(q)[: n if kind == "point" else max(n - 1, 0)]
    if kind in ("sampled", "without_replacement"):
        for drawn, weight in draws(q, n, repeat=kind == "sampled"):
            yield [(x, q) for x in drawn], weight
        return
    rest = q.clone()
    rest[fixed] = 0.0
    if n == 0 or kind == "point" or not rest.sum() > 0:
        yield [(t, None) for t in ranked(q)[:n]], 1.0  # with no mass to draw from, all are fixed
        return
    rest = rest / rest.sum()
    for (x,), weight in draws(rest, 1, repeat=False):
        yield [(x, rest), *((t, None) for t in fixed)], weight


def ranked(row: Tensor) -> list[int]:
    """Tokens from the likeliest down, the lowest id first among equals."""
    order: list[int] = row.argsort(descending=True, stable=True).tolist()
    return order


def draws(q: Tensor, n: int, repeat: bool) -> Iterator[tuple[tuple[int, ...], float]]:
    """n draws in order with their probability; without repeats it ends where q is used up."""
    mass = q.tolist()
    total = sum(mass)
    if n == 0 or total <= 0.0:
        yield (), 1.0
        return
    for x, chance in enumerate(mass):
        if chance > 0.0:
            left = q
            if not repeat:
                left = q.clone()
                left[x] = 0.0
            for rest, weight in draws(left, n - 1, repeat):
                yield (x, *rest), chance / total * weight


def every(expand: Expand, state: Any, kind: Kind) -> Iterator[tuple[DraftTree, float]]:
    """Every tree of a drafter with its probability."""
    for children, weight in _grown(expand, state, ()):
        yield assembled(children, kind), weight


def one(
    expand: Expand, state: Any, kind: Kind, dice: random.Random, context: Context = ()
) -> DraftTree:
    """A tree that the drafter draws."""

    def grow(state: Any, above: Context) -> Grown:
        choices, weights = zip(*expand(state, above), strict=True)
        (children,) = dice.choices(choices, weights)
        return [(token, row, grow(below, (*above, token))) for token, row, below in children]

    return assembled(grow(state, context), kind)


def _grown(expand: Expand, state: Any, context: Context) -> Iterator[tuple[Grown, float]]:
    for children, weight in expand(state, context):
        below = [list(_grown(expand, rest, (*context, token))) for token, _, rest in children]
        for combination in itertools.product(*below):
            total, nodes = weight, []
            for (token, row, _), (grandchildren, chance) in zip(children, combination, strict=True):
                total *= chance
                nodes.append((token, row, grandchildren))
            yield nodes, total


def assembled(children: Grown, kind: Kind) -> DraftTree:
    """Level by level; equal independent draws share a node, siblings share their row."""
    tokens: list[int] = []
    parents: list[int] = []
    rows: list[Tensor] = []
    row_of: list[int] = []
    q: list[float] = []
    draw_nodes: list[int] = []
    draw_parents: list[int] = []
    index: dict[tuple[int, int], int] = {}
    level = [(child, -1, -1) for child in children]  # (child, parent node, parent draw)
    while level:
        below = []
        for (token, row, grandchildren), parent, draw in level:
            node = index.get((parent, token)) if kind == "sampled" else None
            if node is None:
                node = index[parent, token] = len(tokens)
                tokens.append(token)
                parents.append(parent)
                q.append(1.0 if row is None else float(row[token]))
                row_of.append(-1 if row is None else _place(rows, row))
            mine = len(draw_nodes)
            draw_nodes.append(node)
            draw_parents.append(draw)
            below += [(grandchild, node, mine) for grandchild in grandchildren]
        level = below
    repeats = kind == "sampled" and len(draw_nodes) > len(tokens)
    return DraftTree(
        tokens, parents, q, kind, torch.stack(rows) if rows else None,
        row_of if rows else [], (),
        draw_nodes if repeats else (), draw_parents if repeats else (),
    )  # fmt: skip


def _place(rows: list[Tensor], row: Tensor) -> int:
    for i, known in enumerate(rows):
        if known is row:
            return i
    rows.append(row)
    return len(rows) - 1
