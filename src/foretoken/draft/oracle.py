"""oracle and corrupt: drafters that know the answer, or know it up to a stated share of errors.

For tests and cost studies: the oracle is the upper bound on what any chain can gain; `corrupt`
sweeps the acceptance rate while everything else stays the same.
"""

from __future__ import annotations

import random
from typing import Any

from pydantic import Field

from foretoken import types
from foretoken.draft.base import Context, Drafter
from foretoken.tree import DraftTree
from foretoken.types import Budget, Session


class Oracle(Drafter):
    """Drafts the given continuation from where the output stands."""

    name = "oracle"
    summary = "drafts a known continuation (tests, upper bounds)"
    source = "-"
    testing = True

    class Options(types.Options):
        """The answer."""

        continuation: tuple[int, ...] = Field((), description="output tokens, known beforehand")

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        self.options: Oracle.Options = options

    def propose(self, session: Session, budget: Budget) -> DraftTree:
        """The next known tokens; the empty tree once they are used up."""
        at = len(session.tokens) - session.n_prompt
        tokens = self.options.continuation[at : at + min(budget.nodes, budget.depth)]
        return DraftTree.chain([self._token(at + i, t) for i, t in enumerate(tokens)])

    def _token(self, position: int, token: int) -> int:  # noqa: ARG002
        return token


class Corrupt(Oracle):
    """The oracle with errors: which output positions are wrong depends on the seed alone."""

    name = "corrupt"
    summary = "a known continuation with a stated share of errors (tests, cost studies)"

    class Options(Oracle.Options):
        """The answer, and how often to get it wrong."""

        rate: float = Field(0.5, ge=0.0, le=1.0, description="share of tokens replaced")
        seed: int = Field(0, ge=0, description="which ones")

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        self.options: Corrupt.Options = options

    def _token(self, position: int, token: int) -> int:
        dice = random.Random(f"{self.options.seed} {position}")
        if dice.random() >= self.options.rate or self.context.vocab < 2:
            return token
        other = dice.randrange(self.context.vocab - 1)
        return other + (other >= token)
