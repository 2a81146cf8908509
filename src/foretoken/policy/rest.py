"""Leaving a drafter alone, where even watching costs too much.

A drafter learns from every step, asked or not. Beside a large model that takes no time; beside a
small one, or with many texts at a time, it is a good part of a step. While nothing that it proposes
pays, and watching takes longer than trials may, it is neither asked nor shown the text until the
next trial is due (`Budget.unseen`): then it is shown all that it missed.
Source: own.
"""

from __future__ import annotations

from collections import deque
from statistics import median

ENOUGH, SAMPLES = 3, 15
LONGEST = 64  # steps of one rest: what a trial takes, and what may be risked, change meanwhile
TELLS = 8  # of so many steps of a rest one tells how long a forward takes


class Rest:
    """Of one drafter, with all its sessions."""

    def __init__(self) -> None:
        self._watching: deque[float] = deque(maxlen=SAMPLES)
        self._left = 0
        self._steps = 0

    def watched(self, seconds: float) -> None:
        """It was shown a step in which it was not asked, which took so long."""
        self._watching.append(seconds)

    def begin(self, due: int, allowed: float) -> int:
        """Nothing is asked now, nor in the next steps before the trial that is due in `due` of
        them. allowed: seconds of a step that watching may take. Gives for how many steps beside
        this one the drafter rests; -1 if it goes on watching."""
        if len(self._watching) < ENOUGH or median(self._watching) <= allowed:
            return -1
        self._left = min(due - 1, LONGEST)
        return self._left

    def goes_on(self) -> bool:
        """Whether a step of a session falls into the rest; counts it."""
        if not self._left:
            return False
        self._left -= 1
        return True

    def tells(self) -> bool:
        """Whether this step of the rest is one to measure."""
        self._steps += 1
        return self._steps % TELLS == 0
