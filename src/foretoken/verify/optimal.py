"""optimal: the most that any exact rule accepts at one node, for vocabularies of a few tokens.

Only the *set* of the drafted siblings matters: a maximum flow from the sets that may be drafted to
their members couples the set with the token to be written (`transport`). Given the set that was
drafted, the token is drawn from that coupling; if it was drafted, it stands, and the rule goes on
below. So each node is optimal by itself, not the tree as a whole: `traversal` may accept more.

Siblings without replacement and independent ones ("sampled"; as in `k-seq`, the draws below all
survivors count) have their own laws of sets. Of mixed siblings the drawn ones are coupled, and what
is left of p may hit a fixed one; with one drawn child that is the optimum too (Optimal MDSD), with
more it is exact. The law of the sets is that of so many draws: where the draws themselves decide
how many they are (RSD-S), it is not, and such drafts are refused. Larger vocabularies have no use
for it: the sets are too many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from foretoken.errors import CapabilityError
from foretoken.prompt.chance import Coins
from foretoken.prompt.sampling import TargetRows
from foretoken.tree import DraftTree, Kind
from foretoken.types import Verdict
from foretoken.verify.base import Verifier
from foretoken.verify.siblings import Laws, Left, descend
from foretoken.verify.transport import plan

LARGEST = 8  # tokens of the vocabulary: 255 sets


class Optimal(Verifier):
    """Optimal transport at each node, from the root down. A ruler, not a rule for real models."""

    name = "optimal"
    summary = f"optimal transport at each node, for vocabularies up to {LARGEST} tokens"
    source = "SpecTr 2310.15141, sec. 3 (linear programme); Optimal MDSD 2502.18779, sec. 3"
    exact: ClassVar[frozenset[str]] = frozenset({"greedy", "sampling"})
    accepts: ClassVar[frozenset[Kind]] = frozenset({"sampled", "without_replacement", "mixed"})
    max_vocab: ClassVar[int | None] = LARGEST
    needs_settled: ClassVar[bool] = True

    def decide(self, tree: DraftTree, rows: TargetRows, coins: Coins) -> Verdict:
        """See the base class. Raises CapabilityError for a vocabulary of more than 8 tokens."""
        vocab = rows.probs(-1).shape[-1]
        if vocab > LARGEST:
            raise CapabilityError(
                f"verifier 'optimal' serves vocabularies up to {LARGEST} tokens, not {vocab}; "
                "use 'k-seq' or 'traversal'"
            )
        laws = Laws(tree)

        def test(left: Left, nodes: Sequence[int]) -> int | None:
            drawn = [(node, law) for node in nodes if (law := laws.law(node)) is not None]
            if drawn:
                p = left.row
                made = plan(_law(p), _law(drawn[0][1].row), len(drawn), tree.kind == "sampled")
                members = sum(1 << token for token in {tree.tokens[node] for node, _ in drawn})
                left.row = torch.from_numpy(made[members]).to(p.device)
            return None

        return descend(tree, rows, coins, test, follow_fixed=True)


def _law(row: torch.Tensor) -> tuple[float, ...]:
    """The row as float64 numbers that sum to 1."""
    mass = row.double()
    return tuple((mass / mass.sum()).tolist())
