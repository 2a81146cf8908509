"""traversal: a whole tree judged from its leaves to its root; on a chain it is `block`.

Top-down rules throw a subtree away with its root. Here a node's subtree is visited first, and the
node itself is only judged when nothing below it stood. visit(node, w), P the target's law there:

1. for each child x in drawn order, drawn from the law Q: visit(x, min(1, w P(x) / Q(x))); if a
   node stood there, that is the verdict. Else S = sum (w P - Q)_+, P <- norm((w P - Q)_+),
   w <- S / (S + 1 - w): what the child's rejection leaves to its parent;
2. the node stands with probability w, and the text goes on with a token from P; else it is
   rejected. The root has w = 1.

The law Q of a child is its row (sampled), the row without earlier siblings, renormalised (without
replacement), or one-hot (fixed). Equal draws that share a node are visited one by one, each with
what was drawn below it; a rejected token has nothing left, so the later ones end at once.
With fixed children alone it accepts what `walk` accepts. Exact for every kind, and never below
recursive rejection in any case tried. Paper's idea, our formulation, proved by enumeration.

Cost: a rejected child that was drawn costs its parent a subtraction, a clamp and a sum over the
vocabulary, in place; a fixed one costs O(1); a node with children costs its row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from foretoken.prompt.chance import Coins
from foretoken.prompt.sampling import TargetRows
from foretoken.tree import KINDS, DraftTree, Kind
from foretoken.types import Verdict
from foretoken.verify.base import Verifier
from foretoken.verify.block import NONE, chance
from foretoken.verify.siblings import Law, Laws


class _Place:
    """A node while its children are visited. P is kept up to a factor, beside its mass."""

    def __init__(self, node: int, below: Sequence[int], weight: float) -> None:
        self.node, self.weight = node, weight if weight > NONE else 0.0
        self.below = iter(below)  # draws not yet visited
        self.child: tuple[int, Law | None] = (-1, None)  # token and law of the one being visited
        self.drawn: list[int] = []  # tokens of the rejected children that were drawn
        self.fixed: list[int] = []  # and of those that were not: their entries still stand in row
        self._row: Tensor | None = None
        self._own = False  # whether the row may be written to
        self._mass = 1.0

    def enter(self, token: int, law: Law | None, rows: TargetRows) -> float:
        """Begin with a child; the weight that it is visited with."""
        if self._row is None:
            self._row = rows.probs(self.node)
        self.child = token, law
        p = float(self._row[token]) / self._mass
        # a law rarer than the row's precision can say: only whether p is positive counts
        q = (float(law.row[token]) / law.mass or math.ulp(0.0)) if law else 1.0
        return min(1.0, self.weight * p / q)

    def reject(self) -> None:
        """Nothing stood at the child: take its law off."""
        token, law = self.child
        assert self._row is not None
        if law is None:
            mass = max(self._mass - float(self._row[token]), 0.0)
            self.fixed.append(token)
        else:
            self.drawn.append(token)
            mass = self._take_off(self._row, law)
        self.weight = chance(self.weight * mass / self._mass, self.weight)
        if self.weight <= NONE or mass == 0.0:  # with weight 1, by rounding alone
            self.below = iter(())
        self._mass = mass

    def _take_off(self, row: Tensor, law: Law) -> float:
        share = self._mass / (self.weight * law.mass)
        if self._own:
            row.sub_(law.row, alpha=share)
        else:
            row = torch.sub(row, law.row, alpha=share)
        row.clamp_(min=0.0)
        for token in (self.drawn[-1], *self.fixed):  # the drawn one is, but for rounding
            row[token] = 0.0
        self._row, self._own, self.fixed = row, True, []
        return float(row.sum())

    def left(self, rows: TargetRows) -> Tensor:
        """[V], up to a factor: what the text goes on with if this node stands."""
        p = rows.probs(self.node)
        if self._row is None:
            return p
        gone = torch.tensor(self.fixed, dtype=torch.long, device=p.device)
        rest = self._row.index_fill(0, gone, 0.0) if self.fixed else self._row
        return rest if bool(rest.any()) else p  # nothing is left by rounding alone


class Traversal(Verifier):
    """Leaf-to-root verification of the tree of draws. Exact for any kind of draft."""

    name = "traversal"
    summary = "judge a tree from its leaves to its root, so that no subtree is lost with its root"
    source = "Traversal Verification 2505.12398 (NeurIPS 2025)"
    exact: ClassVar[frozenset[str]] = frozenset({"greedy", "sampling"})
    accepts: ClassVar[frozenset[Kind]] = frozenset(KINDS)
    looks_ahead: ClassVar[bool] = True

    def decide(self, tree: DraftTree, rows: TargetRows, coins: Coins) -> Verdict:
        """See the base class."""
        laws, draws = Laws(tree), tree.draws
        stack = [_Place(-1, draws.children[0], 1.0)]
        while True:
            place = stack[-1]
            draw = next(place.below, None) if place.weight else None
            if draw is not None:
                node = draws.nodes[draw]
                token = tree.tokens[node]
                law = laws.law(node, () if tree.kind == "sampled" else place.drawn)
                weight = place.enter(token, law, rows)
                below = [] if rows.ends(token) else draws.children[draw + 1]
                stack.append(_Place(node, below, weight))
            elif coins.accept(place.weight):
                return self._verdict(tree, rows, coins, place)
            else:
                stack.pop()
                stack[-1].reject()

    @staticmethod
    def _verdict(tree: DraftTree, rows: TargetRows, coins: Coins, place: _Place) -> Verdict:
        path = tuple(tree.path(place.node))
        if path and rows.ends(tree.tokens[place.node]):
            return Verdict(path[:-1], tree.tokens[place.node])
        return Verdict(path, coins.token(place.left(rows), rows.position(place.node)))
