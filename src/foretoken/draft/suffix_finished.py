"""What one scope of `suffix-store` knows: finished answers, and what claims of counts are worth."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import Any

from foretoken.draft.suffix_tree import SuffixTree

LENGTHS = (1, 3, 6, 16)  # shortest match of each class
COUNTS = (1, 2, 4, 10)  # least places of each class
LONG = LENGTHS[-1]  # longer matches are worth as much
# How much of what shares claim came true in forced runs over mixed texts: by source (0: the
# session's own text, 1: the store), class of length, class of count. Few places claim most: after
# one, the share is always 1.
PRIOR = (
    ((0.44, 0.59, 0.61, 0.68), (0.58, 0.69, 0.77, 0.80), (0.75, 0.81, 0.90, 0.90), (0.97,) * 4),
    ((0.18, 0.26, 0.33, 0.61), (0.34, 0.46, 0.59, 0.75), (0.62, 0.73, 0.85, 0.85), (0.97,) * 4),
)
TRUST, FORGET = 8.0, 0.99  # what the prior weighs against claims; of the claims, at each new one
LENGTH_CLASS = [max(bisect_right(LENGTHS, match) - 1, 0) for match in range(LONG + 1)]


def evidence(source: int, match: int) -> int:
    """0..7 for `DraftTree.evidence`: source and length; the count shows in q."""
    return 4 * source + LENGTH_CLASS[min(match, LONG)]


class Finished:
    """Answers in the order in which they ended, in one tree. limit: tokens kept, whole answers."""

    def __init__(self, depth: int, limit: int) -> None:
        self.limit = limit
        self.tree = SuffixTree(depth)
        self.texts: deque[list[int]] = deque()
        self.changes = 0  # what was found in the tree holds until this number goes up
        # by source, class of count, class of length: sum of shares, how much of it came true
        self._claims = [[[[0.0, 0.0] for _ in LENGTHS] for _ in COUNTS] for _ in PRIOR]
        self._worth = [[[0.0] * (LONG + 1) for _ in COUNTS] for _ in PRIOR]
        self._weigh_all()

    def __len__(self) -> int:
        """Tokens held."""
        return len(self.tree)

    def add(self, text: Sequence[int]) -> None:
        """Take up a finished answer; of one above the limit the end."""
        text = text[-self.limit :]
        while self.texts and len(self.tree) + len(text) > self.limit:
            self.tree.remove(self.texts.popleft())
        for token in text:
            self.tree.append(token)
        self.texts.append(self.tree.finish())
        self.changes += 1

    def worth(self, source: int, match: int, count: int) -> list[float]:
        """What shares are to be multiplied with, at most 1, by depth below a match that has `count`
        places; the last one holds from there on. After d accepted tokens a match of l is one of
        l + d."""
        return self._worth[source][bisect_right(COUNTS, count) - 1][min(match, LONG) :]

    def judge(self, source: int, match: int, count: int, share: float, right: bool) -> None:
        """A share claimed after a match was checked by what the target wrote."""
        places, length = bisect_right(COUNTS, count) - 1, LENGTH_CLASS[min(match, LONG)]
        claims = self._claims[source][places][length]
        claims[0] = FORGET * claims[0] + share
        claims[1] = FORGET * claims[1] + right
        self._weigh(source, places, length)

    def _weigh(self, source: int, places: int, length: int) -> None:
        claimed, right = self._claims[source][places][length]
        worth = (right + TRUST * PRIOR[source][length][places]) / (claimed + TRUST)
        stop = LENGTHS[length + 1] if length + 1 < len(LENGTHS) else LONG + 1
        row = self._worth[source][places]
        row[LENGTHS[length] : stop] = [min(worth, 1.0)] * (stop - LENGTHS[length])

    def _weigh_all(self) -> None:
        for source, rows in enumerate(self._claims):
            for places, row in enumerate(rows):
                for length in range(len(row)):
                    self._weigh(source, places, length)

    def state(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"texts": list(self.texts), "claims": self._claims}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        for text in state["texts"]:
            self.add(text)
        self._claims = [[[list(c) for c in row] for row in rows] for rows in state["claims"]]
        self._weigh_all()
