"""Whose seconds are whose: laps of a clock, and what the sessions of one forward share."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple


class Shared(NamedTuple):
    """What the sessions of one forward have in common; seconds are one session's share."""

    drafted: float
    scored: float
    batch: int
    rows: int
    prompts: int
    now: Callable[[], float] = perf_counter


class Clock:
    """Seconds between laps."""

    def __init__(self, now: Callable[[], float] = perf_counter) -> None:
        self._now, self._last = now, now()

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = self._now()
        spent, self._last = now - self._last, now
        return spent
