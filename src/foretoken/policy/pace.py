"""What a drafted level takes, and a target's forward: medians of what was measured of late.

One slow step changes nothing, and another machine is known within 16 steps. A session's first
draft is left out, since a model that drafts reads the whole prompt for it, and so is a step that
read a prompt. All seconds are one session's share of what its batch took.
Source: our notes on length-policies, U7; nano-PEARL measures its two speeds likewise.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median

from foretoken.types import Session, Step

KEPT = 31  # samples
BLEND = 0.1  # weight of the newest draft in the nodes of a level


def _samples() -> deque[float]:
    return deque(maxlen=KEPT)


@dataclass
class Pace:
    """Of one drafter."""

    levels: deque[float] = field(default_factory=_samples)
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

    def observe(self, session: Session, step: Step) -> None:
        """A step."""
        depth = step.tree.depth
        met = session.memo.get(self.met, False)
        session.memo[self.met] = met or depth > 0
        if step.fresh > 1:
            return
        self.forwards.append(step.seconds["target"])
        if depth and met:
            self.levels.append(step.seconds["draft"] / depth)
            self.width += BLEND * (len(step.tree) / depth - self.width)
