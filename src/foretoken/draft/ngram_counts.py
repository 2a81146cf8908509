"""How often did which token follow the last few? Counts of all orders, bounded, and their mixture.

`NgramCounts` is a store of one scope; `Smoother` reads it, together with a tri-gram table that was
built beforehand, as one distribution over a few tokens: the orders are interpolated with fixed
weights (our notes on superposed-decoding, 3c).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

from foretoken.draft.trigram_table import TrigramTable

TABLE_COUNT = 8.0  # occurrences that a table's row weighs at most, against counts of this text
NO_PRIOR: dict[int, float] = {}


class Row:
    """What followed one context."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts: dict[int, float] = {}  # next token -> how often
        self.total = 0.0  # of the counts


NO_ROW = Row()


class NgramCounts:
    """context -> {next token: count}, for contexts of 1 .. `longest` tokens.

    Holds at most `limit` n-grams (pairs of a context and a next token): the context that was
    written longest ago goes first. Costs `longest` dictionary look-ups per token.
    """

    def __init__(self, longest: int, limit: int) -> None:
        self.longest, self.limit = longest, limit
        self._rows: OrderedDict[tuple[int, ...], Row] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def row(self, context: tuple[int, ...]) -> Row:
        """What followed the context; the caller must not change it."""
        return self._rows.get(context, NO_ROW)

    def add(self, tokens: Sequence[int], start: int) -> None:
        """Count the n-grams that end with a token at `start` or after it."""
        for end in range(max(start, 1), len(tokens)):
            token = tokens[end]
            for n in range(1, min(self.longest, end) + 1):
                self._bump(tuple(tokens[end - n : end]), token, 1.0)

    def _bump(self, context: tuple[int, ...], token: int, count: float) -> None:
        row = self._rows.get(context)
        if row is None:
            row = self._rows[context] = Row()
        else:
            self._rows.move_to_end(context)
        self._size += token not in row.counts
        row.counts[token] = row.counts.get(token, 0.0) + count
        row.total += count
        while self._size > self.limit:
            self._size -= len(self._rows.popitem(last=False)[1].counts)

    def state(self) -> list[Any]:
        """[context, tokens, counts], the context that was written longest ago first."""
        return [
            [list(context), list(row.counts), list(row.counts.values())]
            for context, row in self._rows.items()
        ]

    def load(self, rows: Sequence[Any]) -> None:
        """Add what `state` gave."""
        for context, tokens, counts in rows:
            if len(context) <= self.longest:
                for token, count in zip(tokens, counts, strict=True):
                    self._bump(tuple(context), token, count)


class Smoothed(NamedTuple):
    """What n-grams say of some tokens after one text."""

    mass: list[float]  # N(x) = sum over orders of lambda x P(x | context of that length)
    known: list[int]  # tokens of the longest context that x has followed; 0: none
    weight: float  # sum of the lambdas whose context was seen: what all of N sums to


class Smoother:
    """N(x) of a text. lambdas: weight of the contexts of 1, 2, ... tokens; unseen ones add 0."""

    def __init__(
        self, counts: NgramCounts, lambdas: Sequence[float], table: TrigramTable | None = None
    ) -> None:
        self.counts, self.lambdas, self.table = counts, lambdas, table

    def __call__(self, text: Sequence[int], tokens: Sequence[int]) -> Smoothed:
        """text: its end, as many tokens as there are lambdas (fewer at its beginning)."""
        mass, known, weight = [0.0] * len(tokens), [0] * len(tokens), 0.0
        for n, share in enumerate(self.lambdas[: len(text)], start=1):
            context = tuple(text[-n:])
            row, more, extra = self.counts.row(context), NO_PRIOR, 0.0
            if self.table is not None and n <= 2:
                more, extra = self._prior(self.table, context)
            total = row.total + extra
            if not total:
                continue
            weight += share
            for i, token in enumerate(tokens):
                count = row.counts.get(token, 0.0) + extra * more.get(token, 0.0)
                if count:
                    mass[i] += share * count / total
                    known[i] = n
        return Smoothed(mass, known, weight)

    @staticmethod
    def _prior(table: TrigramTable, context: tuple[int, ...]) -> tuple[dict[int, float], float]:
        """The table's probabilities after the context, and how many occurrences they weigh."""
        row, total = table.trigram(*context) if len(context) == 2 else table.bigram(*context)
        return dict(zip(*row, strict=True)), min(total, TABLE_COUNT)
