"""recursive: recursive rejection of siblings drawn without replacement (RSD, Sequoia).

Siblings are tested in drawn order; q loses each rejected token and is renormalised, as it was when
the next one was drawn. Siblings that cover the target's support are sure to hold the next token,
which independent draws are not. If the drawn siblings hold all the mass of q, the next one's
law is uniform over the tokens not drawn yet, as in Sequoia: that is only right if drafting did the
same (a drafter may as well stop there, as RSD's do). Cost: three passes over the vocabulary per
rejected sibling.
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


class Recursive(Verifier):
    """Recursive rejection. Siblings must stand in drawn order: by probability they are biased."""

    name = "recursive"
    summary = "test siblings drawn without replacement in turn; q loses each rejected token"
    source = "RSD 2402.14160, sec. 3; Sequoia 2402.12374, alg. 2"
    exact: ClassVar[frozenset[str]] = frozenset({"greedy", "sampling"})
    accepts: ClassVar[frozenset[Kind]] = frozenset({"without_replacement"})

    def decide(self, tree: DraftTree, rows: TargetRows, coins: Coins) -> Verdict:
        """See the base class."""
        laws = Laws(tree)

        def test(left: Left, nodes: Sequence[int]) -> int | None:
            return first_accepted(left, nodes, tree, laws, coins)

        return descend(tree, rows, coins, test)
