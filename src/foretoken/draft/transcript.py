"""One text in the tokens of two tokenizers, while it grows.

The target writes tokens; the small model must read the same text in its own. New tokens are never
encoded alone: where they begin may lie inside a token of the other tokenizer, or change the ones
before. So the end of the known text is encoded twice, without and with what is new. What both have
in common stays, the rest is replaced. The first of the two must end in the very ids that are held,
beyond what is replaced, or else the window is too short and grows, up to the whole run of text.
(OmniDraft 2507.02659, algorithm 1, step 6, asks for the encoding given the matched text so far;
the two-fold comparison is ours.)

Special tokens cut the text into runs, which are encoded each by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

from foretoken.draft.spelling import dangling
from foretoken.draft.vocabularies import Vocabularies

BEHIND = 48  # bytes of known text that are encoded again, at first
SURE = 4  # ids before the first replaced one that must be the held ones


class Pair(NamedTuple):
    """A target token, and the drafter's tokens of the same text."""

    token: int
    gram: tuple[int, ...]
    place: int  # of the token in the target's text
    at: int  # of the first of `gram` in the drafter's


class Transcript:
    """The text of one session, as the small model reads it."""

    def __init__(self, pair: Vocabularies) -> None:
        self.pair = pair
        self.ids: list[int] = [] if pair.same else list(pair.drafter.prefix)
        self.seen = 0  # target tokens that were taken up
        self.text = bytearray()  # of the run, as the target wrote it
        self._from = len(self.ids)  # where the run begins in `ids`
        # new tokens of the run: (token, its place, start and end in the run's text)
        self._new: list[tuple[int, int, int, int]] = []

    @property
    def broken(self) -> bool:
        """Whether the text ends inside a character that the small model cannot read so far."""
        return not self.pair.same and not self.pair.drafter.knows_bytes(
            dangling(bytes(self.text[-4:]))
        )

    def follow(self, tokens: Sequence[int]) -> tuple[int, list[Pair]]:
        """Take up a text, of which the tokens seen so far are a prefix.

        Gives how many of `ids` stayed, and the new target tokens whose text is that of whole tokens
        of the drafter, with these.
        """
        seen, self.seen = self.seen, len(tokens)
        new = tokens[seen:]
        if self.pair.same:
            held, last = len(self.ids), self.pair.n_drafter - 1
            self.ids += (min(token, last) for token in new)  # padding is read as padding
            return held, []
        stayed, known = len(self.ids), len(self.text)
        found: list[Pair] = []
        self._new = []
        for place, token in enumerate(new, seen):
            if token in self.pair.target.specials:
                stayed = min(stayed, self._encode(known))
                found += self._aligned()
                self._special(token)
                known = 0
            else:
                self._write(token, place)
        stayed = min(stayed, self._encode(known))
        return stayed, found + self._aligned()

    def ahead(self, tokens: Sequence[int]) -> Transcript:
        """The text that goes on with `tokens`; this one stays as it is."""
        other = Transcript(self.pair)
        other.ids, other.text, other._from = list(self.ids), bytearray(self.text), self._from
        other.follow(tokens)
        return other

    def _write(self, token: int, place: int) -> None:
        piece = self.pair.target.piece(token) or b""
        if not self.text and self.pair.target.strips:
            piece = piece.removeprefix(b" ")
        start = len(self.text)
        self.text += piece
        self._new.append((token, place, start, len(self.text)))

    def _special(self, token: int) -> None:
        """A special token ends the run: its counterpart, or its name as text, or nothing if the
        small model would have put its own start of text there."""
        ours = self.pair.to_drafter[token] if token < self.pair.n_target else -1
        if ours < 0:
            role = token in (self.pair.target.bos, self.pair.target.eos)
            name = "" if role else self.pair.target.specials[token]
            self.ids += self.pair.drafter.encode(name.encode())
        elif self.ids != [ours]:  # else the prefix has it
            self.ids.append(ours)
        self.text.clear()
        self._from, self._new = len(self.ids), []

    def _encode(self, known: int) -> int:
        """Bring `ids` up to the run's text, of which `known` bytes were encoded before; how many
        of the ids stayed."""
        held, size = len(self.ids), len(self.text)
        if known == size:
            return held
        behind, encode = BEHIND, self.pair.drafter.encode
        while behind < known:
            start = self._character(known - behind)
            before = encode(bytes(self.text[start:known]))
            after = encode(bytes(self.text[start:]))
            replaced = len(before) - common(before, after)
            last = self.ids[max(self._from, held - len(before)) :]
            agreed = common(before[::-1], last[::-1])
            if agreed >= replaced + SURE:
                stays = held - replaced
                self.ids[stays:] = after[len(before) - replaced :]
                return stays
            behind *= 4
        whole = encode(bytes(self.text))
        stays = self._from + common(whole, self.ids[self._from :])
        self.ids[stays:] = whole[stays - self._from :]
        return stays

    def _character(self, at: int) -> int:
        """The start of the character at or before a place in the text."""
        while at > 0 and self.text[at] & 0xC0 == 0x80:
            at -= 1
        return at

    def _aligned(self) -> list[Pair]:
        """The run's new target tokens that are whole tokens of the drafter."""
        if not self._new:
            return []
        at, first = len(self.text), self._new[0][2]
        index = {at: len(self.ids)}  # place in the text -> the id that begins there
        for i in range(len(self.ids) - 1, self._from - 1, -1):
            piece = self.pair.drafter.piece(self.ids[i])
            if at <= first or piece is None:
                break
            if i == self._from and len(piece) == at + 1:  # a mark of the start, not of the text
                piece = piece.removeprefix(b" ")
            at -= len(piece)
            if at < 0 or self.text[at : at + len(piece)] != piece:
                break  # a tokenizer that changes what it reads
            index[at] = i
        return [
            Pair(token, tuple(self.ids[index[start] : index[end]]), place, index[start])
            for token, place, start, end in self._new
            if start < end and start in index and end in index
        ]


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common prefix."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
