"""What cost-model holds of one session between and during its steps."""

from __future__ import annotations

from dataclasses import dataclass, field

from foretoken.policy.debt import Debt
from foretoken.tree import EMPTY, DraftTree


@dataclass
class Ledger:
    """What the policy holds of one session."""

    debt: Debt
    luck: int = 0  # accepted tokens of the last step
    lucky: str | None = None  # the way that the last step was drafted in, if that paid
    way: str | None = None  # of the proposal under way; None: nothing was asked
    askers: int = 1  # sessions of the step that ask
    offer: DraftTree = EMPTY  # the proposal under way, whole
    levels: int = 0  # that were drafted of it, as far as the drafter asked between them
    level: list[float] = field(default_factory=list)  # its last level: probability of each path
    met: set[str] = field(default_factory=set)  # ways that it was asked in
    passed: set[str] = field(default_factory=set)  # ways for which the text is not worth reading


def claims(tree: DraftTree) -> list[tuple[float, int, int]]:
    """[n] what the drafter says of each node: q (0.5 if it says nothing), evidence, depth."""
    n = len(tree)
    q, evidence = tree.q or [0.5] * n, tree.evidence or [0] * n
    return list(zip(q, evidence, tree.depths, strict=True))
