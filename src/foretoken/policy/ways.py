"""A drafter's ways of drafting, as cost-model holds them, and when it is left alone altogether."""

from __future__ import annotations

from collections.abc import Sequence

from foretoken.policy.arms import Arm
from foretoken.policy.rest import Rest


class Ways:
    """Of one drafter, with all its sessions. names: of its ways, cheapest first. known: ways that
    were loaded, of this drafter or of one that had other ways."""

    def __init__(self, names: Sequence[str], known: Ways | None = None) -> None:
        self.names, self.cheapest = tuple(names), names[0]
        before = known.arms if known is not None else {}
        self.arms: dict[str, Arm] = {**before, **{n: before.get(n) or Arm() for n in names}}
        self.idle: dict[str, int] = {}  # way -> steps since it was asked
        self.rest = Rest()
        self.plain = (
            0.0  # seconds of a plain step, a session's share, when last anything was chosen
        )

    def leave(self, due: int) -> None:
        """Nothing is asked now, nor before the trial that is due in so many steps."""
        steps = self.rest.begin(due)
        for way in self.idle:
            self.idle[way] += steps
