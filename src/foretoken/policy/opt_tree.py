"""opt-tree: the likeliest n nodes, one level more as long as a level brings enough (OPT-Tree).

If the drafter's rows are right, the probability of a node's path is the chance that it stands, and
their sum over the draft is what will be accepted: no tree of n nodes has a larger sum than the n
likeliest paths. Every node that may still have a child among them is expanded, by its n likeliest
tokens; growth ends when the sum has grown by no more than `threshold` with the last level. The
public code compares the sums of the two levels before that and so drafts one level more than its
paper says; here there is no such lag.

Ours: drawn drafts. There a slot is worth what the likeliest child of that rank would be, which
says how often to draw below a node, not what is kept of it; and the drafter's own depth is the
only end, since a sum over drawn tokens must not decide what outranks them (`draft.shapes`).
Learns nothing. Cost: what the nodes and levels cost; see `sequoia` for one that weighs both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from foretoken.draft.shapes import Place, Shape
from foretoken.policy.base import Policy
from foretoken.policy.guard import Bounded
from foretoken.target.cost import CostCurve
from foretoken.types import Budget, Session


class OptTree(Policy):
    """See the module. The same budget in every step; the draft's own rows end it."""

    name = "opt-tree"
    summary = "the n likeliest paths, level by level while their sum grows enough"
    source = "OPT-Tree 2406.17276, sec. 3; without the lag of its code"
    needs = frozenset({"shapes", "turns"})

    class Options(Bounded):
        """Size, and when another level is not worth it."""

        nodes: int = Field(50, ge=0, le=1024, description="nodes of the draft")
        depth: int = Field(10, ge=1, le=64, description="levels at most")
        threshold: float = Field(
            0.5, ge=0.0, description="expected tokens that a level must bring for another to follow"
        )

    def __init__(self, options: Any, curve: CostCurve | None = None) -> None:
        super().__init__(options, curve)
        shape = LikeliestPaths(options.threshold)
        self._budget = Budget(options.nodes, options.depth, shape=shape)

    def budget(self, session: Session) -> Budget:  # noqa: ARG002
        """What the options say."""
        return self._budget


@dataclass(frozen=True)
class LikeliestPaths(Shape):
    """A slot is worth the path of the likeliest child of its rank."""

    threshold: float = 0.0

    def worth(self, at: Place, rank: int, likeliest: Sequence[float], left: float | None) -> float:  # noqa: ARG002
        """See the base class."""
        return at.joint * likeliest[rank]

    def goes_on(self, before: float, now: float) -> bool:
        """See the base class."""
        return now - before > self.threshold
