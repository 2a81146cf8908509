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
RENEWED = 64  # rests after which watching is timed anew
TELLS = 8  # of so many forwards of a rest one tells how long it took


class Rest:
    """Of one drafter, with all its sessions."""

    def __init__(self) -> None:
        self._watching: deque[float] = deque(maxlen=SAMPLES)
        self._left = self._rests = 0
        self._steps = 0

    def watched(self, seconds: float) -> None:
        """It was shown a step in which it was not asked, which took so long."""
        self._watching.append(seconds)

    def dear(self, allowed: float) -> bool:
        """Whether watching takes more than so many seconds of a step."""
        return len(self._watching) >= ENOUGH and median(self._watching) > allowed

    def begin(self, due: int) -> int:
        """Nothing is asked now, nor in the next steps before the trial that is due in `due` of
        them. Gives for how many steps beside this one the drafter rests."""
        self._rests += 1
        if self._rests % RENEWED == 0:  # it may have been a bad moment: watch anew
            self._watching.clear()
        self._left = max(min(due - 1, LONGEST), 0)
        return self._left

    @property
    def lasts(self) -> bool:
        """Whether the next step of a session falls into the rest."""
        return self._left > 0

    def goes_on(self) -> bool:
        """Whether a step of a session falls into the rest; counts it."""
        if not self._left:
            return False
        self._left -= 1
        return True

    def tells(self, batch: int) -> bool:
        """Whether a session's step, one of so many of a forward in the rest, is to be measured."""
        self._steps += 1
        return self._steps % (TELLS * batch) == 0
