"""A verifier that is wrong on purpose: what the bench exists to catch."""

from __future__ import annotations

from foretoken.prompt.chance import PositionRandom
from foretoken.prompt.sampling import TargetRows
from foretoken.tree import DraftTree
from foretoken.types import Verdict
from foretoken.verify.walk import Walk

WHERE = "tests.unit.bench.sabotage:Flip"


class Flip(Walk):
    """As `walk`, but two bonus tokens of three are not the target's."""

    name = "flip"

    def judge(self, tree: DraftTree, rows: TargetRows, random: PositionRandom) -> Verdict:
        right = super().judge(tree, rows, random)
        if rows.length % 3:
            return Verdict(right.path, (right.bonus + 1) % rows.logits.shape[-1])
        return right
