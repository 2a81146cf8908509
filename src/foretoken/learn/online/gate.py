"""Whether what was learned is served: it may not lose acceptance on texts that it has not seen.

Acceptance is the mean of sum min(p, q) over the rows of the held-out slice, with the weights that
serve and with those that were trained: the same rows, so that most of the noise cancels. Rows of a
text count half as much for every `HALVING` texts that were held out after it: the next requests
resemble the last ones, and after a change of topic what helps there must not fail by what was
before. What loses more than the tolerance is not served; after `trials` such updates in a row it is
taken back, bit for bit. An update can only change speed, never a text; the gate bounds how much.
Source: our notes on osd, 3 ("gate each update").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foretoken.learn.online.buffer import Sample, rows
from foretoken.learn.online.update import Trainee

HALVING = 2.0  # held-out texts


@dataclass(frozen=True)
class Check:
    """Acceptance on some rows, of the weights that serve and of those that an update has left."""

    before: float  # NaN without rows
    after: float
    rows: int

    def passes(self, tolerance: float) -> bool:
        """Whether no more than `tolerance` was lost. Without rows there is nothing against it."""
        return not self.rows or self.after >= self.before - tolerance


class Gate:
    """Opened before an update, asked after it."""

    def __init__(self, trainee: Trainee, held_out: Sequence[Sample]) -> None:
        self._trainee, self._held_out = trainee, list(held_out)
        n = len(self._held_out)  # the newest one is the last
        self._weights = [0.5 ** ((n - 1 - i) / HALVING) for i in range(n)]
        with trainee.as_kept():
            self._before = trainee.acceptance(self._held_out, self._weights)

    def check(self) -> Check:
        """With the weights of now. A comparison with what is no number does not pass."""
        after = self._trainee.acceptance(self._held_out, self._weights)
        return Check(self._before, after, rows(self._held_out))
