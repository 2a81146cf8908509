"""forced: judge a draft by a given text instead of the target's own choice.

For measurements: the bench decodes reference texts at the target's real cost, a replay decodes what
was recorded. Lossy by design, hence not among the registered rules.
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
    """Follows one text. tokens: prompt and reference; the rule serves this one session. choose:
    compute the target's choice at every node visited, at the cost that the rule `walk` has, before
    it is overruled; without it only the text is looked at."""

    name = "forced"
    summary = "follow a reference text (bench and replay only)"
    source = "own"
    exact: ClassVar[frozenset[str]] = frozenset()
    accepts: ClassVar[frozenset[Kind]] = frozenset(KINDS)

    def __init__(self, tokens: Sequence[int], choose: bool = True) -> None:
        self.tokens, self.choose = list(tokens), choose

    def judge(self, tree: DraftTree, rows: TargetRows, coins: Coins) -> Verdict:
        """As `decide`: greedy text is overruled, too."""
        return self.decide(tree, rows, coins)

    def decide(self, tree: DraftTree, rows: TargetRows, coins: Coins) -> Verdict:
        """The nodes that spell the reference, and the reference's next token. Its last token is
        never a node that stands: nothing is known of what follows."""
        path: list[int] = []
        at = -1
        while True:
            if self.choose:
                rows.token(at, coins)
            place = rows.position(at)
            token = self.tokens[place]
            follow = next((c for c in tree.children[at + 1] if tree.tokens[c] == token), None)
            if follow is None or place == len(self.tokens) - 1:
                return Verdict(tuple(path), token)
            path.append(follow)
            at = follow
