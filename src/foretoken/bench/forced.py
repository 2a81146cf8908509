"""forced: judge a draft by a given text instead of the target's own choice.

The target runs every forward and its choice is computed at every node visited, at the same cost as
with the rule `walk`; then the reference decides. So drafters can be measured on human text at the
real cost of the target. Lossy by design, hence in bench/ and not among the registered rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from foretoken.prompt.chance import Coins
from foretoken.prompt.sampling import TargetRows
from foretoken.tree import KINDS, DraftTree, Kind
from foretoken.types import Verdict
from foretoken.verify.base import Verifier


class Forced(Verifier):
    """Follows one text. tokens: prompt and reference; the rule serves this one session."""

    name = "forced"
    summary = "follow a reference text (bench only)"
    source = "own"
    exact: ClassVar[frozenset[str]] = frozenset()
    accepts: ClassVar[frozenset[Kind]] = frozenset(KINDS)

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = list(tokens)

    def judge(self, tree: DraftTree, rows: TargetRows, coins: Coins) -> Verdict:
        """As `decide`: greedy text is overruled, too."""
        return self.decide(tree, rows, coins)

    def decide(self, tree: DraftTree, rows: TargetRows, coins: Coins) -> Verdict:
        """The nodes that spell the reference, and the reference's next token."""
        path: list[int] = []
        at = -1
        while True:
            rows.token(at, coins)  # the target's choice: paid for, then overruled
            token = self.tokens[rows.position(at)]
            follow = next((c for c in tree.children[at + 1] if tree.tokens[c] == token), None)
            if follow is None:
                return Verdict(tuple(path), token)
            path.append(follow)
            at = follow
