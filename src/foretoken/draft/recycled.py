"""What one scope of token-recycling knows: after each token, the successors that the target liked
last time, and what such successors were worth of late."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from foretoken.draft.rates import Rates
from foretoken.draft.trigram_table import NO_ROW, Row

AGREEING = 3  # rows in a run with the same first token are counted up to here
UNLIKELY, LIKELY = 0.03, 0.15  # borders of the recorded probability of those that are not first
FIRST, LATER, MARKS = 0, 1, 4  # marks of a successor: first, likely, unlikely, hardly
FORGET = 0.998
# How often such a successor stood, by run and mark, on greedy text of the bundled model; only a
# start, since rates are learned. The recorded probability of the first successor said nothing
# (0.997 in one place is no better than 0.5: it belongs to that place), the run nearly all.
START = (
    (0.43, 0.20, 0.08, 0.035),
    (0.68, 0.25, 0.06, 0.020),
    (0.79, 0.15, 0.04, 0.012),
    (0.90, 0.10, 0.03, 0.004),
)


class Entry(NamedTuple):
    """The latest row after a token."""

    tokens: Sequence[int]  # likeliest first
    marks: Sequence[int]  # of each: first, or how likely it was
    run: int  # how many rows before it in a run put the same token first, at most AGREEING


class Matrix:
    """Rows by token, at most `max_rows`: the one unwritten longest goes."""

    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        self._rows: OrderedDict[int, Entry] = OrderedDict()
        self._rates = Rates([rate for row in START for rate in row], FORGET)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, token: int) -> bool:
        return token in self._rows

    def __getitem__(self, token: int) -> Entry:
        return self._rows[token]

    def put(self, token: int, tokens: Sequence[int], probs: Sequence[float]) -> None:
        """The target's row after a token: its likeliest successors, best first."""
        old = self._rows.pop(token, None)
        run = min(old.run + 1, AGREEING) if old is not None and old.tokens[0] == tokens[0] else 0
        marks = [FIRST, *(3 - (p >= UNLIKELY) - (p >= LIKELY) for p in probs[1:])]
        self._write(token, Entry(tokens, marks, run))

    def _write(self, token: int, entry: Entry) -> None:
        self._rows[token] = entry
        if len(self._rows) > self.max_rows:
            self._rows.popitem(last=False)

    def seed(self, text: Sequence[int], most: int) -> None:
        """A text's own successors, the latest first, up to `most`, for tokens without a row."""
        found: dict[int, dict[int, None]] = {}
        for token, successor in pairwise(text):
            if token not in self._rows:
                successors = found.setdefault(token, {})
                successors.pop(successor, None)  # the latest stands last
                successors[successor] = None
        for token, successors in found.items():
            latest = list(reversed(successors))[:most]
            self._write(token, Entry(latest, [FIRST] + [LATER] * (len(latest) - 1), 0))

    def judged(self, token: int, successor: int) -> None:
        """`successor` was written after `token`: what the row had said of it is learned from."""
        entry = self._rows.get(token)
        if entry is not None:
            for guess, mark in zip(entry.tokens, entry.marks, strict=True):
                self._rates.learn(MARKS * entry.run + mark, guess == successor)

    def row(self, token: int) -> Row:
        """Successors and how probably each stands, together at most 1, in the order of the entry;
        NO_ROW for a token without one."""
        entry = self._rows.get(token)
        if entry is None:
            return NO_ROW
        rates, first = self._rates, MARKS * entry.run
        probs = [rates[first + mark] for mark in entry.marks]
        total = max(1.0, sum(probs))
        return entry.tokens, [p / total for p in probs]

    def state(self) -> dict[str, Any]:
        """Rows, the one written longest ago first, and rates; JSON-ready."""
        rows = [[t, list(e.tokens), list(e.marks), e.run] for t, e in self._rows.items()]
        return {"rows": rows, "rates": self._rates.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        for token, tokens, marks, run in state["rows"][-self.max_rows :]:
            self._rows[token] = Entry(tokens, marks, run)
        self._rates.load(state["rates"])
