"""Where did the longest tail of a growing text occur before? A suffix automaton, token by token.

Source: Blumer et al. 1985 (online construction); as a drafter's memory: SAM-Decoding, Hu et al.,
arXiv 2411.10666 (methods/modelfree-extras.md, E). A state stands for all substrings that end at the
same places; its suffix link leads to the next shorter ones that occur elsewhere, too. So the link
of the state of the whole text is the match that a drafter wants, of any length, with no limit and
no search. Where the paper keeps a state's *first* place, this keeps the latest, which is where the
text went on last time: a new token refreshes the states on the link chain of the tail.

Cost: amortised O(1) per token for the automaton, at most 2n states, and the chain, which has some
ten states in text. In a loop it grows with every round, so that only the longest CHAIN matches are
refreshed: shorter ones then keep an earlier place until the loop ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

CHAIN = 64  # states refreshed per token


class SuffixAutomaton:
    """`match` is the length of the longest tail of `text` that occurred before, 0 if none;
    `text[place:]` is what followed it at its latest earlier place."""

    def __init__(self, text: Iterable[int] = ()) -> None:
        self.text: list[int] = []
        self.match, self.place = 0, 0
        self._next: list[dict[int, int]] = [{}]  # transitions of each state; 0 is the start
        self._link = [-1]
        self._length = [0]  # of the state's longest substring
        self._end = [0]  # where the state's substrings last ended
        self._last = 0  # the state of the whole text
        for token in text:
            self.append(token)

    def __len__(self) -> int:
        return len(self.text)

    @property
    def states(self) -> int:
        """How many states there are: at most two a token."""
        return len(self._link)

    def append(self, token: int) -> None:
        """The text goes on; `match` and `place` follow."""
        self.text.append(token)
        new = self._state({}, len(self.text), len(self.text))
        at, follows, links = self._last, self._next, self._link
        while at >= 0 and token not in follows[at]:
            follows[at][token] = new
            at = links[at]
        links[new] = match = 0 if at < 0 else self._longest(at, token)
        self._last = new
        self.match, self.place = self._length[match], self._end[match]
        self._refresh(match)

    def __contains__(self, pattern: Sequence[int]) -> bool:
        """Whether the pattern occurs in the text."""
        state: int | None = 0
        for token in pattern:
            assert state is not None
            state = self._next[state].get(token)
            if state is None:
                return False
        return True

    def _longest(self, at: int, token: int) -> int:
        """The state of `at`'s longest substring + token, cut out of a larger one if need be."""
        follows, links, lengths = self._next, self._link, self._length
        found = follows[at][token]
        if lengths[found] == lengths[at] + 1:
            return found
        clone = self._state(dict(follows[found]), lengths[at] + 1, self._end[found])
        links[clone], links[found] = links[found], clone
        while at >= 0 and follows[at].get(token) == found:
            follows[at][token] = clone
            at = links[at]
        return clone

    def _refresh(self, state: int) -> None:
        here, ends, links = len(self.text), self._end, self._link
        for _ in range(CHAIN):
            if state <= 0:
                return
            ends[state] = here
            state = links[state]

    def _state(self, follows: dict[int, int], length: int, end: int) -> int:
        self._next.append(follows)
        self._link.append(-1)
        self._length.append(length)
        self._end.append(end)
        return len(self._link) - 1
