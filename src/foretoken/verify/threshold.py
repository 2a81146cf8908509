"""threshold: LOSSY. Accept a drafted token if the target gives it a probability of at least T.

The plain form of such rules: SGLang has it as `--speculative-accept-threshold-single` (off by
default, at 1.0), beside its draw-and-follow. Where no drafted token reaches T, one token is drawn
from p and followed if it was drafted. What it gains, it gains by writing likely drafts too often.
It is here to be measured, and to show that an audit finds it. Greedy text is the target's own.
"""

from __future__ import annotations

from typing import ClassVar

from foretoken.prompt.chance import Coins
from foretoken.prompt.sampling import TargetRows
from foretoken.tree import KINDS, DraftTree, Kind
from foretoken.types import Verdict
from foretoken.verify.base import Verifier


class Threshold(Verifier):
    """At each node the likeliest drafted token, if likely enough. Lossy under sampling."""

    name = "threshold"
    summary = "lossy: accept the likeliest draft if p is at least 0.3, else draw and follow"
    source = "SGLang, accept_threshold_single; the constant is ours"
    exact: ClassVar[frozenset[str]] = frozenset({"greedy"})
    accepts: ClassVar[frozenset[Kind]] = frozenset(KINDS)

    T: ClassVar[float] = 0.3

    def decide(self, tree: DraftTree, rows: TargetRows, coins: Coins) -> Verdict:
        """See the base class."""
        at, path = -1, ()  # type: int, tuple[int, ...]
        while True:
            below = tree.children[at + 1]
            chances = rows.probs(at)[[tree.tokens[child] for child in below]].tolist()
            chance, child = max(zip(chances, below, strict=True), default=(0.0, None))
            if chance >= self.T and child is not None:
                token = tree.tokens[child]
            else:
                token = rows.token(at, coins)
                child = next((c for c in below if tree.tokens[c] == token), None)
            if child is None or rows.ends(token):
                return Verdict(path, token)
            path, at = (*path, child), child
