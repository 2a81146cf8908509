"""eagle2-tree: ten nodes a level are expanded by ten tokens each, the best of all are drafted.

EAGLE-2's dynamic tree, for any small model: from level to level the `top_k` likeliest nodes (by the
probability of their path) get their `top_k` likeliest tokens as children; at the end the likeliest
`nodes` of everything that grew are the draft. As no path is likelier than its beginning, they form
a tree; among equals the node that grew first stands, so that no child comes without its parent.

The paper's trees count the root: `total_token` 60 is 59 nodes here, and its depth 7 is 8 levels
(the drafter's own depth limits it, too). What can no longer enter the best `nodes` is not expanded,
which saves time and leaves the draft as it is. Ours: drawn drafts, as in `opt-tree`.
Learns nothing. Cost: `depth` forwards of the drafter over `top_k` nodes, and one of the target
over `nodes`, whether it pays or not.
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


class Eagle2Tree(Policy):
    """See the module. The same budget in every step."""

    name = "eagle2-tree"
    summary = "expand the ten likeliest nodes of each level by ten, draft the best of all"
    source = "EAGLE-2 2406.16858, sec. 4"
    needs = frozenset({"shapes", "turns"})

    class Options(Bounded):
        """Size of the tree and of what it is chosen from."""

        nodes: int = Field(59, ge=0, le=1024, description="nodes of the draft, without the root")
        depth: int = Field(8, ge=1, le=64, description="levels at most")
        top_k: int = Field(
            10, ge=1, le=256, description="nodes of a level that are expanded, by so many tokens"
        )

    def __init__(self, options: Any, curve: CostCurve | None = None) -> None:
        super().__init__(options, curve)
        self._budget = Budget(options.nodes, options.depth, shape=Beam(options.top_k))

    def budget(self, session: Session) -> Budget:  # noqa: ARG002
        """What the options say."""
        return self._budget


@dataclass(frozen=True)
class Beam(Shape):
    """At most `width` nodes of a level have children, and so many."""

    width: int = 10

    def worth(self, at: Place, rank: int, likeliest: Sequence[float], left: float | None) -> float:  # noqa: ARG002
        """See the base class."""
        return at.joint * likeliest[rank] if rank < self.width else 0.0
