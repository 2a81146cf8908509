"""DraftTree: the one data structure that every drafter makes and every verifier reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from foretoken.types import BoolArray

T = TypeVar("T")
Kind = Literal["point", "sampled", "without_replacement", "mixed"]
KINDS: tuple[Kind, ...] = ("point", "sampled", "without_replacement", "mixed")


class Draws(NamedTuple):
    """The drafter's draws as a tree of their own: several draws may have given the same node."""

    nodes: Sequence[int]  # [d] node of each draw
    children: list[
        list[int]
    ]  # [d+1] draws below the root (entry 0) and below draw i (i+1), ordered


@dataclass(frozen=True)
class DraftTree:
    """Tokens below the root (the last committed token). A chain is a tree; the empty tree is legal.

    `kind` says how siblings were chosen, which decides the acceptance rules that are exact:
    - "point": by anything that does not look at random numbers (table, copy, top-k);
    - "sampled": drawn independently from the parent's row of `dist`. Equal draws share a node:
      `draw_nodes` and `draw_parents` keep the draws themselves (absent: each node is one draw);
    - "without_replacement": drawn from the parent's row without its earlier siblings, renormalised;
    - "mixed": a few drawn as above, which stand first among their siblings, then fixed ones, whose
      `dist_row` is -1. A fixed child may not look at what was drawn.
    Siblings stand in drawn order. Raises ValueError for a parent that does not come before its
    child, or ragged fields.
    """

    tokens: Sequence[int] = ()  # [n]
    parents: Sequence[int] = ()  # [n], own index > parent, -1 is the root
    q: Sequence[float] = ()  # [n] draft probability given the parent's path; () if unknown
    kind: Kind = "point"
    dist: Tensor | None = None  # [m, V] full draft rows, where the rule needs them
    dist_row: Sequence[int] = ()  # [n] row of `dist` that node i was drawn from; -1: it was fixed
    sources: Sequence[str] = field(default=())  # [n] who proposed it: names joined by "+"
    draw_nodes: Sequence[int] = ()  # [d] node of each draw, "sampled" with repeats only
    draw_parents: Sequence[int] = ()  # [d] draw below which it was drawn, -1 is the root
    # [n] what stands behind a node, as a small class of the drafter's own (length of the match, how
    # often it was seen ...); whoever calibrates keeps the classes apart. () is all 0
    evidence: Sequence[int] = ()

    def __post_init__(self) -> None:
        n = len(self.tokens)
        if len(self.parents) != n or any(
            len(x) not in (0, n) for x in (self.q, self.dist_row, self.sources, self.evidence)
        ):
            raise ValueError(f"ragged draft: {n} tokens, {len(self.parents)} parents")
        if len(self.draw_nodes) != len(self.draw_parents):
            raise ValueError("ragged draft: every draw needs a node and a parent")
        for i, parent in enumerate(self.parents):
            if not -1 <= parent < i:
                raise ValueError(f"node {i} has parent {parent}, which does not come before it")

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def chain(
        cls, tokens: Sequence[int], q: Sequence[float] = (), kind: Kind = "point"
    ) -> DraftTree:
        """A single path."""
        return cls(tokens, range(-1, len(tokens) - 1), q, kind)

    @classmethod
    def from_paths(cls, paths: Iterable[Sequence[int]]) -> DraftTree:
        """The trie of some paths below the root; shared prefixes are drafted once."""
        index: dict[tuple[int, int], int] = {}
        tokens: list[int] = []
        parents: list[int] = []
        for path in paths:
            at = -1
            for token in path:
                node = index.setdefault((at, token), len(tokens))
                if node == len(tokens):
                    tokens.append(token)
                    parents.append(at)
                at = node
        return cls(tokens, parents)

    @cached_property
    def depths(self) -> list[int]:
        """[n]: 1 for children of the root."""
        out: list[int] = []
        for parent in self.parents:
            out.append(1 if parent < 0 else out[parent] + 1)
        return out

    @cached_property
    def children(self) -> list[list[int]]:
        """[n+1] child indices in drawn order; entry 0 is the root's, entry i+1 node i's."""
        out: list[list[int]] = [[] for _ in range(len(self.tokens) + 1)]
        for i, parent in enumerate(self.parents):
            out[parent + 1].append(i)
        return out

    @cached_property
    def draws(self) -> Draws:
        """The draws behind the nodes; where each node is one draw, the tree itself."""
        if not self.draw_nodes:
            return Draws(range(len(self)), self.children)
        children: list[list[int]] = [[] for _ in range(len(self.draw_nodes) + 1)]
        for draw, parent in enumerate(self.draw_parents):
            children[parent + 1].append(draw)
        return Draws(self.draw_nodes, children)

    @cached_property
    def joint(self) -> list[float]:
        """[n] probability of the whole path to each node under the drafter; needs q."""
        out: list[float] = []
        for parent, q in zip(self.parents, self.q, strict=True):
            out.append(q if parent < 0 else out[parent] * q)
        return out

    @property
    def is_chain(self) -> bool:
        """Whether the tree is a single path."""
        return all(parent == i - 1 for i, parent in enumerate(self.parents))

    @property
    def depth(self) -> int:
        """Depth of the deepest node, 0 for the empty tree."""
        return max(self.depths, default=0)

    def path(self, node: int) -> list[int]:
        """Node indices from the root's child down to `node`; [] for -1."""
        out: list[int] = []
        while node >= 0:
            out.append(node)
            node = self.parents[node]
        return out[::-1]

    def mask(self) -> BoolArray:
        """[n+1, n+1]: row i sees column j; index 0 is the root, i+1 node i (ancestors and self)."""
        n = len(self.tokens)
        out = np.zeros((n + 1, n + 1), dtype=np.bool_)
        out[0, 0] = True
        for i, parent in enumerate(self.parents):
            out[i + 1] = out[parent + 1]
            out[i + 1, i + 1] = True
        return out

    def prune(self, keep: Iterable[int]) -> DraftTree:
        """The tree of the kept nodes; a node goes when its parent goes. `dist` is kept whole.

        Lossless for kind "point" only: dropping a drawn sibling because of its value changes the
        law of those that stay (our notes on rsd, section 8), so other kinds raise ValueError.
        """
        if self.kind != "point":
            raise ValueError(f"pruning a {self.kind!r} tree would bias it")
        wanted, new = set(keep), {-1: -1}
        order: list[int] = []
        for i, parent in enumerate(self.parents):
            if i in wanted and parent in new:
                new[i] = len(order)
                order.append(i)
        return DraftTree(
            _pick(self.tokens, order),
            [new[self.parents[i]] for i in order],
            _pick(self.q, order),
            self.kind,
            self.dist,
            _pick(self.dist_row, order),
            _pick(self.sources, order),
            evidence=_pick(self.evidence, order),
        )

    def first(self, nodes: int) -> DraftTree:
        """The first `nodes` nodes; parents come first, so the result is a tree."""
        return self if nodes >= len(self) else self.prune(range(nodes))

    def merge(self, other: DraftTree) -> DraftTree:
        """The trie of both (kind "point"); a duplicate is drafted once and keeps the larger q."""
        if self.kind != "point" or other.kind != "point":
            raise ValueError("only trees of kind 'point' merge without changing their law")
        tokens, parents = list(self.tokens), list(self.parents)
        both = bool(self.q or not len(self)) and bool(other.q or not len(other))
        q = list(self.q) if both else []
        index = {(p, t): i for i, (p, t) in enumerate(zip(parents, tokens, strict=True))}
        new = {-1: -1}
        for i, (parent, token) in enumerate(zip(other.parents, other.tokens, strict=True)):
            at = index.setdefault((new[parent], token), len(tokens))
            if at == len(tokens):
                tokens.append(token)
                parents.append(new[parent])
                if both:
                    q.append(other.q[i])
            elif both:
                q[at] = max(q[at], other.q[i])
            new[i] = at
        return DraftTree(tokens, parents, q)


def _pick(values: Sequence[T], order: Sequence[int]) -> Sequence[T]:
    """The values of these nodes; an absent field stays absent."""
    return [values[i] for i in order] if values else ()


EMPTY = DraftTree()
