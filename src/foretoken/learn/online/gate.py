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
from time import perf_counter

import numpy as np
from torch import Tensor

from foretoken.learn.online.buffer import Sample, rows
from foretoken.learn.online.shelf import Shelf
from foretoken.learn.online.update import Trainee
from foretoken.types import FloatArray

HALVING = 2.0  # held-out texts
BACK = 0.01  # acceptance by which weights that served before must be ahead
FORGETS = 0.04  # acceptance over all held-out texts that nobody else has: less may be chance


@dataclass(frozen=True)
class Check:
    """Acceptance on some rows, of the weights that serve and of those that an update has left."""

    before: float  # NaN without rows
    after: float
    rows: int
    shelved: float = math.nan  # of the best weights that served before; NaN without any
    which: int = -1  # their place on the shelf

    def passes(self, tolerance: float) -> bool:
        """Whether no more than `tolerance` was lost. Without rows there is nothing against it."""
        return not self.rows or self.after >= self.before - tolerance

    def comes_back(self, stands: bool) -> bool:
        """Whether the shelved weights are better than those that serve, and than those that would,
        if the update stands, by more than chance often makes."""
        return self.shelved > max(self.before, self.after if stands else self.before) + BACK


class Gate:
    """Opened before an update, asked after it."""

    def __init__(
        self, trainee: Trainee, held_out: Sequence[Sample], shelf: Shelf | None = None
    ) -> None:
        self._trainee, self._held_out, self._shelf = trainee, list(held_out), shelf
        n = len(self._held_out)  # the newest one is the last
        self._rows = np.array([len(sample) for sample in self._held_out], dtype=np.float64)
        self._recent = 0.5 ** ((n - 1 - np.arange(n)) / HALVING)
        began = perf_counter()
        self._before = self._of(trainee.kept)
        # seconds that asking takes: a reading for what was trained, the shelf and its mark
        self.takes = (perf_counter() - began) * (1 if shelf is None else len(shelf) + 2)
        self._after = np.full(n, math.nan)
        self._shelved: list[FloatArray] = []

    def check(self, trained: bool = True) -> Check:
        """With the weights of now, if they are `trained`. A comparison with what is no number does
        not pass."""
        if trained:
            self._after = self._trainee.accepted(self._held_out)
        self._shelved = [self._of(weights) for weights in self._shelf or ()]
        found = [self._mean(each) for each in self._shelved]
        known = [i for i, value in enumerate(found) if not math.isnan(value)]
        best = max(known, key=found.__getitem__, default=-1)
        return Check(
            self._mean(self._before), self._mean(self._after), rows(self._held_out),
            found[best] if best >= 0 else math.nan, best,
        )  # fmt: skip

    def forgotten(self) -> tuple[int, bool]:
        """The place on the shelf that its mark is worth, if the update stands (-1: none); and
        whether nothing of the mark would be missed. After `check`."""
        assert self._shelf is not None
        missed = self._missed(self._of(self._shelf.mark), self._after)
        return self._place(missed), not missed[-1] > FORGETS / 4

    def place(self) -> int:
        """The place on the shelf that the weights which serve are worth; -1: none."""
        return self._place(self._missed(self._before))

    def _missed(self, known: FloatArray, *others: FloatArray) -> list[float]:
        """Of each set on the shelf, and of `known`, the acceptance over all held-out texts that
        nobody else has, `others` among them."""
        everyone = np.array([*others, *self._shelved, known])
        total = max(self._rows.sum(), 1.0)
        rest = [np.delete(everyone, i, axis=0).max(axis=0) for i in range(len(everyone))]
        lost = [(each - most).clip(0.0).sum() for each, most in zip(everyone, rest, strict=True)]
        return [float(each / total) for each in lost[len(others) :]]

    def _place(self, missed: list[float]) -> int:
        """A free place for the last of those, or that of what is missed less; -1: none."""
        assert self._shelf is not None
        *shelved, known = missed
        if not known > FORGETS:
            return -1
        if len(shelved) < self._shelf.most:
            return len(shelved)
        least = min(range(1, len(shelved)), key=shelved.__getitem__, default=-1)
        return least if least > 0 and shelved[least] < known else -1

    def _of(self, weights: Sequence[Tensor]) -> FloatArray:
        with self._trainee.having(weights):
            return self._trainee.accepted(self._held_out)

    def _mean(self, accepted: FloatArray) -> float:
        """Acceptance of a row, from [n] sums of the texts, the last ones above all."""
        count = float((self._recent * self._rows).sum())
        return float((self._recent * accepted).sum()) / count if count else math.nan
