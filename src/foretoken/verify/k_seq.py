"""k-seq: siblings drawn independently, each tested once against p / (rho q) (SpecTr).

At a node with k draws from q, draw i is accepted with probability min(1, p(x_i) / (rho q(x_i))), in
drawn order; if none is, the text goes on with a token from norm((p - rho q)_+), and if that token
was drafted, it stands. rho in [1, k] is the least factor that does not accept too much: with
beta = sum over x of min(q, p / rho), it solves 1 - (1 - beta)^k = rho beta. The chance to accept
is at least 1 - (1 - 1/k)^k of the optimum of any rule for such drafts. Down a tree, the draws of
an accepted token all go on (the survivors), and k is the number of draws below all of them, equal
ones included. One draw is standard speculative sampling.

Only for independent draws: neither merged, nor drawn without replacement. The factor is found with
secant steps in a bracket, three passes over the vocabulary each: terms have the rows' own
precision, the factor is a float64 scalar. The bracket's upper end is taken, since a factor too
small accepts some tokens too often, which no residual makes up for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from foretoken.prompt.chance import Coins
from foretoken.prompt.sampling import TargetRows
from foretoken.tree import DraftTree, Kind
from foretoken.types import Verdict
from foretoken.verify.base import Verifier
from foretoken.verify.siblings import Law, Laws, Left, descend


class KSeq(Verifier):
    """SpecTr's k-SEQ with its block decoder. Exact for independent draws."""

    name = "k-seq"
    summary = "test independent draws against p / (rho q), rho from how many there are (SpecTr)"
    source = "SpecTr 2310.15141, k-SEQ and its block decoder; (p - rho q)+ as residual: ours"
    exact: ClassVar[frozenset[str]] = frozenset({"greedy", "sampling"})
    accepts: ClassVar[frozenset[Kind]] = frozenset({"sampled"})
    needs_settled: ClassVar[bool] = True

    def decide(self, tree: DraftTree, rows: TargetRows, coins: Coins) -> Verdict:
        """See the base class."""
        laws = Laws(tree)

        def test(left: Left, nodes: Sequence[int]) -> int | None:
            law = laws.law(nodes[0]) if nodes else None
            if law is None:
                return None
            p, rho = left.row, factor(left.row, law, len(nodes))
            for node in nodes:
                token = tree.tokens[node]
                q = rho * float(law.row[token]) / law.mass or math.ulp(0.0)
                if coins.accept(float(p[token]) / q):
                    return node
            rest = torch.sub(p, law.row, alpha=rho / law.mass).clamp_(min=0.0)
            if bool(rest.any()):  # else p = rho q up to rounding, and this had no chance to happen
                left.row = rest
            return None

        return descend(tree, rows, coins, test, follow_fixed=True)


def factor(p: Tensor, law: Law, k: int) -> float:
    """The least valid rho in [1, k] for k independent draws from `law`.

    p: [V], sums to 1. What is written with it differs from p by rounding, in the rows' precision.
    """
    scratch = torch.empty_like(p)

    def excess(rho: float) -> float:
        # rho beta = sum of min(rho q, p)
        torch.minimum(torch.mul(law.row, rho / law.mass, out=scratch), p, out=scratch)
        covered = float(scratch.sum())
        beta = covered / rho
        return (1.0 if beta >= 1.0 else -math.expm1(k * math.log1p(-beta))) - covered

    return least(excess, float(k), 4 * torch.finfo(p.dtype).eps) if k > 1 else 1.0


def least(excess: Callable[[float], float], high: float, close: float) -> float:
    """The least rho in [1, high] without excess: the upper end of the last bracket.

    excess: falls in rho, and is not positive at `high`; `close`: what counts as none of it. Secant
    steps (Illinois), halving where they creep, which they do towards a flat end.
    """
    low = 1.0
    above, below = excess(low), excess(high)
    if above <= close:
        return low
    last = slow = 0
    while (width := high - low) > close * high:
        rho = (low * below - high * above) / (below - above)
        if slow > 2 or not low < rho < high:
            rho = (low + high) / 2
        found = excess(rho)
        # an end that stays twice counts half, so that the other one comes near as well
        if found > 0.0:
            below /= 2 if last > 0 else 1
            low, above, last = rho, found, 1
        elif found >= -close:  # the text's law is off by no more than the excess
            return rho
        else:
            above /= 2 if last < 0 else 1
            high, below, last = rho, found, -1
        slow = 0 if high - low < width / 2 else slow + 1
    return high
