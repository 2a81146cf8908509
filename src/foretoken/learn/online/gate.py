"""Whether what was learned is served: it may not lose acceptance on texts that it has not seen.

Acceptance is the mean of sum min(p, q) over the rows of the held-out slice, with the weights that
serve and with those that were trained: the same rows, so that most of the noise cancels. Rows of a
text count half as much for every `HALVING` texts that were held out after it: the next requests
resemble the last ones, and after a change of topic what helps there must not fail by what was
before. What loses more than the tolerance is not served; after `trials` such updates in a row it is
taken back, bit for bit. An update can only change speed, never a text; the gate bounds how much.

Weights that served before are judged by the same rows (`shelf`): if one of them is better than
both, its topic has come back. What an update would make forgotten is put there: weights that do
better on some held-out texts than all others do.
Source: our notes on osd, 3 ("gate each update"); the shelf is ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from foretoken.learn.online.buffer import Sample, rows
from foretoken.learn.online.shelf import Shelf
from foretoken.learn.online.update import Trainee
from foretoken.types import FloatArray

HALVING = 2.0  # held-out texts
FORGETS = 0.04  # acceptance over all held-out texts that nobody else has: less may be chance


@dataclass(frozen=True)
class Check:
    """Acceptance on some rows, of the weights that serve and of those that an update has left."""

    before: float  # NaN without rows
    after: float
    rows: int
    shelved: float = math.nan  # of the best weights that served before; NaN without any
    which: int = -1  # their place on the shelf
    place: int = -1  # on the shelf, of what is about to be forgotten if the update stands; -1: none
    moves_on: bool = True  # whether nothing of it would be missed

    def passes(self, tolerance: float) -> bool:
        """Whether no more than `tolerance` was lost. Without rows there is nothing against it."""
        return not self.rows or self.after >= self.before - tolerance

    def comes_back(self, stands: bool) -> bool:
        """Whether the shelved weights are better than those that serve, and than those that would,
        if the update stands."""
        return self.shelved > max(self.before, self.after if stands else self.before)


class Gate:
    """Opened before an update, asked after it."""

    def __init__(
        self, trainee: Trainee, held_out: Sequence[Sample], shelf: Shelf | None = None
    ) -> None:
        self._trainee, self._held_out, self._shelf = trainee, list(held_out), shelf
        n = len(self._held_out)  # the newest one is the last
        self._rows = np.array([len(sample) for sample in self._held_out], dtype=np.float64)
        self._recent = 0.5 ** ((n - 1 - np.arange(n)) / HALVING)
        self._before = self._of(trainee.kept)

    def check(self, trained: bool = True) -> Check:
        """With the weights of now, if they are `trained`. A comparison with what is no number does
        not pass."""
        before, after = self._before, np.full(len(self._rows), math.nan)
        if trained:
            after = self._trainee.accepted(self._held_out)
        shelf = [self._of(weights) for weights in self._shelf or ()]
        found = [self._mean(each) for each in shelf]
        known = [i for i, value in enumerate(found) if not math.isnan(value)]
        best = max(known, key=found.__getitem__, default=-1)
        return Check(
            self._mean(before), self._mean(after), rows(self._held_out),
            found[best] if best >= 0 else math.nan, best, *self._place(after, shelf),
        )  # fmt: skip

    def _place(self, after: FloatArray, shelf: list[FloatArray]) -> tuple[int, bool]:
        """Where on the shelf its `mark` is worth a place, a free one or that of weights that are
        missed less; and whether nothing of the mark is missed."""
        total = self._rows.sum()
        if self._shelf is None or not total or math.isnan(after.sum()):
            return -1, True
        everyone = np.array([after, *shelf, self._of(self._shelf.mark)])
        missed = [
            float((each - np.delete(everyone, i, axis=0).max(axis=0)).clip(0.0).sum() / total)
            for i, each in enumerate(everyone)
        ]
        if missed[-1] <= FORGETS:
            return -1, missed[-1] <= FORGETS / 4
        if len(shelf) < self._shelf.most:
            return len(shelf), False
        least = min(range(1, len(shelf)), key=lambda i: missed[1 + i], default=-1)
        return (least if least > 0 and missed[1 + least] < missed[-1] else -1), False

    def _of(self, weights: Sequence[Tensor]) -> FloatArray:
        with self._trainee.having(weights):
            return self._trainee.accepted(self._held_out)

    def _mean(self, accepted: FloatArray) -> float:
        """Acceptance of a row, from [n] sums of the texts, the last ones above all."""
        count = float((self._recent * self._rows).sum())
        return float((self._recent * accepted).sum()) / count if count else math.nan
