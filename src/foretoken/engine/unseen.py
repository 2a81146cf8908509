"""What a drafter missed while it was left alone (`Budget.unseen`), shown to it in one step.

A session that came meanwhile is begun late, as it was when it came. The text stands as if it had
been a draft all of which was right, so that every observer finds each token where it looks for it;
nobody drafted it, and nobody knows the target's rows any more.
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


def begin(session: Session) -> None:
    """Show the drafter the session as it came: with its prompt alone."""
    written = session.output
    del session.tokens[session.n_prompt :]
    try:
        session.drafter.begin(session)
        session.begun = True
    finally:
        session.tokens += written


def show_unseen(session: Session) -> None:
    """Let the drafter observe the text of `session.unseen`, which is 0 afterwards."""
    if not session.begun:
        begin(session)
    if not session.unseen:
        return
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
