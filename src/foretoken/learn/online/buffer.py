"""The texts that a drafter learns from: fresh ones, a slice that is held out, a reservoir of old.

Fresh texts wait for the next update. Every fourth is held out, since an update is kept only if it
does not lose on texts that it has not seen; the newest ones make the slice. What was learned or has
left the slice may stay in the reservoir, a uniform sample of all that ever came, against
forgetting. All of it together holds `max_rows` rows at most: half fresh, an eighth held out; and
so many texts of each (`TEXTS`), since looking at a text costs time however short it is.

Source: Liu et al. 2310.07177, sec. 4 (a buffer that is dropped after its update); the held-out
slice and the reservoir are ours (our notes on osd, 3 and 8).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from foretoken.types import BoolArray

Ints = np.ndarray[Any, np.dtype[np.int64]]
Float32 = np.ndarray[Any, np.dtype[np.float32]]
HELD_OUT = 4  # every fourth text
TEXTS = (256, 16, 512)  # fresh, held out, old: at most


@dataclass(frozen=True, eq=False)
class Sample:
    """A piece of text and the target's rows in it. Filled by `Recorder`; nothing changes it."""

    tokens: Ints  # [L]
    positions: Ints  # [n] rising; row i speaks of the token after tokens[positions[i]]
    wrong: BoolArray  # [n] whether the draft's token was refused there
    ids: Ints  # [n, k] the target's likeliest tokens
    log_p: Float32  # [n, k+1] their log-probabilities, then that of all other tokens together
    temperature: float  # at which p was taken, and q is to be
    on_text: bool  # whether all of it is the final text; else its end was the drafter's alone

    def __len__(self) -> int:
        """Rows."""
        return len(self.positions)

    def only(self, which: Sequence[int] | Ints | BoolArray) -> Sample:
        """Some of its rows, rising, and the text up to the last of them."""
        positions = self.positions[which]
        end = int(positions[-1]) + 1 if len(positions) else 0
        return replace(
            self, tokens=self.tokens[:end], positions=positions, wrong=self.wrong[which],
            ids=self.ids[which], log_p=self.log_p[which],
        )  # fmt: skip


class Buffer:
    """See the module. max_rows: held at most, in all three parts. seed: of the reservoir.
    refused: keep of fresh and old texts only the rows where the draft was refused."""

    def __init__(self, max_rows: int, seed: int = 0, refused: bool = False) -> None:
        self.refused = refused
        self.fresh: list[Sample] = []  # the longest waiting first
        self.held_out: list[Sample] = []  # the same
        self._kept: list[tuple[float, Sample]] = []  # key, text: the largest keys stay
        self._most = (max_rows // 2, max_rows // 8, max_rows - max_rows // 2 - max_rows // 8)
        self._random = np.random.default_rng(seed)
        self._seen = 0

    def __len__(self) -> int:
        """Rows held."""
        return sum(map(rows, (self.fresh, self.held_out, self.old)))

    @property
    def room(self) -> int:
        """Rows that the reservoir may hold."""
        return self._most[2]

    @property
    def old(self) -> list[Sample]:
        """The reservoir."""
        return [sample for _, sample in self._kept]

    def add(self, samples: Iterable[Sample]) -> None:
        """Take in what a request gave; texts off the final text are never held out."""
        for sample in samples:
            held = sample.on_text and self._seen % HELD_OUT == 0
            self._seen += sample.on_text
            part, most = (self.held_out, self._most[1]) if held else (self.fresh, self._most[0])
            entering = sample if held else self._lesson(sample)
            if len(entering):
                part.append(newest(entering, most))
            while rows(part) > most or len(part) > TEXTS[held]:
                gone = part.pop(0)
                if held:  # it may be learned from now
                    self._offer(self._lesson(gone))

    def _lesson(self, sample: Sample) -> Sample:
        """What of a text is learned from."""
        if self.refused and sample.on_text:
            return sample.only(np.flatnonzero(sample.wrong))
        return sample

    def take(self) -> list[Sample]:
        """The fresh texts, which are no longer fresh: they pass to the reservoir's draw."""
        taken, self.fresh = self.fresh, []
        for sample in taken:
            self._offer(sample)
        return taken

    def keep(self, samples: Sequence[Sample]) -> None:
        """These are the reservoir from now on; what exceeds its room goes, the first first."""
        self._kept = []
        for sample in samples:
            self._offer(sample)

    def _offer(self, sample: Sample) -> None:
        """Algorithm R by keys: a text stays as long as its random number is among the largest."""
        if not len(sample):
            return
        most = self._most[2]
        self._kept.append((float(self._random.random()), newest(sample, most)))
        while rows(self.old) > most or len(self._kept) > TEXTS[2]:
            self._kept.remove(min(self._kept, key=lambda pair: pair[0]))


def rows(samples: Iterable[Sample]) -> int:
    """Rows of some texts together."""
    return sum(map(len, samples))


def newest(sample: Sample, most: int) -> Sample:
    """The text, or its last `most` rows if it has more."""
    n = len(sample)
    return sample if n <= most else sample.only(np.arange(n - most, n))
