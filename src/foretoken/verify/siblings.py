"""Siblings tested one by one, from the root down: what the top-down rejection rules share.

At a node, r is what the target still has to give: p at first. A sibling x that was drawn from the
law q is accepted with probability min(1, r(x) / q(x)); if it is rejected, r becomes what q did not
cover, norm((r - q)_+), and the next sibling is tested. If all are rejected, the text goes on with
a token from r. So a token is written with probability p(x), whatever q was (Leviathan et al.
2211.17192, induction over siblings). A rule says only which draws it tests, and their laws.

Rows are kept up to a factor, beside their mass: one rejection costs a subtraction, a clamp and a
sum over the vocabulary, an accepted sibling costs the masses alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from foretoken.prompt.chance import Coins
from foretoken.prompt.sampling import TargetRows
from foretoken.tree import DraftTree
from foretoken.types import Verdict

_CANCELS = 1e-6  # a mass below this share of its minuend is summed anew, without a subtraction
_LEAST = sys.float_info.min  # stands for a q too small for its row: only the sign of r counts then


class Law(NamedTuple):
    """What a sibling was drawn from: token x with probability row[x] / mass."""

    row: Tensor  # [V]; what was drawn before may still have its entry: there r is 0 anyway
    mass: float  # of the tokens that could be drawn, in float64


class Laws:
    """The laws of a tree's nodes. Rows of `dist` count in proportion to their entries."""

    def __init__(self, tree: DraftTree) -> None:
        self._tree = tree
        self._totals: dict[int, float] = {}

    def law(self, node: int, drawn: Sequence[int] = ()) -> Law | None:
        """What `node` was drawn from, without the tokens `drawn` before it; None: it was fixed.

        If `drawn` hold all the mass of the row, the law is uniform over the other tokens, as in
        Sequoia. Raises ValueError for a drawn node whose row is missing.
        """
        tree = self._tree
        at = tree.dist_row[node] if tree.dist_row else -1
        if at < 0 or tree.dist is None:
            if tree.kind in ("point", "mixed"):
                return None
            raise ValueError(f"node {node} of a {tree.kind!r} draft has no row of `dist`")
        row = tree.dist[at]
        if at not in self._totals:
            self._totals[at] = _sum(row)
        mass = self._totals[at]
        if drawn:
            before = torch.tensor(drawn, device=row.device)
            mass = self._totals[at] - _sum(row[before])
            if mass < _CANCELS * self._totals[at]:
                # a peaked row leaves a rest that is rounding in a difference, and may be too small
                # to divide by in the row's precision
                rest = row.double().index_fill(0, before, 0.0)
                mass = float(rest.sum())
                if mass > 0.0:
                    row, mass = (rest / mass).to(row.dtype), 1.0
        if mass > 0.0:
            return Law(row, mass)
        return Law(torch.ones_like(row), float(len(row) - len(drawn)))


class Left:
    """What is left of the target's law at one node, while the drafts there are rejected.

    probs: [V] float32 or float64, any device; it is not changed. `row`: [V], what is left, up to a
    factor; `mass`: its sum.
    """

    def __init__(self, probs: Tensor) -> None:
        self.row = probs

    @cached_property
    def mass(self) -> float:
        """Of the whole row; summed where something was drafted only."""
        return _sum(self.row)

    def accepts(self, token: int, law: Law | None, coins: Coins) -> bool:
        """Test one sibling, drawn from `law` (None: it was fixed); a rejection is taken off."""
        r = float(self.row[token]) / self.mass
        q = float(law.row[token]) / law.mass if law else 1.0
        accepted = coins.accept(r / max(q, _LEAST))
        if not accepted:
            self._take_off(token, law)
        return accepted

    def _take_off(self, token: int, law: Law | None) -> None:
        if law is None:
            rest = self.row.clone()
        else:
            q = law.row.to(self.row.device)
            rest = torch.sub(self.row, q, alpha=self.mass / law.mass).clamp_(min=0.0)
        rest[token] = 0.0  # it is, but for rounding
        mass = float(rest.sum())  # of what is positive: the row's own precision will do
        if mass > 0.0:  # else r = q up to rounding, and this had no chance to happen
            self.row, self.mass = rest, mass


def descend(
    tree: DraftTree,
    rows: TargetRows,
    coins: Coins,
    test: Callable[[Left, Sequence[int]], int | None],
    follow_fixed: bool = False,
) -> Verdict:
    """From the root down, as long as a draft stands.

    test: given what is left at a node and the nodes drafted below it, one per draw in drawn order,
    gives the one that stands, or None. follow_fixed: whether a child to which the target's token
    after the rejections leads stands too. Only the rows of nodes on the path are asked for.
    """
    draws = tree.draws
    at, alive = -1, draws.children[0]
    path: tuple[int, ...] = ()
    while True:
        nodes = [draws.nodes[draw] for draw in alive]
        left = Left(rows.probs(at))
        node = test(left, nodes)
        if node is None:
            token = coins.token(left.row, rows.position(at))
            if follow_fixed:
                node = next((n for n in nodes if tree.tokens[n] == token), None)
        else:
            token = tree.tokens[node]
        if node is None or rows.ends(token):
            return Verdict(path, token)
        path, at = (*path, node), node
        # every draw of this node goes on, tested or not: the choice looked at tokens up to here
        alive = [c for d in alive if draws.nodes[d] == node for c in draws.children[d + 1]]


def first_accepted(
    left: Left, nodes: Sequence[int], tree: DraftTree, laws: Laws, coins: Coins
) -> int | None:
    """Recursive rejection of siblings drawn without replacement: the law of each is without those
    before it. nodes: in drawn order. Gives the one that stands, or None."""
    drawn: list[int] = []
    for node in nodes:
        token = tree.tokens[node]
        if left.accepts(token, laws.law(node, drawn), coins):
            return node
        drawn.append(token)
    return None


def _sum(values: Tensor) -> float:
    return float(values.sum(dtype=torch.float64))
