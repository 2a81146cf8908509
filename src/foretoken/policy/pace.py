"""What a drafted level takes, and a target's forward: medians of what was measured of late.

One slow step changes nothing, and another machine is known within 16 steps. A session's first
draft is kept apart, since a model that drafts reads the whole prompt for it; a step that read a
prompt tells nothing of the target's forwards. All seconds are one session's share of what its batch
took.
Source: our notes on length-policies, U7; nano-PEARL measures its two speeds likewise.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median

from foretoken.types import Session, Step

KEPT = 31  # samples
SPIKE = 3.0  # times the usual seconds: what is beyond is a pause of the process, nobody's own time
BLEND = 0.1  # weight of the newest draft in the nodes of a level


def _samples() -> deque[float]:
    return deque(maxlen=KEPT)


@dataclass
class Pace:
    """Of one drafter."""

    levels: deque[float] = field(default_factory=_samples)
    firsts: deque[float] = field(default_factory=_samples)  # first drafts, per token of the context
    forwards: deque[float] = field(default_factory=_samples)
    width: float = 1.0  # nodes of a level
    met: str = "pace"  # name in a session's memo of whether it has drafted: one for each observer

    @property
    def level(self) -> float | None:
        """Seconds of a drafted level; None before any was measured."""
        return median(self.levels) if self.levels else None

    @property
    def forward(self) -> float | None:
        """Seconds of a target's forward; None before any was measured."""
        return median(self.forwards) if self.forwards else None

    def first(self, session: Session) -> float:
        """Seconds of what a session's first draft takes beyond its levels: 0 after it was made, and
        before any was."""
        if self.has_met(session) or not self.firsts:
            return 0.0
        return median(self.firsts) * len(session.tokens)

    def has_met(self, session: Session) -> bool:
        """Whether the session has drafted."""
        return bool(session.memo.get(self.met, False))

    def observe(self, session: Session, step: Step) -> None:
        """A step."""
        depth = step.tree.depth
        met = self.has_met(session)
        session.memo[self.met] = met or depth > 0
        if depth and not met:
            self.firsts.append(step.seconds["draft"] / step.context)
        if step.fresh > 1 or step.prompts:
            return
        self.forwards.append(step.seconds["target"])
        if depth and met:
            self.levels.append(step.seconds["draft"] / depth)
            self.width += BLEND * (len(step.tree) / depth - self.width)
