"""Where in an expected text is a text that is being written, and what may follow?

Own design. While both agree this is a pointer. Where they part, the text so far is looked up in the
expected one: every place near the pointer that ends as the text ends is a candidate, better the
more tokens agree; and without any agreement the edit may be an insertion (the pointer stays), a
replacement (it moves on with the text), or a replacement of other length (a token more or less,
which is also what another cut into tokens looks like). A few agreeing tokens settle it.

Cost: O(1) per token while both agree, otherwise O(places looked at x tokens that agree).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

# Classes of what stands behind a guess; the numbers are the drafter's evidence.
INSERTED, REPLACED, NEARBY, ONE_FAR, ONE, FEW, SEVERAL, MANY = range(8)
# How often the next expected token stood, by class, on half of the documents of IteraTeR's R3
# sessions (human edits, 4 k vocabulary); only a start, since rates are learned.
START_RATES = (0.14, 0.06, 0.06, 0.26, 0.66, 0.92, 0.97, 0.99)
SETTLED = 4  # agreeing tokens that make a candidate the pointer
NEAR = 8  # places of a token that are looked at, around each of two middles
FOUND = 3  # of these, candidates at most
LONGEST = 32  # agreeing tokens counted at most


class Candidate(NamedTuple):
    """A place from which the expected text may go on."""

    at: int  # index of the expected token that comes next
    matched: int  # tokens before it that agree with the end of the text
    kind: int  # class of the guess that the next token stands


class Alignment:
    """The state of one text against one expected text. expected: token ids."""

    def __init__(self, expected: Sequence[int]) -> None:
        self.expected = list(expected)
        self._places: dict[int, list[int]] = {}
        for place, token in enumerate(self.expected):
            self._places.setdefault(token, []).append(place)
        self._text: list[int] = []
        self._at = 0  # the pointer: what came before it is done with
        self._run = SETTLED  # tokens that agree up to the pointer; the start is believed
        self._off = 0  # tokens written since both parted; 0 is on the track
        self._candidates = self._settled()

    @property
    def candidates(self) -> list[Candidate]:
        """Where the expected text may go on, best first; [] at its end."""
        return self._candidates

    def advance(self, token: int) -> None:
        """A token was written."""
        self._text.append(token)
        expected = self.expected
        if not self._off and self._at < len(expected) and expected[self._at] == token:
            self._at, self._run = self._at + 1, min(self._run + 1, LONGEST)
            self._candidates = self._settled()
            return
        self._off += 1
        found = self._found()
        if found and found[0].matched >= SETTLED:
            self._at, self._run, self._off = found[0].at, found[0].matched, 0
            self._candidates = self._settled()
        else:
            self._candidates = self._with_blind(found)

    def _settled(self) -> list[Candidate]:
        if self._at == len(self.expected):
            return []
        return [Candidate(self._at, self._run, kind_of(self._run))]

    def _found(self) -> list[Candidate]:
        """Places near the pointer that end as the text ends; most agreement first, then nearest."""
        expected, text, middle = self.expected, self._text, self._at + self._off
        places = self._places.get(text[-1], [])
        # around the pointer, where an insertion goes on, and around where a replacement would
        around = [max(bisect_left(places, at) - NEAR // 4, 0) for at in (self._at, middle)]
        looked_at = {p for first in around for p in places[first : first + NEAR]}
        found = []
        for place in looked_at:
            n = 1
            most = min(LONGEST, len(text), place + 1)
            while n < most and expected[place - n] == text[-1 - n]:
                n += 1
            if place + 1 < len(expected):
                gap = place - self._at  # of the expected text, left out; less than 0: said again
                far = min(gap, abs(place + 1 - middle)) if gap >= 0 else -3 * gap
                found.append((n, far, place + 1))
        found.sort(key=lambda item: (-item[0], item[1], item[2]))
        return [
            Candidate(at, n, kind_of(n) if i == 0 else ONE_FAR)
            for i, (n, _, at) in enumerate(found[:FOUND])
        ]

    def _with_blind(self, found: list[Candidate]) -> list[Candidate]:
        """Candidates that agree; right after the mismatch also guesses at the kind of edit."""
        if self._off > 1:  # one token later, what was right agrees
            return found
        blind = ((self._at + 1, REPLACED), (self._at, INSERTED), (self._at + 2, NEARBY))
        taken = {candidate.at for candidate in found}
        return found + [
            Candidate(at, 0, kind)
            for at, kind in blind
            if at < len(self.expected) and at not in taken
        ]


def kind_of(matched: int) -> int:
    """Class of the guess that the token after so many agreeing ones stands."""
    return ONE if matched < 2 else FEW if matched < 4 else SEVERAL if matched < 12 else MANY
