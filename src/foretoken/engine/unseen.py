"""What a drafter missed while it was left alone (`Budget.unseen`), shown to it in one step.

The text stands as if it had been a draft all of which was right, so that every observer finds each
token where it looks for it; nobody drafted it, and nobody knows the target's rows any more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from foretoken.tree import DraftTree
from foretoken.types import Budget, Committed, Scores, Session, Step, Verdict


@dataclass(frozen=True)
class UnknownScores(Scores):
    """Rows of which nothing is known."""

    def top(self, m: int) -> tuple[list[list[int]], list[list[float]]]:  # noqa: ARG002
        """See `Scores`."""
        none: list[list[int]] = [[] for _ in self.known]
        return none, [[] for _ in self.known]


def show_unseen(session: Session) -> None:
    """Let the drafter observe the text of `session.unseen`, which is 0 afterwards."""
    count, session.unseen = session.unseen, 0
    context = len(session.tokens) - count
    *drafted, bonus = session.tokens[context:]
    tree = DraftTree(drafted, list(range(-1, count - 2)))
    rows = torch.zeros(1, session.drafter.context.vocab).expand(count, -1)
    step = Step(
        context,
        Budget(0, unseen=True),
        tree,
        UnknownScores(rows, known=[False] * count),
        Verdict(tuple(range(count - 1)), bonus),
        Committed([*drafted, bonus], list(range(count)), 0, session.finish_reason),
        {"draft": 0.0, "target": 0.0, "verify": 0.0},
        batch=1,
        rows=count,
    )
    session.drafter.observe(session, step)
