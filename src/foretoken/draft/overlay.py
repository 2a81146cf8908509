"""Tri-gram rows that were learned while running, over a base that is only read.

Most of what is learned is never read: the row of a rejected node, a pair of the prompt. So what is
learned is noted beside the row, and a row's notes are worked in when somebody reads it.
Blends come out as if they had been made at once; a pair that a text was counted for, and that was
new, starts from its back-off row as it is when the counts are worked in, which is later.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

from foretoken.draft.trigram_table import NO_ROW, Row

Pair = tuple[int, int]  # (a, b); (-1, b) is the back-off row of b
# a row and its share in a blend; or how often a text goes on with which token, and the trust in it
Note = tuple[Row, float] | tuple[dict[int, int], float]

MOST_NOTES = 4  # of one row, then they are worked in: a row and its notes are held for long


class Overlay:
    """At most `limit` rows, the one written longest ago goes first.

    work_in: the row of a key from what it was (NO_ROW if it is new) and notes, the oldest first.
    Weights of a row may sum to more than 1.
    """

    def __init__(self, limit: int, work_in: Callable[[Pair, Row, Sequence[Note]], Row]) -> None:
        self.limit = limit
        self._work_in = work_in
        self._rows: OrderedDict[Pair, Row] = OrderedDict()
        self._notes: dict[Pair, list[Note]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[tuple[Pair, Row]]:
        """Rows, the one written longest ago first."""
        for key in list(self._notes):
            self.get(key)
        return iter(self._rows.items())

    def get(self, key: Pair) -> Row | None:
        """A row with all that was noted; None for a key that was never written."""
        row = self._rows.get(key)
        if row is None or key not in self._notes:
            return row
        row = self._rows[key] = self._work_in(key, row, self._notes.pop(key))
        return row

    def note(self, key: Pair, note: Note) -> None:
        """Write a note; its row is the youngest now."""
        notes = self._notes.get(key)
        if notes is None:
            self._notes[key] = [note]
            self._write(key, self._rows.get(key, NO_ROW))
            return
        notes.append(note)
        self._rows.move_to_end(key)
        if len(notes) == MOST_NOTES:
            self.get(key)

    def put(self, key: Pair, row: Row) -> None:
        """Write a row in the place of what was known; it is the youngest now."""
        self._notes.pop(key, None)
        self._write(key, row)

    def _write(self, key: Pair, row: Row) -> None:
        self._rows[key] = row
        self._rows.move_to_end(key)
        if len(self._rows) > self.limit:
            self._notes.pop(self._rows.popitem(last=False)[0], None)
