"""A model's draft while it grows, level by level: one forward of the drafter gives one level."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from foretoken.tree import DraftTree, Kind
from foretoken.types import Budget


class Growth(ABC):
    """One session's draft in the making. It sees log-probabilities and no model.

    budget: nodes and depth that must not be exceeded. generator: the chance of this draft. greedy:
    the request's text is the argmax, so nothing is drawn: the rows are the drafter's own at
    temperature 1, and the likeliest tokens take the place of draws.
    """

    kind: Kind

    def __init__(self, budget: Budget, generator: torch.Generator, greedy: bool) -> None:
        self.budget, self.generator, self.greedy = budget, generator, greedy
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.q: list[float] = []
        self.rows: list[Tensor] = []  # [V] probability rows that were drawn from
        self.row_of: list[int] = []  # per node: index into `rows`, -1 for a fixed node
        # nodes whose children come next, rising; -1 is the root. Empty: the draft is finished.
        self.frontier: list[int] = [-1] if budget.nodes > 0 and budget.depth > 0 else []

    @abstractmethod
    def grow(self, logprobs: Tensor) -> None:
        """Add one level below the frontier and move the frontier there.

        logprobs: [len(frontier), V] float32, log q after each node of the frontier.
        """

    def add(self, parent: int, token: int, q: float, row: int = -1) -> int:
        """Append a node; its index."""
        self.tokens.append(token)
        self.parents.append(parent)
        self.q.append(q)
        self.row_of.append(row)
        return len(self.tokens) - 1

    def tree(self) -> DraftTree:
        """What has grown so far."""
        dist = torch.stack(self.rows) if self.rows else None
        return DraftTree(
            tuple(self.tokens), tuple(self.parents), tuple(self.q), self.kind, dist,
            tuple(self.row_of),
        )  # fmt: skip
