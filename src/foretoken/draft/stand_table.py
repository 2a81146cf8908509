"""Which distribution followed the last few tokens? Rows of the target's, averaged, by n-gram.

`StandTable` is a store of one scope. Rows are kept raw, at temperature 1, and processed when they
are read (`warped`): a request at another temperature finds them as good as one at the same. Keying
rows by the sampling settings would start every setting from nothing. The price: the average of
processed rows is not the processed average; drafts are a little off, text is not.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Any, NamedTuple

from foretoken.errors import ArtifactError
from foretoken.types import Sampling

Tail = tuple[int, ...]  # the last tokens of a text, as many as the longest key (fewer at its start)


_LEAST = 1e-30  # a smaller probability is lost in float32, and nothing must be drawn from it


class Row(NamedTuple):
    """What followed one key. Nobody changes it: keys of several lengths may share it."""

    tokens: Sequence[int]  # likeliest first
    probs: Sequence[float]  # means of the target's, temperature 1; float32, sum <= 1
    seen: float  # rows in the mean


class StandTable:
    """key (the last n tokens) -> Row, for every n in `lengths`.

    lengths: rising. width: entries kept of a row. floor: least share of a new row in the mean; 0 is
    the plain mean, which hardly moves after a thousand rows. trust: rows that the shorter keys
    weigh as many as when a longer one is read; 0 reads the longest known key alone. Holds at most
    `limit` rows; the one written longest ago goes first (reading leaves no trace, so that asking
    for a draft in vain does not change later ones).
    """

    def __init__(
        self,
        lengths: Sequence[int] = (1, 2, 3, 4),
        width: int = 10,
        floor: float = 0.02,
        trust: float = 4.0,
        limit: int = 200_000,
    ) -> None:
        self.lengths, self.width, self.floor, self.limit = tuple(lengths), width, floor, limit
        self.trust, self.longest = trust, self.lengths[-1]
        self._backwards = self.lengths[::-1]
        self._rows: OrderedDict[Tail, Row] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, tail: Tail) -> tuple[int, Row] | None:
        """What follows the text that ends so: the length of its longest known key, and a row.

        A key seen k times has the share k / (k + trust) of its row, shorter ones share the rest
        alike; what remains at the end is nobody's, so that the row sums to less than 1.
        """
        longest, left, first = 0, 1.0, None
        mean: dict[int, float] = {}
        for n in self._backwards:
            row = self._rows.get(tail[-n:]) if n <= len(tail) else None
            if row is None:
                continue
            if first is None:
                longest, first = n, row
                if not self.trust:
                    return n, row
            share = left * row.seen / (row.seen + self.trust)
            left -= share
            for token, p in zip(row.tokens, row.probs, strict=True):
                mean[token] = mean.get(token, 0.0) + share * p
        if first is None:
            return None
        return longest, Row(*self._best(mean), first.seen)

    def learn(
        self, tail: Tail, tokens: Sequence[int], probs: Sequence[float], weight: float = 1.0
    ) -> None:
        """Take a row of the target into the means of all keys that end the text.

        tokens, probs: likeliest first, temperature 1. weight: rows that it counts as.
        """
        fresh: Row | None = None
        rows = self._rows
        for n in self.lengths:
            if n > len(tail):
                break
            key = tail[-n:]
            old = rows.get(key)
            if old is not None:
                rows[key] = self._mean(old, tokens, probs, weight)
                rows.move_to_end(key)
                continue
            if fresh is None:
                fresh = packed(tokens[: self.width], probs[: self.width], weight)
            rows[key] = fresh
        while len(rows) > self.limit:
            rows.popitem(last=False)

    def _mean(self, old: Row, tokens: Sequence[int], probs: Sequence[float], weight: float) -> Row:
        """The running mean over the union of both rows; a token that one lacks counts as 0."""
        seen = old.seen + weight
        share = max(weight / seen, self.floor)
        mean = {t: (1.0 - share) * p for t, p in zip(old.tokens, old.probs, strict=True)}
        for token, p in zip(tokens, probs, strict=True):
            mean[token] = mean.get(token, 0.0) + share * p
        return packed(*self._best(mean), seen)

    def _best(self, mean: dict[int, float]) -> tuple[list[int], list[float]]:
        """The likeliest tokens, best first, and their probabilities."""
        best = sorted(mean.items(), key=itemgetter(1), reverse=True)[: self.width]
        return [token for token, _ in best], [p for _, p in best]

    def read(self, tokens: Sequence[int], prob: float) -> None:
        """Take up a text that the target did not write: each token had this probability there.
        Where the longest key is known, nothing is learned: the text, or the target, said it."""
        for at in range(1, len(tokens)):
            tail = tuple(tokens[max(at - self.longest, 0) : at])
            if tail not in self._rows or len(tail) < self.longest:
                self.learn(tail, (tokens[at],), (prob,))

    def state(self) -> list[Any]:
        """[key, tokens, probs, seen], the row written longest ago first."""
        return [
            [list(key), list(row.tokens), list(row.probs), row.seen]
            for key, row in self._rows.items()
        ]

    def load(self, rows: Iterable[tuple[Tail, Row]]) -> None:
        """Take up what `state` gave and `checked` read: the rows of keys that this table has."""
        for key, row in rows:
            if len(key) in self.lengths:
                self._rows[key] = row
                self._rows.move_to_end(key)
        while len(self._rows) > self.limit:
            self._rows.popitem(last=False)


def checked(state: Any) -> list[tuple[Tail, Row]]:
    """The rows of a table's `state`. Raises ArtifactError if one of them is none."""
    try:
        found = []
        for key, tokens, probs, seen in state:
            row = packed(tokens, probs, float(seen))
            if not (row.seen > 0 and len(tokens) == len(probs) > 0 and _is_law(row.probs)):
                raise ValueError
            found.append((tuple(map(int, key)), row))
    except (TypeError, ValueError, OverflowError):
        raise ArtifactError("stand: the saved state has a row that is none") from None
    return found


