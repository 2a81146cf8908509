"""Which tree of fixed shape stands longest? Sequoia's dynamic programme over ranks.

A node is named by the ranks of its path: (1, 0) is the first child of the root's second. If the
child of rank b is the one that stands with probability a[b], whatever the text, then a tree is
expected to give 1 + the sum over its nodes of the product of a along their ranks. With T(m, l) the
most that m nodes (the root among them) of l levels can give, and F(m, b) the most that m nodes
below the root can add as its first b children,

    T(m, l) = 1 + max over b of F(m - 1, b),
    F(m, b) = max over y of F(m - y, b - 1) + a[b - 1] T(y, l - 1).

Source: Sequoia 2402.12374, sec. 3.1 and its code. a need not fall with the rank: a later sibling
costs its earlier ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from foretoken.draft.shapes import Place, Shape
from foretoken.types import FloatArray

Ranks = tuple[int, ...]


class RankTree(Shape):
    """A tree that is settled before anything is drafted. worths: of every node by its ranks, > 0;
    a node is worth no more than its parent and its earlier sibling, which must be there."""

    settled = True

    def __init__(self, worths: Mapping[Ranks, float]) -> None:
        self.worths: dict[Ranks, float] = {}
        for ranks in sorted(worths, key=lambda ranks: (len(ranks), ranks)):
            *above, rank = ranks
            needed = [tuple(above)] if above else []
            needed += [(*above, rank - 1)] if rank else []
            self.worths[ranks] = min([worths[ranks], *(self.worths[n] for n in needed)])

    def __len__(self) -> int:
        return len(self.worths)

    @property
    def depth(self) -> int:
        """Levels below the root."""
        return max(map(len, self.worths), default=0)

    def worth(self, at: Place, rank: int, likeliest: Sequence[float], left: float | None) -> float:  # noqa: ARG002
        """See the base class."""
        return self.worths.get((*at.ranks, rank), 0.0)

    def within(self, nodes: int, depth: int) -> RankTree:
        """The worthiest part of it."""
        if len(self) <= nodes and self.depth <= depth:
            return self
        low = [ranks for ranks in self.worths if len(ranks) <= depth]
        # among equals parents and earlier siblings first
        low.sort(key=lambda ranks: (-self.worths[ranks], len(ranks), ranks))
        return RankTree({ranks: self.worths[ranks] for ranks in low[:nodes]})


class RankTrees:
    """The best trees of every size and depth.

    acceptance: a, by rank. nodes: most nodes below the root. depth: most levels. Cost: nodes^2 x
    depth x len(a) additions, in numpy: a few milliseconds for 64, 8 and 8.
    """

    def __init__(self, acceptance: Sequence[float], nodes: int, depth: int) -> None:
        self.acceptance, self.nodes, self.depth = acceptance, nodes, depth
        size = nodes + 1
        # tokens[l, m]: T for m nodes below the root and l levels; -inf: there is no such tree
        self.tokens: FloatArray = np.full((depth + 1, size), -np.inf)
        self.tokens[0, 0] = 1.0
        self._children = np.zeros((depth + 1, size), np.int64)  # of the best root
        # [l, b, m]: nodes of the last child's subtree
        self._last = np.zeros((depth + 1, len(acceptance) + 1, size), np.int64)
        total = np.arange(size)
        rest = total[:, None] - total[None, :]  # [m, y]: what a last subtree of y nodes leaves
        for level in range(1, depth + 1):
            # subtrees of y nodes, their root among them
            below = np.concatenate(([-np.inf], self.tokens[level - 1, :-1]))
            forest = np.full(size, -np.inf)  # F
            forest[0] = 0.0
            best = forest.copy()
            for b, chance in enumerate(acceptance, start=1):
                options = np.where(rest >= 0, forest[rest.clip(0)], -np.inf) + chance * below
                self._last[level, b] = options.argmax(axis=1)
                forest = options.max(axis=1)
                better = forest > best
                self._children[level, better] = b
                best = np.maximum(best, forest)
            self.tokens[level] = 1.0 + best

    def tree(self, nodes: int, depth: int) -> RankTree:
        """A best tree of exactly so many nodes within so many levels. Raises ValueError if there is
        none (too few levels and ranks)."""
        if not np.isfinite(self.tokens[depth, nodes]):
            raise ValueError(f"no tree of {nodes} nodes has {depth} levels")
        worths: dict[Ranks, float] = {}
        todo: list[tuple[Ranks, float, int, int]] = [((), 1.0, nodes, depth)]
        while todo:
            ranks, worth, left, level = todo.pop()
            for b in range(int(self._children[level, left]), 0, -1):
                size = int(self._last[level, b, left])
                child, value = (*ranks, b - 1), worth * self.acceptance[b - 1]
                worths[child] = value
                todo.append((child, value, size - 1, level - 1))
                left -= size
        return RankTree(worths)
