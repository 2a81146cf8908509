"""How long a forward takes here and now: the measured curve, corrected by what steps really took.

A curve is measured once per machine; clocks, neighbours and contexts drift. Each step's time over
the curve's is kept per number of rows (in powers of two); the median of the last 15 corrects the
curve there, so that one slow step changes nothing and a slower machine is known within 8 steps.
Source: our notes on length-policies, U7.
"""

from __future__ import annotations

from collections import deque
from statistics import median

from foretoken.target.cost import CostCurve

KEPT = 15  # samples a bucket
ENOUGH = 3  # samples before a bucket is believed
LONGEST = 1024  # rows of a line
_GRAIN = 128  # tokens of context that share a line
_FRESH = 16  # samples after which lines are drawn anew


class Latency:
    """Seconds of a target forward. curve: of the model and machine."""

    def __init__(self, curve: CostCurve) -> None:
        self.curve = curve
        self._ratios: dict[int, deque[float]] = {}  # bucket -> measured / curve
        self._all: deque[float] = deque(maxlen=2 * KEPT + 1)
        self._lines: dict[tuple[int, int], list[float]] = {}
        self._corrections: dict[int, float] = {}
        self._drift = 1.0
        self._seen = 0

    def line(self, context: int, rows: int) -> list[float]:
        """[rows + 1] seconds of 0 .. `rows` rows over `context` tokens; never falls with rows."""
        key = (context // _GRAIN, rows)
        found = self._lines.get(key)
        if found is None:
            found, highest = [], 0.0
            for n in range(rows + 1):
                bucket = n.bit_length()
                seconds = self.curve(n, context) * self._corrections.get(bucket, self._drift)
                highest = max(highest, seconds)
                found.append(highest)
            self._lines[key] = found
        return found

    def __call__(self, rows: int, context: int) -> float:
        """Seconds of one forward of `rows` rows."""
        if rows <= LONGEST:
            size = 64
            while size < rows:
                size *= 2
            return self.line(context, size)[rows]
        return self.curve(rows, context) * self._drift

    def observe(self, rows: int, context: int, seconds: float) -> None:
        """A forward took so long."""
        expected = self.curve(rows, context)
        if expected <= 0.0 or seconds <= 0.0:
            return
        ratio, bucket = seconds / expected, rows.bit_length()
        mine = self._ratios.setdefault(bucket, deque(maxlen=KEPT))
        mine.append(ratio)
        self._all.append(ratio)
        self._seen += 1
        if self._seen % _FRESH == 0 or len(mine) == ENOUGH:
            self._redraw()

    def _redraw(self) -> None:
        """Corrections anew; a bucket without samples takes the drift of all."""
        self._drift = median(self._all)
        self._corrections = {b: median(r) for b, r in self._ratios.items() if len(r) >= ENOUGH}
        self._lines = {}
