"""fixed: the same budget in every step. The null object among the policies."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from foretoken.policy.base import Policy
from foretoken.policy.guard import Bounded
from foretoken.target.cost import CostCurve
from foretoken.types import Budget, Session

OWN = 16  # nodes where no drafter says its own


class Fixed(Policy):
    """Never adapts; nodes = 0 switches drafting off."""

    name = "fixed"
    summary = "the same budget in every step"
    source = "-"

    class Options(Bounded):
        """The budget."""

        nodes: int | None = Field(
            None, ge=0, le=1024, description="per draft; 0 is plain; None: the drafter's own"
        )
        depth: int | None = Field(None, ge=1, description="deepest node; None: no limit")
        min_prob: float = Field(0.0, ge=0.0, le=1.0, description="least joint draft probability")

    def __init__(self, options: Any, curve: CostCurve | None = None) -> None:
        super().__init__(options, curve)
        self.options: Fixed.Options = options
        depth = {} if options.depth is None else {"depth": options.depth}
        nodes = OWN if options.nodes is None else options.nodes
        self._budget = Budget(nodes, min_prob=options.min_prob, **depth)

    def budget(self, session: Session) -> Budget:  # noqa: ARG002
        """What the options say."""
        return self._budget
