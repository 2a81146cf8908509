"""typical: LOSSY. Accept what the target finds not too unlikely (Medusa's typical acceptance).

A drafted token stands if p(x) > min(EPSILON, DELTA exp(-H(p))), H the entropy of p: the flatter p
is, the less is asked. The longest path of such tokens is taken, the likelier one among equals, and
the token after it is drawn from p (Medusa takes the argmax, or a token that is typical itself).
The text's law is no longer the target's: drafted tokens that pass are written whatever their
probability is. Greedy text is the target's own (the base class follows its argmax).
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from foretoken.prompt.chance import Coins
from foretoken.prompt.sampling import TargetRows
from foretoken.tree import KINDS, DraftTree, Kind
from foretoken.types import Verdict
from foretoken.verify.base import Verifier


class Typical(Verifier):
    """Typical acceptance over a whole tree. Lossy under sampling."""

    name = "typical"
    summary = "lossy: accept drafts that the target finds typical, p > min(eps, delta exp(-H))"
    source = "Medusa 2401.10774, typical acceptance; constants of its code's generate function"
    exact: ClassVar[frozenset[str]] = frozenset({"greedy"})
    accepts: ClassVar[frozenset[Kind]] = frozenset(KINDS)
    looks_ahead: ClassVar[bool] = True

    EPSILON: ClassVar[float] = 0.09  # posterior_threshold
    DELTA: ClassVar[float] = 0.3  # posterior_alpha

    def decide(self, tree: DraftTree, rows: TargetRows, coins: Coins) -> Verdict:
        """See the base class."""
        likely = {-1: 0.0}  # sum of log p down to each node that stands
        best = -1
        for at in range(-1, len(tree)):  # parents come before children
            below = tree.children[at + 1]
            if at not in likely or not below or (at >= 0 and rows.ends(tree.tokens[at])):
                continue
            p = rows.probs(at)
            bar = self.bar(p)
            chances = p[[tree.tokens[child] for child in below]].tolist()
            for child, chance in zip(below, chances, strict=True):
                if chance > bar:
                    likely[child] = likely[at] + math.log(chance)
        if len(likely) > 1:
            best = max(likely, key=lambda n: (tree.depths[n] if n >= 0 else 0, likely[n]))
        path = tuple(tree.path(best))
        if path and rows.ends(tree.tokens[best]):
            return Verdict(path[:-1], tree.tokens[best])
        return Verdict(path, rows.token(best, coins))

    def bar(self, p: Tensor) -> float:
        """What a token's probability must exceed. p: [V]."""
        # a log is vectorised on a CPU, torch.special.entr is not
        logs = p.clamp(min=torch.finfo(p.dtype).tiny).log_()
        entropy = -float(logs.mul_(p).sum())
        return min(self.EPSILON, self.DELTA * math.exp(-entropy))
