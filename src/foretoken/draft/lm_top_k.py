"""lm-top-k: the likeliest tree of a small model, by joint probability (EAGLE-2, OPT-Tree).

Each level is grown below the `width` likeliest nodes of the one before; at the end the likeliest
`nodes` of all that grew are the draft. With `width` as large as the budget this is the best tree of
its size, if the rows are right. Nothing is drawn, so that drawing the target's token and following
it is exact. Cost: one forward of the drafter per level, over at most `width` nodes.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from pydantic import Field
from torch import Tensor

from foretoken.draft.growth import Growth
from foretoken.draft.lm import LmDrafter
from foretoken.tree import DraftTree, Kind
from foretoken.types import Budget


class BestFirst(Growth):
    """More grows than is drafted; the nodes of `tree` are numbered anew."""

    kind = "point"

    def __init__(
        self,
        budget: Budget,
        generator: torch.Generator,
        greedy: bool,
        eos: Collection[int] = (),
        width: int = 8,
    ) -> None:
        super().__init__(budget, generator, greedy, eos)
        self.width = width
        # the likeliest nodes, at most budget.nodes, rising; none is less likely than its child
        self._best: list[int] = []

    @property
    def room(self) -> int:
        """There is always room: what is not among the best is left out at the end."""
        return self.budget.nodes

    def grow(self, logprobs: Tensor) -> None:
        """See the base class."""
        rows = zip(self.frontier, self.likeliest(logprobs, self.budget.nodes), strict=True)
        last = self._last()
        candidates = sorted(
            ((joint, node, token, log) for node, choices in rows for token, log in choices
             if (joint := self.above(node) + log) > last),
            key=lambda candidate: -candidate[0],
        )[: self.budget.nodes]  # fmt: skip
        fresh = len(self.tokens)
        for _, node, token, log in candidates:
            self.take(node, [(token, log)])
        everyone = [*self._best, *range(fresh, len(self.tokens))]
        # stable: among equals the one that grew first, hence a parent before its child
        everyone.sort(key=lambda node: -self.joint[node])
        self._best = sorted(everyone[: self.budget.nodes])
        last = self._last()
        self.advance(node for node in self._best if node >= fresh and self.joint[node] > last)
        self.frontier = self.frontier[: self.width]  # they grew likeliest first

    def _last(self) -> float:
        """A full draft has no place for what is less likely than its last node."""
        full = len(self._best) == self.budget.nodes
        return min(self.joint[node] for node in self._best) if full else -math.inf

    def fresh(self, first: int) -> list[int]:
        """Those that are among the best."""
        return [node for node in self._best if node >= first]

    def tree(self) -> DraftTree:
        """The best nodes of all that grew."""
        at = {node: i for i, node in enumerate(self._best)} | {-1: -1}
        return DraftTree(
            tuple(self.tokens[n] for n in self._best),
            tuple(at[self.parents[n]] for n in self._best),
            tuple(self.q[n] for n in self._best),
        )


class LmTopK(LmDrafter):
    """The likeliest tree."""

    name = "lm-top-k"
    summary = "a small model's likeliest tree, by joint probability"
    source = "EAGLE-2 2406.16858, sec. 4; OPT-Tree 2406.17276"
    emits: Kind = "point"
    gives = LmDrafter.gives | {"shapes", "turns"}
    grows = BestFirst
    verifier = "walk"
    nodes = 24

    class Options(LmDrafter.Options):
        """How wide the beam is."""

        width: int = Field(8, ge=1, le=64, description="nodes of a level that may have children")
