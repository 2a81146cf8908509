"""multi-round: SpecInfer's multi-step rejection of siblings drawn independently.

The draws at a node are tested in drawn order, each against what its predecessors left of the
target's law; q stays the same, since each draw was made from all of it. A token drawn twice is
tested twice: the second test fails, and takes q off once more. After an accepted token all draws of
that token go on, those after it too: the choice looked at tokens up to this level only, so what
was drawn below is independent still (as in SpecTr, sec. 5). Cost: three passes over the
vocabulary per rejected draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from foretoken.prompt.chance import Coins
from foretoken.prompt.sampling import TargetRows
from foretoken.tree import DraftTree, Kind
from foretoken.types import Verdict
from foretoken.verify.base import Verifier
from foretoken.verify.siblings import Laws, Left, descend


class MultiRound(Verifier):
    """Rejection in rounds for independent draws. Several draft models may have drawn them."""

    name = "multi-round"
    summary = "test independently drawn siblings in turn, each against what the last one left"
    source = "SpecInfer 2305.09781, alg. 2 (multi-step speculative sampling)"
    exact: ClassVar[frozenset[str]] = frozenset({"greedy", "sampling"})
    accepts: ClassVar[frozenset[Kind]] = frozenset({"sampled"})

    def decide(self, tree: DraftTree, rows: TargetRows, coins: Coins) -> Verdict:
        """See the base class."""
        laws = Laws(tree)

        def test(left: Left, nodes: Sequence[int]) -> int | None:
            for node in nodes:
                if left.accepts(tree.tokens[node], laws.law(node), coins):
                    return node
            return None

        return descend(tree, rows, coins, test)
