"""What the published length policies share: a number of levels, and what they read off a draft.

A length counts levels. For a chain that is its tokens, as in the papers, which know only chains.
For a tree a rule looks at the likeliest node of a level, by joint probability, and its verdict
holds for the level: trees are our extension of every rule here.

Guarantee of all of them: the text is the target's own. A length that is settled before a draft, or
a stop that is settled after a level which is then submitted whole, depends on nothing that a
verifier has still to judge (our notes on length-policies, U0). None of them promises speed, unless
its own file says so.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from foretoken.policy.base import Policy
from foretoken.policy.fixed import OWN
from foretoken.policy.guard import Bounded
from foretoken.target.cost import CostCurve
from foretoken.tree import DraftTree
from foretoken.types import Budget, Level, Session, Step


class LengthPolicy(Policy):
    """Base of the rules: the same nodes in every step, and levels as `length` says."""

    class Options(Bounded):
        """How far it may go."""

        nodes: int | None = Field(
            None, ge=0, le=1024, description="most nodes proposed; None: the drafter's own"
        )
        length: int = Field(20, ge=1, le=1024, description="most levels drafted")

    def __init__(self, options: Any, curve: CostCurve | None = None) -> None:
        super().__init__(options, curve)
        self.nodes: int = OWN if options.nodes is None else options.nodes
        # a level has a node at least: lengths that move must not run away from what can be drafted
        self.most: int = max(min(options.length, self.nodes), 1)

    def budget(self, session: Session) -> Budget:
        """The nodes of the options, and as many levels as `length` says."""
        return Budget(self.nodes, self.length(session))

    def length(self, session: Session) -> int:  # noqa: ARG002
        """Most levels of the next draft."""
        return self.most


def likeliest(level: Level) -> int:
    """Index of a level's likeliest node by joint probability, the first among equals."""
    return max(range(len(level.joint)), key=level.joint.__getitem__)


def spine(tree: DraftTree) -> list[float]:
    """[depth] q of each level's likeliest node: what `likeliest` saw. Needs q."""
    best: list[tuple[float, float]] = [(-1.0, 0.0)] * tree.depth
    for depth, joint, q in zip(tree.depths, tree.joint, tree.q, strict=True):
        if joint > best[depth - 1][0]:
            best[depth - 1] = joint, q
    return [q for _, q in best]


def stood(step: Step) -> bool:
    """Whether a draft stood in its whole depth."""
    return len(step.verdict.path) == step.tree.depth
