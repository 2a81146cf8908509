"""mixed: siblings of which a few were drawn and the others fixed (Optimal MDSD's greedy drafting).

The drawn ones are tested first, by recursive rejection. Then one token drawn from what is left of
the target's law decides: if a fixed child carries it, that child stands, else it is the
correction. This is the same as testing the fixed ones in turn with one-hot laws. With the top k-1
tokens fixed and one drawn from the others (law q~), the chance to go on is
p(T) + sum over x not in T of min(p(x), q~(x)), the most that any exact rule reaches for that draft.
Fixed children first would be exact too, and worse. A drawn token that would have been fixed as
well may share its node: once rejected, it cannot be the last draw. Cost: `recursive` and one draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from foretoken.prompt.chance import Coins
from foretoken.prompt.sampling import TargetRows
from foretoken.tree import DraftTree, Kind
from foretoken.types import Verdict
from foretoken.verify.base import Verifier
from foretoken.verify.siblings import Laws, Left, descend, first_accepted


class Mixed(Verifier):
    """Drawn children by rejection, then fixed ones by draw-and-follow (all of a "point" draft)."""

    name = "mixed"
    summary = "test drawn siblings first, then one draw from what is left may hit a fixed one"
    source = "Optimal MDSD 2502.18779, greedy drafting; any number of drawn and fixed: ours"
    exact: ClassVar[frozenset[str]] = frozenset({"greedy", "sampling"})
    accepts: ClassVar[frozenset[Kind]] = frozenset({"mixed", "point"})

    def decide(self, tree: DraftTree, rows: TargetRows, coins: Coins) -> Verdict:
        """See the base class."""
        laws = Laws(tree)

        def test(left: Left, nodes: Sequence[int]) -> int | None:
            drawn = [node for node in nodes if tree.dist_row and tree.dist_row[node] >= 0]
            return first_accepted(left, drawn, tree, laws, coins)

        return descend(tree, rows, coins, test, follow_fixed=True)
