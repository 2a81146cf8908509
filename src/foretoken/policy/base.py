"""What a policy is: how much to propose in the next step. 0 nodes, a plain step, is allowed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from foretoken import types
from foretoken.target.cost import CostCurve
from foretoken.tree import DraftTree
from foretoken.types import Budget, Session, Step


class Policy(ABC):
    """Laws (tests/contract): never negative; with 0 nodes the output is unchanged."""

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]

    needs_curve: ClassVar[bool] = False  # whether build must hand over the measured cost curve

    class Options(types.Options):
        """No options."""

    def __init__(self, options: Any, curve: CostCurve | None = None) -> None:
        self.options, self.curve = options, curve

    @abstractmethod
    def budget(self, session: Session) -> Budget:
        """How much the drafter may propose now."""

    def cut(self, session: Session, tree: DraftTree) -> int:  # noqa: ARG002
        """How many of the proposed nodes, in their order, to have scored (kind "point" only)."""
        return len(tree)

    def observe(self, session: Session, step: Step) -> None:
        """The outcome of a step, with its seconds."""