def packed(tokens: Sequence[int], probs: Sequence[float], seen: float) -> Row:
    """A row in a tenth of the memory that lists of numbers take."""
    return Row(array("I", tokens), array("f", probs), seen)


def _is_law(probs: Sequence[float]) -> bool:
    falling = all(a >= b for a, b in pairwise(probs))
    return falling and probs[-1] >= 0.0 and sum(probs) <= 1.001  # beyond rounding


def warped(row: Row, sampling: Sampling, sharpness: float) -> list[float]:
    """The row's probabilities after the request's temperature, top-k, top-p and min-p.

    Likeliest first; those cut off at the end are missing. They sum to less than 1 by what the row
    does not know: the tokens beyond its width, which at other temperatures are taken for as likely
    as its last one (right where it matters little). sharpness: stands for 1 / temperature in greedy
    text, whose tokens are chosen and not drawn.
    """
    power = 1.0 / sampling.temperature if sampling.temperature else sharpness
    probs, rest = list(row.probs), max(1.0 - sum(row.probs), 0.0)
    best = probs[0]
    if best <= 0.0:
        return []
    if power != 1.0:  # relative to the best, so that nothing underflows that matters
        rest = rest / best * max(probs[-1] / best, 1e-9) ** (power - 1.0)
        probs = [(p / best) ** power for p in probs]
    if not sampling.greedy:
        probs, rest = _cut(probs, rest, sampling)
    total = sum(probs) + rest
    return [p / total for p in probs if p > _LEAST * total]


def _cut(probs: list[float], rest: float, sampling: Sampling) -> tuple[list[float], float]:
    """What top-k, top-p and min-p leave of a row and of what it does not know."""
    if 0 < sampling.top_k <= len(probs):
        probs, rest = probs[: sampling.top_k], 0.0
    if sampling.top_p < 1.0:
        mass = sampling.top_p * (sum(probs) + rest)
        for n, p in enumerate(probs, start=1):
            mass -= p
            if mass <= 0.0:
                probs, rest = probs[:n], 0.0
                break
    least = sampling.min_p * probs[0]
    return [p for p in probs if p >= least], rest if probs[-1] >= least else 0.0
