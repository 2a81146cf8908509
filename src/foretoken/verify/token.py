"""token: the standard rule of speculative sampling, one draft after the other along a chain.

Accept x with probability min(1, p(x) / q(x)); after the first rejection the text goes on with a
token from norm((p - q)_+). The chance to accept is 1 - TV(p, q) at each position. On a tree only
the trunk is judged, that is the first draw at each node: it was drawn from its row alone, whatever
the kind of draft; the other branches are ignored. A fixed draft has a one-hot law, so it is
accepted with p(x). Cost: one pass over the vocabulary per accepted token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from foretoken.prompt.chance import Coins
from foretoken.prompt.sampling import TargetRows
from foretoken.tree import KINDS, DraftTree, Kind
from foretoken.types import Verdict
from foretoken.verify.base import Verifier
from foretoken.verify.siblings import Laws, Left, descend


class Token(Verifier):
    """Token-wise rejection along the first-drawn path. Exact for any kind of draft."""

    name = "token"
    summary = "accept each draft of a chain with min(1, p/q); on a tree, the first-drawn path only"
    source = "Leviathan et al. 2211.17192, alg. 1; Chen et al. 2302.01318, alg. 2"
    exact: ClassVar[frozenset[str]] = frozenset({"greedy", "sampling"})
    accepts: ClassVar[frozenset[Kind]] = frozenset(KINDS)

    def decide(self, tree: DraftTree, rows: TargetRows, coins: Coins) -> Verdict:
        """See the base class."""
        laws = Laws(tree)

        def test(left: Left, nodes: Sequence[int]) -> int | None:
            for node in nodes[:1]:
                if left.accepts(tree.tokens[node], laws.law(node), coins):
                    return node
            return None

        return descend(tree, rows, coins, test)
