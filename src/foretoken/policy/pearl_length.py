"""pearl-length: PEARL's lengths: one token until one stands, then the ratio of the two speeds.

PEARL drafts while the target verifies, so its window is g = t_target / t_draft, and its "adaptive
length" follows from two modes. In PRE the target judges one drafted token (while the window behind
it is drafted); if it stands, POST begins, where g tokens are judged in every round until one does
not stand. This policy gives drafter and target these numbers of judged tokens per target forward:
1 after a rejection, g after a draft that stood whole, g from measured medians (`pace.Pace`).
In this project's loop the two take turns. What PEARL would have drafted during the judgement of PRE
is not drafted, and every step ends with the target's own token, which PEARL has not: what is kept
of PEARL is how its length adapts, and not that drafting is free. With turns, g = t_target / t_draft
is not the best length; for that see `goodput`.
In a tree, levels are counted. A step without a draft leaves the mode as it is.

Guarantee: exact. The length depends on finished steps and seconds. It promises no speed. Shared:
seconds of steps; the mode is the session's.
Source: Liu et al. 2408.11850; smart-lty/ParallelSpeculativeDecoding and nano-PEARL.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from foretoken.policy.length import LengthPolicy, stood
from foretoken.policy.pace import Pace
from foretoken.target.cost import CostCurve
from foretoken.types import Session, Step


class PearlLength(LengthPolicy):
    """See the module."""

    name = "pearl-length"
    summary = "one level until one stands, then as many as a target forward takes to draft"
    source = "PEARL, Liu et al. 2408.11850"

    class Options(LengthPolicy.Options):
        """The window before it was measured."""

        window: int = Field(4, ge=1, le=1024, description="levels before both speeds are known")

    def __init__(self, options: Any, curve: CostCurve | None = None) -> None:
        super().__init__(options, curve)
        self._paces: dict[str, Pace] = {}  # by drafter

    def length(self, session: Session) -> int:
        """1 in PRE, the window in POST."""
        return self.window(session.drafter.name) if session.memo.get(self.name, False) else 1

    def window(self, drafter: str) -> int:
        """g, from 1 to `length`."""
        pace, most = self._pace(drafter), self.most
        level, forward = pace.level, pace.forward
        if level is None or forward is None:
            return min(int(self.options.window), most)
        return most if forward >= most * level else max(1, round(forward / level))

    def observe(self, session: Session, step: Step) -> None:
        """POST after a draft that stood whole, PRE after another."""
        self._pace(session.drafter.name).observe(session, step)
        if len(step.tree):
            session.memo[self.name] = stood(step)

    def _pace(self, drafter: str) -> Pace:
        return self._paces.setdefault(drafter, Pace())
