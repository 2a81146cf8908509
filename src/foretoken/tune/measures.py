"""What a stream with shifts says of a run: how fast, how far from the optimum, how it recovers.

A run is laid out as seconds per token (a step's time spread over its tokens). Its gain in a window
is plain decoding's time for the same tokens over the run's: 1 is plain, and a machine that becomes
slower alone changes nothing. All windows have the same number of tokens; those that are compared
after a shift begin after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from pydantic import BaseModel

from foretoken.tune.hindsight import Span
from foretoken.types import FloatArray

WINDOW = 80  # tokens
STEADY = 0.95  # of the later steady gain: recovered


class Score(BaseModel):
    """One run of one scenario. Seconds are those of the virtual clock, prompts not counted."""

    tokens_per_step: float
    tokens_per_second: float
    ratio: float  # to plain decoding
    regret: float  # time over the hindsight optimum's, less 1
    floor: float  # gain in the worst window
    # per shift: tokens until a window has 95 % of the gain of the phase's second half; None: never
    recovery: list[int | None]
    # the same with the optimum in plain decoding's place: what is the text's own cancels out, as
    # does what all drafters have to learn anew
    lag: list[int | None]
    drop: list[float]  # per shift: the worst window after it over the half phase before it
    # a phase that returns: gain in its first windows over that at the end of its first visit
    forgetting: float | None
    gains: list[float]  # per window, every quarter of a window


def score(
    run: Sequence[Sequence[Span]],
    plain: Sequence[Sequence[Span]],
    best: Sequence[Sequence[Span]],
    phases: Sequence[tuple[str, int]],
    window: int = WINDOW,
) -> Score:
    """run, plain, best: the steps of each request. phases: (name, tokens) in order. Raises
    ValueError for runs of different texts."""
    mine, base, least = (layout(steps) for steps in (run, plain, best))
    borders = [0, *np.cumsum([tokens for _, tokens in phases]).tolist()]
    if not len(mine) == len(base) == len(least) == borders[-1]:
        raise ValueError(f"{len(mine)}, {len(base)}, {len(least)} tokens of {borders[-1]}")
    width = min(window, *(tokens for _, tokens in phases))
    stream, ideal = Stream(mine, base, width), Stream(mine, least, width)
    steps = sum(len(spans) for spans in run)
    shifts = range(1, len(phases))
    return Score(
        tokens_per_step=len(mine) / steps,
        tokens_per_second=len(mine) / float(mine.sum()),
        ratio=float(base.sum() / mine.sum()),
        regret=float(mine.sum() / least.sum()) - 1.0,
        floor=stream.worst(0, borders[-1]),
        recovery=[stream.recovery(borders[i], borders[i + 1]) for i in shifts],
        lag=[ideal.recovery(borders[i], borders[i + 1]) for i in shifts],
        drop=[
            stream.worst(borders[i], borders[i + 1]) / stream.steady(borders[i - 1], borders[i])
            for i in shifts
        ],
        forgetting=_forgetting(stream, phases, borders),
        gains=stream.gains[:: max(stream.window // 4, 1)].tolist(),
    )


def layout(run: Sequence[Sequence[Span]]) -> FloatArray:
    """[tokens] seconds of each token of the stream."""
    spans = list(chain.from_iterable(run))
    counts = [span.tokens for span in spans]
    return np.repeat([span.seconds / span.tokens for span in spans], counts)


class Stream:
    """Windowed gains of one run over another, `base`."""

    def __init__(self, mine: FloatArray, base: FloatArray, window: int) -> None:
        self.window = window
        self._mine, self._base = (np.concatenate([[0.0], np.cumsum(x)]) for x in (mine, base))
        # [tokens - window + 1] gain of the window that begins at each token
        self.gains = (self._base[window:] - self._base[:-window]) / (
            self._mine[window:] - self._mine[:-window]
        )

    def gain(self, start: int, end: int) -> float:
        """Of a stretch of tokens."""
        return float((self._base[end] - self._base[start]) / (self._mine[end] - self._mine[start]))

    def steady(self, start: int, end: int) -> float:
        """Of a phase: its second half."""
        return self.gain((start + end) // 2, end)

    def _inside(self, start: int, end: int) -> FloatArray:
        return np.asarray(self.gains[start : max(end - self.window, start) + 1])

    def worst(self, start: int, end: int) -> float:
        """The lowest window of a stretch."""
        return float(self._inside(start, end).min())

    def recovery(self, start: int, end: int) -> int | None:
        """Tokens of a phase before the first window that is back to its steady gain."""
        good = np.flatnonzero(self._inside(start, end) >= STEADY * self.steady(start, end))
        return int(good[0]) if len(good) else None


def _forgetting(
    stream: Stream, phases: Sequence[tuple[str, int]], borders: Sequence[int]
) -> float | None:
    names = [name for name, _ in phases]
    last = len(names) - 1
    first = names.index(names[last])
    if first == last:
        return None
    stretch = min(2 * stream.window, phases[first][1], phases[last][1])
    early = stream.gain(borders[last], borders[last] + stretch)
    return early / stream.gain(borders[first + 1] - stretch, borders[first + 1])
