"""A draft of `stand` while it grows: what may follow each node, and which nodes are taken."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

import torch

from foretoken.draft.stand_table import StandTable, Tail, warped
from foretoken.draft.stand_template import Node
from foretoken.tree import DraftTree
from foretoken.types import Budget, FloatArray, Sampling

CLASSES = 8  # of evidence


class Picks(NamedTuple):
    """What may follow a node, in the order in which it is offered."""

    tokens: Sequence[int]
    q: Sequence[float]
    evidence: int = 0


NOTHING = Picks((), ())


class Sprout:
    """Fixed children: the likeliest ones, most likely first.

    tail: the end of the text. sampling: how the rows are to be processed. sharpness: see `warped`.
    """

    def __init__(
        self, table: StandTable, tail: Tail, sampling: Sampling, budget: Budget,
        eos: Collection[int] = (), sharpness: float = 1.0,
    ) -> None:  # fmt: skip
        self.table, self.sampling, self.sharpness = table, sampling, sharpness
        self.budget, self.eos, self.least = budget, eos, budget.min_prob
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.q: list[float] = []
        self.evidence: list[int] = []
        self.joint, self.depth = [1.0], [0]  # [n+1], entry 0 is the root's
        self._tails, self._picks = [tail], {-1: NOTHING}
        if budget.depth > 0:
            self._picks[-1] = self.law(-1)

    def picks(self, node: int) -> Picks:
        """What may follow a node (-1 is the root); nothing at the last depth or after an eos."""
        found = self._picks.get(node)
        if found is None:
            ends = self.depth[node + 1] >= self.budget.depth or self.tokens[node] in self.eos
            found = self._picks[node] = NOTHING if ends else self.law(node)
        return found

    def law(self, node: int) -> Picks:
        """The processed row of the text that ends with this node, likeliest first."""
        hit = self.table.find(self._tails[node + 1])
        if hit is None:
            return NOTHING
        length, row = hit
        q = warped(row, self.sampling, self.sharpness)
        # how long the key was, and whether it was seen more than once
        kind = 2 * self.table.lengths.index(length) + (row.seen > 1.0)
        return Picks(row.tokens, q, min(kind, CLASSES - 1))

    def add(self, parent: int, rank: int) -> int:
        """Append the pick of this rank; its index."""
        picks, node = self.picks(parent), len(self.tokens)
        token, q = picks.tokens[rank], picks.q[rank]
        self.tokens.append(token)
        self.parents.append(parent)
        self.q.append(q)
        self.evidence.append(picks.evidence)
        self.joint.append(self.joint[parent + 1] * q)
        self.depth.append(self.depth[parent + 1] + 1)
        self._tails.append((*self._tails[parent + 1], token)[-self.table.longest :])
        return node

    def best_first(self) -> None:
        """Grow the nodes of largest joint probability, likeliest first."""
        # (-joint, order of arrival, parent, rank); a node taken offers its next sibling and child
        heap: list[tuple[float, int, int, int]] = []
        offers = [(-1, 0)]
        while len(self.tokens) < self.budget.nodes:
            for parent, rank in offers:
                q = self.picks(parent).q
                if rank < len(q):
                    joint = self.joint[parent + 1] * q[rank]
                    heappush(heap, (-joint, len(self.tokens), parent, rank))
            if not heap or -heap[0][0] < self.least:
                return
            _, _, parent, rank = heappop(heap)
            offers = [(parent, rank + 1), (self.add(parent, rank), 0)]

    def fill(self, template: Sequence[Node]) -> None:
        """Grow the first nodes of the template for which there are tokens."""
        at: list[int | None] = []
        for above, rank in template:
            if len(self.tokens) >= self.budget.nodes:
                return
            parent = at[above] if above >= 0 else -1
            at.append(None if parent is None else self._fill(parent, rank))

    def _fill(self, parent: int, rank: int) -> int | None:
        q = self.picks(parent).q
        if rank >= len(q) or self.joint[parent + 1] * q[rank] < self.least:
            return None
        return self.add(parent, rank)

    def tree(self) -> DraftTree:
        """What has grown."""
        return DraftTree(self.tokens, self.parents, self.q, evidence=self.evidence)


class DrawnSprout(Sprout):
    """Drawn children: Gumbel-top-k, without replacement, in drawn order.

    noise: [nodes+1, width] uniform numbers in [0, 1), a row for what follows each node. Nothing is
    cut by its own probability; below a node that is less likely than `min_prob` nothing grows.
    """

    def __init__(
        self, table: StandTable, tail: Tail, sampling: Sampling, budget: Budget,
        eos: Collection[int], noise: FloatArray,
    ) -> None:  # fmt: skip
        self._noise = noise
        super().__init__(table, tail, sampling, budget, eos)
        self.least = 0.0

    def law(self, node: int) -> Picks:
        """The row's tokens in drawn order, q renormalised over them."""
        if self.joint[node + 1] < self.budget.min_prob:
            return NOTHING
        tokens, q, evidence = super().law(node)
        mass = sum(q)
        q = [p / mass for p in q]
        order = drawn(q, self._noise[node + 1].tolist())
        return Picks([tokens[j] for j in order], [q[j] for j in order], evidence)

    def drawn_tree(self, vocab: int) -> DraftTree:
        """What has grown, with the rows [m, vocab] that it was drawn from."""
        row_of: dict[int, int] = {}
        rows = [row_of.setdefault(parent, len(row_of)) for parent in self.parents]
        dist = torch.zeros(len(row_of), vocab)
        for parent, row in row_of.items():
            picks = self.picks(parent)
            dist[row, torch.tensor(picks.tokens)] = torch.tensor(picks.q)
        return DraftTree(
            self.tokens, self.parents, self.q, "without_replacement", dist, rows,
            evidence=self.evidence,
        )  # fmt: skip


def drawn(q: Sequence[float], u: Sequence[float]) -> list[int]:
    """Indices in the order of draws without replacement in proportion to q, all of them.

    The largest of ln q + Gumbel noise first; since Gumbel noise is -ln E with E exponential, that
    is the smallest of E / q. u: uniform in [0, 1), at least as many as q.
    """
    keys = [-math.log1p(-chance) / p for p, chance in zip(q, u, strict=False)]
    return sorted(range(len(q)), key=keys.__getitem__)
