"""lm-top-k: the likeliest tree of a small model, by joint probability (EAGLE-2, OPT-Tree).

Each level is grown below the `width` likeliest nodes of the one before; at the end the likeliest
`nodes` of all that grew are the draft. With `width` as large as the budget this is the best tree of
its size, if the rows are right. Nothing is drawn, so that drawing the target's token and following
it is exact. Cost: one forward of the drafter per level, over at most `width` nodes.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from foretoken.draft.growth import UNDERFLOW, Choice, Growth
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
        full = len(self._best) == self.budget.nodes
        last = min(self.joint[node] for node in self._best) if full else -math.inf
        fresh = len(self.tokens)
        for node, choice in self._likeliest_paths(logprobs):
            if self.above(node) + choice[1] > last:  # a full draft has no place for others
                self.take(node, [choice])
        everyone = [*self._best, *range(fresh, len(self.tokens))]
        # stable: among equals the one that grew first, hence a parent before its child
        everyone.sort(key=lambda node: -self.joint[node])
        self._best = sorted(everyone[: self.budget.nodes])
        # a full draft has no place for what is less likely than its last node
        full = len(self._best) == self.budget.nodes
        last = min(self.joint[node] for node in self._best) if full else -math.inf
        self.advance(node for node in self._best if node >= fresh and self.joint[node] > last)
        self.frontier = self.frontier[: self.width]  # they grew likeliest first

    def _likeliest_paths(self, logprobs: Tensor) -> list[tuple[int, Choice]]:
        """As many as the draft may have nodes, of all rows together, best first: whose child each
        is, and its choice."""
        # the best of each row first: fewer and smaller operations than with all rows at once
        top = logprobs.topk(min(self.budget.nodes, logprobs.shape[-1]), dim=-1)
        logs, tokens = top.values.double().numpy(), top.indices.numpy()
        above = np.array([self.above(node) for node in self.frontier])
        best = np.argsort(-(logs + above[:, None]), axis=None, kind="stable")[: self.budget.nodes]
        out: list[tuple[int, Choice]] = []
        for row, place in zip(*np.unravel_index(best, logs.shape), strict=True):
            log = float(logs[row, place])
            if log >= max(self._least - above[row], UNDERFLOW):
                out.append((self.frontier[row], (int(tokens[row, place]), min(log, 0.0))))
        return out

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
