"""plain: no draft at all. Every step is one ordinary forward; the baseline of every comparison."""

from __future__ import annotations

from foretoken.draft.base import Drafter
from foretoken.tree import EMPTY, DraftTree
from foretoken.types import Budget, Session


class Plain(Drafter):
    """The null object among the drafters."""

    name = "plain"
    summary = "no draft: plain decoding, the baseline"
    source = "-"
    nodes = 0

    def propose(self, session: Session, budget: Budget) -> DraftTree:  # noqa: ARG002
        """The empty tree."""
        return EMPTY
