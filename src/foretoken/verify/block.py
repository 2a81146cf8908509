"""block: block verification of a chain. The longest prefix that passes its test stands.

Token-wise rejection gives up at its first failure. Here each prefix of i drafts has a weight
w_i = min(1, w_{i-1} p(x_i) / q(x_i)), w_0 = 1, and a test of its own with probability
h_i = S_i / (S_i + 1 - w_i), S_i = sum over x of (w_i p(x) - q(x))_+, where p and q are the laws of
the token after the prefix; the whole chain passes with its weight. The *last* prefix that passes
stands (not the first failure ends it), and the text goes on with norm((w_i p - q)_+), or with p
after the whole chain. Exact, and no exact rule for one path accepts more on average.

On a tree the trunk is judged, that is the first draw at each node: it was drawn from its row alone,
whatever the kind of draft. A fixed draft has a one-hot law. If the correction token was drafted
beside the trunk, draw-and-follow goes on from there. Tests are made from the longest prefix down,
so that the sums S_i are only made where a test failed. Cost: the rows of the whole trunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from foretoken.prompt.chance import Coins
from foretoken.prompt.sampling import TargetRows
from foretoken.tree import KINDS, DraftTree, Kind
from foretoken.types import Verdict
from foretoken.verify.base import Verifier, follow
from foretoken.verify.siblings import Law, Laws

_ONE = 1e-12  # a weight so near 1 counts as 1: S / (S + 1 - w) would only show rounding
NONE = 1e-30  # a weight below counts as 0, so that 1 / w stays within float32


@dataclass(frozen=True)
class _Drafted:
    """A node of the trunk: its law given the prefix above, and the weight of the prefix with it."""

    node: int
    law: Law | None
    weight: float


class Block(Verifier):
    """Block verification of the trunk. Exact for any kind of draft."""

    name = "block"
    summary = "the longest prefix of a chain that passes; on a tree, the first-drawn path only"
    source = "Sun et al. 2403.10444, block verification (ICLR 2025)"
    exact: ClassVar[frozenset[str]] = frozenset({"greedy", "sampling"})
    accepts: ClassVar[frozenset[Kind]] = frozenset(KINDS)
    looks_ahead: ClassVar[bool] = True

    def decide(self, tree: DraftTree, rows: TargetRows, coins: Coins) -> Verdict:
        """See the base class."""
        trunk = weigh(tree, rows)
        path = tuple(drafted.node for drafted in trunk)
        last = tree.tokens[path[-1]]
        if coins.accept(trunk[-1].weight):
            if rows.ends(last):
                return Verdict(path[:-1], last)
            return follow(tree, rows, coins, path[-1], path)
        for kept in reversed(range(len(trunk))):
            at, weight = (trunk[kept - 1].node, trunk[kept - 1].weight) if kept else (-1, 1.0)
            p, failed = rows.probs(at), trunk[kept]
            rest = owed(p, weight, tree.tokens[failed.node], failed.law)
            if not kept or coins.accept(chance(weight * float(rest.sum()), weight)):
                break
        token = coins.token(rest if bool(rest.any()) else p, rows.position(at))
        beside = next((c for c in tree.children[at + 1] if tree.tokens[c] == token), None)
        if beside is None or rows.ends(token):
            return Verdict(path[:kept], token)
        return follow(tree, rows, coins, beside, (*path[:kept], beside))


def weigh(tree: DraftTree, rows: TargetRows) -> list[_Drafted]:
    """The trunk from the root down, as far as weights are positive and the text goes on."""
    laws, draws = Laws(tree), tree.draws
    trunk: list[_Drafted] = []
    at, weight, below = -1, 1.0, draws.children[0]
    while below and weight > 0.0:
        node = draws.nodes[below[0]]
        token, law = tree.tokens[node], laws.law(node)
        p = float(rows.probs(at)[token])
        q = float(law.row[token]) / law.mass if law else 1.0
        weight = min(1.0, weight * p / q) if q > 0.0 else float(p > 0.0)
        weight = weight if weight > NONE else 0.0
        trunk.append(_Drafted(node, law, weight))
        at, below = node, [] if rows.ends(token) else draws.children[below[0] + 1]
    return trunk


def owed(p: Tensor, weight: float, token: int, law: Law | None) -> Tensor:
    """[V]: (w p - q)_+ / w, what the prefix with weight w > 0 still has to give.

    token: what was drafted next; law: its law, None if it was fixed.
    """
    if law is None:
        return p.index_fill(0, _index([token], p), 0.0)
    return torch.sub(p, law.row, alpha=1.0 / (weight * law.mass)).clamp_(min=0.0)


def chance(owed: float, weight: float) -> float:
    """The test of a prefix: S / (S + 1 - w)."""
    return 1.0 if 1.0 - weight < _ONE else owed / (owed + 1.0 - weight)


def _index(tokens: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(tokens, device=like.device)
