"""dyspec: draw next where verification is likeliest to arrive (DySpec).

A slot's value is the chance that verification gets there: for the first child of a node what the
node is worth, for the next child what is left if all earlier siblings are rejected. With v the
value of a slot and q the probability of the token drawn in it, among the tokens not drawn yet, its
first child's slot has value v q and its next sibling's v (1 - q). The n slots of largest value are
drawn, or with `threshold` those of no less value. The value is known before the slot is drawn, so
that drawn drafts stay exact with every rule that tests siblings one by one.

The paper pops a heap, with a forward per node, or expands level by level down to a threshold. Here
it is both at once: levels are grown in batches, and slots that deeper ones outrank are left out at
the end, which gives the very tree of the heap (`draft.shaped`). Where nothing is drawn the token is
known beforehand: then the slot is worth the probability of its path, v q.

What DySpec believes, that a draw is accepted with its own probability, is near the truth where q is
sharp. Where it is flat the rules accept far more, and the trees get wider than is good: there
`sequoia`, which counts, does better.
Learns nothing. Cost: a forward of the drafter per level, over at most `nodes` nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from foretoken.draft.shapes import Place, Shape
from foretoken.policy.base import Policy
from foretoken.policy.fixed import OWN
from foretoken.policy.guard import Bounded
from foretoken.target.cost import CostCurve
from foretoken.types import Budget, Session


class DySpec(Policy):
    """See the module. The same budget in every step; what is drawn decides the tree."""

    name = "dyspec"
    summary = "draw where verification is likeliest to arrive, sibling or child"
    source = "DySpec 2410.11744, alg. 1 and its layered form; the two in one: ours"
    needs = frozenset({"shapes", "turns"})

    class Options(Bounded):
        """Size of the tree."""

        nodes: int | None = Field(
            None, ge=0, le=1024, description="nodes of the draft; None: the drafter's own"
        )
        depth: int = Field(64, ge=1, description="levels at most")
        threshold: float = Field(
            0.0, ge=0.0, le=1.0, description="least value of a slot; 0: nodes alone decide"
        )

    def __init__(self, options: Any, curve: CostCurve | None = None) -> None:
        super().__init__(options, curve)
        nodes = OWN if options.nodes is None else options.nodes
        self._budget = Budget(nodes, options.depth, shape=Arrival(options.threshold))

    def budget(self, session: Session) -> Budget:  # noqa: ARG002
        """What the options say."""
        return self._budget


@dataclass(frozen=True)
class Arrival(Shape):
    """Chance that verification arrives at a slot, if q is the chance to accept."""

    threshold: float = 0.0

    def worth(self, at: Place, rank: int, likeliest: Sequence[float], left: float | None) -> float:
        """See the base class. Without replacement the products of q and 1 - q shrink: a node's
        value is the probability of its path, the chance to reject all earlier siblings what they
        left of the row."""
        value = at.joint * (likeliest[rank] if left is None else left)
        return value if value >= self.threshold else 0.0
