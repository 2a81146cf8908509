"""What one scope of ADED knows: rows of the base table and, over them, rows learned since."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from foretoken.draft.overlay import Note, Overlay, Pair
from foretoken.draft.trigram_table import NO_ROW, Row, TrigramTable, blend, normalise, rank


class Store:
    """Rows by token pair, read with back-off and written one at a time."""

    def __init__(
        self, base: TrigramTable | None, max_rows: int, max_successors: int, decay: float = 1.0
    ) -> None:
        self.base, self.max_successors, self.decay = base, max_successors, decay
        self.overlay = Overlay(max_rows, self._work_in)
        self.heavy = False  # whether weights may sum to more than 1: once something was bumped
        self._learned = self.overlay.get
        self._tries: OrderedDict[tuple[int, ...], int] = OrderedDict()

    def __len__(self) -> int:
        return len(self.overlay)

    def row(self, a: int, b: int) -> Row:
        """The pair's row, else the back-off row of b; probabilities sum to at most 1."""
        return self._with_back_off((a, b), self.weights((a, b)))

    def weights(self, key: Pair) -> Row:
        """The key's weights as they stand, which may sum to more than 1; NO_ROW if unknown."""
        row = self._learned(key)
        if row is None:
            return NO_ROW if self.base is None else self.base.row(*key)
        return row

    def optimistic(self, beta: float, a: int, b: int) -> Row:
        """The row with beta * sqrt(ln N / (1 + n)) added to tri-grams judged n of N times."""
        tokens, probs = self.row(a, b)
        judged = self._tries.get((a, b), 0)
        if judged < 2:
            return tokens, probs
        log, tries = math.log(judged), self._tries
        scores = {
            token: min(1.0, p + beta * math.sqrt(log / (1 + tries.get((a, b, token), 0))))
            for token, p in zip(tokens, probs, strict=True)
        }
        return rank(scores, len(scores))

    def judged(self, a: int, b: int, token: int) -> None:
        """A tri-gram was drafted and checked."""
        for key in ((a, b), (a, b, token)):
            self._tries[key] = self._tries.pop(key, 0) + 1
        while len(self._tries) > 4 * self.overlay.limit:
            self._tries.popitem(last=False)

    def learn(self, key: Pair, new: Row, share: float) -> None:
        """Blend `new` into the key's row; a key without one starts from `new` alone."""
        self.overlay.note(key, (new, share))

    def bump(self, key: Pair, token: int, gain: float, cap: float) -> None:
        """Add `gain` to one weight, up to `cap`; the entry is made if it is absent."""
        self.heavy = True
        row = self.weights(key)
        weights = {t: w * self.decay for t, w in zip(row[0], row[1], strict=True)}
        weights[token] = min(weights.get(token, 0.0) + gain, cap)
        kept = rank(weights, self.max_successors)
        if token not in kept[0]:  # a full row of heavier ones: the lightest makes room
            kept = ([*kept[0][:-1], token], [*kept[1][:-1], weights[token]])
        self.overlay.put(key, kept)

    def count(self, tokens: Sequence[int], trust: float) -> None:
        """Take up a text: n occurrences of a pair weigh n / (n + trust) against what was known."""
        starts = [-1] * len(tokens)
        for firsts in (starts, tokens):
            seen: dict[Pair, dict[int, int]] = {}
            offset = 0 if firsts is starts else 1
            for a, b, c in zip(firsts, tokens[offset:], tokens[offset + 1 :], strict=False):
                found = seen.setdefault((a, b), {})
                found[c] = found.get(c, 0) + 1
            for key, found in seen.items():
                self.overlay.note(key, (found, trust))

    def _work_in(self, key: Pair, row: Row, notes: Sequence[Note]) -> Row:
        """See `Overlay`."""
        for said, weight in notes:
            old = row
            if not old[0] and self.base is not None:
                old = self.base.row(*key)
            if isinstance(said, dict):
                old, (new, share) = self._with_back_off(key, old), _rates(said, weight)
            else:
                new, share = said, weight
                if not old[0]:
                    share = 1.0
                elif self.decay != 1.0:
                    old = (old[0], [w * self.decay for w in old[1]])
            row = blend(old, new, share, self.max_successors)
        return row

    def _with_back_off(self, key: Pair, row: Row) -> Row:
        """What `row` tells of a key, else what its back-off row does; at most 1 together."""
        if not row[0] and key[0] >= 0:
            row = self.weights((-1, key[1]))
        return normalise(row) if self.heavy else row

    def state(self) -> list[Any]:
        """Learned rows, the one written longest ago first: [a, b, tokens, weights]."""
        return [[*key, list(row[0]), list(row[1])] for key, row in self.overlay]

    def load(self, rows: Sequence[Any]) -> None:
        """Take up what `state` gave."""
        for a, b, tokens, weights in rows:
            self.overlay.put((a, b), (list(tokens), list(weights)))
            self.heavy = self.heavy or sum(weights) > 1.001  # beyond rounding


def _rates(counts: dict[int, int], trust: float) -> tuple[Row, float]:
    """A text's counts as a row, and its share against what was known."""
    n = sum(counts.values())
    return rank({t: k / n for t, k in counts.items()}, len(counts)), n / (n + trust)
