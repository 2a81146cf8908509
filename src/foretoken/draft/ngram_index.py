"""Where did the last tokens occur before? An incremental index of one session's n-grams."""

from __future__ import annotations

from collections.abc import Sequence

from foretoken.tree import EMPTY, DraftTree
from foretoken.types import Budget


class NgramIndex:
    """n-gram -> where it last ended, for min_n <= n <= max_n.

    Costs O(tokens added since the last call) per call, memory one entry per distinct n-gram. The
    n-grams that end at the very tail are left out until text follows them, so that the tail does
    not find itself.
    """

    def __init__(self, max_n: int, min_n: int = 1) -> None:
        self.max_n, self.min_n = max_n, min_n
        self._ends: dict[tuple[int, ...], int] = {}
        self._done = 0  # n-grams that end at or before here are in

    def find(self, tokens: Sequence[int]) -> tuple[int, int]:
        """(n, end) of the longest tail that occurred before, its latest place; (0, 0) if none.

        `tokens[end:]` is what followed. `tokens` only ever grows between calls.
        """
        length = len(tokens)
        ends = self._ends
        for end in range(self._done + 1, length):
            for n in range(self.min_n, min(self.max_n, end) + 1):
                ends[tuple(tokens[end - n : end])] = end
        self._done = max(self._done, length - 1)
        for n in range(min(self.max_n, length), self.min_n - 1, -1):
            found = ends.get(tuple(tokens[length - n :]))
            if found is not None:
                return n, found
        return 0, 0


# Chance that a copied token is right, by length of the match; a guess that policies calibrate.
COPY_Q = (0.0, 0.3, 0.5, 0.6)


def copied(index: NgramIndex, tokens: list[int], budget: Budget, eos: Sequence[int]) -> DraftTree:
    """The chain of what followed the longest known tail, as long as the budget allows."""
    n, end = index.find(tokens)
    if not n:
        return EMPTY
    q, length = COPY_Q[min(n, len(COPY_Q) - 1)], 0
    while length < min(budget.nodes, budget.depth) and q ** (length + 1) >= budget.min_prob:
        length += 1
    chain = continuation(tokens, end, length, eos)
    return DraftTree.chain(chain, [q] * len(chain))


def continuation(tokens: Sequence[int], end: int, length: int, eos: Sequence[int]) -> list[int]:
    """What followed `end`, as if the text from there on repeated for ever; nothing after an eos."""
    period = len(tokens) - end
    out: list[int] = []
    for i in range(length):
        out.append(tokens[end + i % period])
        if out[-1] in eos:
            break
    return out
