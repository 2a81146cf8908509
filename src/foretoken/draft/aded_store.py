"""What one scope of ADED knows: rows of the base table and, over them, rows learned while running."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from foretoken.draft.trigram_table import (
    NO_ROW,
    Overlay,
    Row,
    TrigramTable,
    blend,
    normalise,
    rank,
)

Pair = tuple[int, int]  # (a, b); (-1, b) is the back-off row of b


class Store:
    """Rows by token pair, read with back-off and written one at a time."""

    def __init__(
        self, base: TrigramTable | None, max_rows: int, max_successors: int, decay: float = 1.0
    ) -> None:
        self.base, self.max_successors, self.decay = base, max_successors, decay
        self.overlay = Overlay(max_rows)
        self.users = 0  # sessions that are open on it
        self._learned = self.overlay.get
        self._tries: OrderedDict[tuple[int, ...], int] = OrderedDict()

    def row(self, a: int, b: int) -> Row:
        """The pair's row, else the back-off row of b; probabilities sum to at most 1."""
        return self.own((a, b)) or self.own((-1, b)) or NO_ROW

    def own(self, key: Pair) -> Row | None:
        """The key's own row, without back-off."""
        row = self._learned(key)
        if row is not None:
            return normalise(row)
        if self.base is None:
            return None
        row = self.base.row(*key)
        return row if row[0] else None

    def weights(self, a: int, b: int) -> Row:
        """The pair's weights as they stand, neither shrunk nor normalised (mode "reference")."""
        row = self._learned((a, b))
        if row is not None:
            return row
        return NO_ROW if self.base is None else self.base.trigram(a, b)[0]

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
        old = self._learned(key)
        if old is None and self.base is not None:
            old = self.base.row(*key)
        if not old or not old[0]:
            share, old = 1.0, NO_ROW
        elif self.decay != 1.0:
            old = (old[0], [w * self.decay for w in old[1]])
        self.overlay.put(key, blend(old, new, share, self.max_successors))

    def bump(self, a: int, b: int, token: int, gain: float, cap: float) -> None:
        """Add `gain` to one weight, up to `cap`; the entry is made if it is absent."""
        row = self.weights(a, b)
        weights = {t: w * self.decay for t, w in zip(row[0], row[1], strict=True)}
        weights[token] = min(weights.get(token, 0.0) + gain, cap)
        kept = rank(weights, self.max_successors)
        if token not in kept[0]:  # a full row of heavier ones: the lightest makes room
            kept = ([*kept[0][:-1], token], [*kept[1][:-1], weights[token]])
        self.overlay.put((a, b), kept)

    def count(self, tokens: Sequence[int], trust: float) -> None:
        """Take up a text: n occurrences of a pair weigh n / (n + trust) against what was known."""
        starts = [-1] * len(tokens)
        for firsts in (starts, tokens):  # back-off rows first: new pairs start from them
            seen: dict[Pair, dict[int, int]] = {}
            offset = 0 if firsts is starts else 1
            for a, b, c in zip(firsts, tokens[offset:], tokens[offset + 1 :], strict=False):
                found = seen.setdefault((a, b), {})
                found[c] = found.get(c, 0) + 1
            for key, found in seen.items():
                n = sum(found.values())
                old = self.own(key) or self.own((-1, key[1])) or NO_ROW
                share = n / (n + trust) if old[0] else 1.0
                new = rank({t: k / n for t, k in found.items()}, len(found))
                self.overlay.put(key, blend(old, new, share, self.max_successors))

    def state(self) -> list[Any]:
        """Learned rows, the one written longest ago first: [a, b, tokens, weights]."""
        return [[*key, list(row[0]), list(row[1])] for key, row in self.overlay]

    def load(self, rows: Sequence[Any]) -> None:
        """Take up what `state` gave."""
        for a, b, tokens, weights in rows:
            self.overlay.put((a, b), (list(tokens), list(weights)))
