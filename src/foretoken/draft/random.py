"""random: a tree of random shape and random tokens. It is hardly ever right, which tests need."""

from __future__ import annotations

import random
from typing import Any

from pydantic import Field

from foretoken import types
from foretoken.draft.base import Context, Drafter
from foretoken.tree import DraftTree
from foretoken.types import Budget, Session


class Random(Drafter):
    """Each node hangs on a random earlier one; the same seed and position give the same tree."""

    name = "random"
    summary = "random trees (tests: whatever is drafted, the text stays the same)"
    source = "-"
    testing = True

    class Options(types.Options):
        """The seed."""

        seed: int = Field(0, ge=0, description="trees depend on (seed, position) alone")

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        self.options: Random.Options = options

    def propose(self, session: Session, budget: Budget) -> DraftTree:
        """`budget.nodes` nodes; fewer where siblings would be alike or the depth leaves no room."""
        dice = random.Random(f"{self.options.seed} {len(session.tokens)}")
        open_nodes = [-1] if budget.depth >= 1 else []  # nodes that may have children
        depths = {-1: 0}
        seen: set[tuple[int, int]] = set()
        tokens: list[int] = []
        parents: list[int] = []
        for _ in range(budget.nodes if open_nodes else 0):
            parent, token = dice.choice(open_nodes), dice.randrange(self.context.vocab)
            if (parent, token) in seen:
                continue
            seen.add((parent, token))
            node = len(tokens)
            tokens.append(token)
            parents.append(parent)
            depths[node] = depths[parent] + 1
            if depths[node] < budget.depth:
                open_nodes.append(node)
        return DraftTree(tokens, parents)
