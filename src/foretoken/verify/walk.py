"""walk: draw the target's own token at each node and follow it if it was drafted.

Greedy: the token is the argmax, so the text is the target's token for token. Sampling: each token
is a draw from the target's distribution whatever was drafted, hence exact; the chance to go on
is the target's mass on the children, the most that any exact rule reaches for fixed children.
With numbers tied to positions the drawn text is even the *same* as without any draft.
"""

from __future__ import annotations

from typing import ClassVar

from foretoken.prompt.chance import Coins
from foretoken.prompt.sampling import TargetRows
from foretoken.tree import KINDS, DraftTree, Kind
from foretoken.types import Verdict
from foretoken.verify.base import Verifier, follow


class Walk(Verifier):
    """Draw and follow. It never looks at q, so that any kind of draft is judged exactly."""

    name = "walk"
    summary = "draw the target's token at each node, follow it if it was drafted"
    source = (
        "methods known as greedy match / typical of REST, Lookahead (repaired); SpecInfer sec. 4"
    )
    exact: ClassVar[frozenset[str]] = frozenset({"greedy", "sampling"})
    accepts: ClassVar[frozenset[Kind]] = frozenset(KINDS)

    def decide(self, tree: DraftTree, rows: TargetRows, coins: Coins) -> Verdict:
        """See the base class."""
        return follow(tree, rows, coins)
