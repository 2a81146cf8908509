"""The best coupling of drafted sets with the target's token, for vocabularies of a few tokens.

The chance that the token written was drafted is a flow: from each set that may be drafted, as much
as its probability, to its members, and from each token on, as much as p gives it. Its maximum is
the most that any exact rule reaches at one position (SpecTr 2310.15141, sec. 3; Optimal MDSD
2502.18779). Sets are bit masks: token x is in `drawn` if drawn >> x & 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from foretoken.types import FloatArray


@lru_cache(maxsize=512)  # the laws of a small vocabulary come again and again
def plan(
    p: tuple[float, ...], q: tuple[float, ...], k: int, repeat: bool
) -> Mapping[int, FloatArray]:
    """For every set that k draws from q may give: [V], the law of the token to be written.

    p, q: [V], sum to 1. repeat: whether draws are independent; else without replacement. The mean
    of the laws over the sets is p to rounding, whatever the solver's precision.
    """
    return coupling(p, set_law(q, k, repeat))


def set_law(q: Sequence[float], k: int, repeat: bool) -> dict[int, float]:
    """The probability of each set that k draws from q may give.

    Without replacement, draws beyond q's support are uniform over what is left, as in `recursive`.
    """
    law = {0: 1.0}
    for _ in range(k):
        grown: dict[int, float] = {}
        for drawn, chance in law.items():
            free = [repeat or not drawn >> x & 1 for x in range(len(q))]
            left = [mass if may else 0.0 for mass, may in zip(q, free, strict=True)]
            if sum(left) <= 0.0:
                left = [float(may) for may in free]
            total = sum(left) or 1.0
            for x, mass in enumerate(left):
                if mass > 0.0:
                    more = drawn | 1 << x
                    grown[more] = grown.get(more, 0.0) + chance * mass / total
        law = grown or law  # all tokens are drawn
    return law


def coupling(p: Sequence[float], sets: Mapping[int, float]) -> dict[int, FloatArray]:
    """The law of the token to be written given each set, with the most mass on members."""
    target = np.asarray(p, dtype=np.float64)
    target = target / target.sum()
    chances = np.array(list(sets.values()))
    flow = _feasible(maximum_flow(target, sets), chances / chances.sum(), target)
    # what no set could place is given to what p still lacks, in proportion: sums are exact again
    spare, lacking = chances / chances.sum() - flow.sum(axis=1), target - flow.sum(axis=0)
    spare, lacking = np.maximum(spare, 0.0), np.maximum(lacking, 0.0)
    if lacking.sum() > 0.0:
        flow = flow + spare[:, None] * lacking / lacking.sum()
    totals = flow.sum(axis=1)
    return {drawn: flow[i] / totals[i] for i, drawn in enumerate(sets) if totals[i] > 0.0}


def maximum_flow(p: FloatArray, sets: Mapping[int, float]) -> FloatArray:
    """[sets, V]: flow from each set to its members, as large as possible in all."""
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    edges = [(i, x) for i, drawn in enumerate(sets) for x in range(len(p)) if drawn >> x & 1]
    rows, tokens = (np.array(side) for side in zip(*edges, strict=True))
    every = np.arange(len(edges))
    limits = coo_array(
        (np.ones(2 * len(edges)), (np.r_[rows, len(sets) + tokens], np.r_[every, every])),
        shape=(len(sets) + len(p), len(edges)),
    )
    capacities = np.r_[list(sets.values()), p]
    found = linprog(-np.ones(len(edges)), limits.tocsr(), capacities, method="highs")
    flow = np.zeros((len(sets), len(p)))
    flow[rows, tokens] = found.x
    return flow


def _feasible(flow: FloatArray, chances: FloatArray, p: FloatArray) -> FloatArray:
    """The flow, shrunk where it exceeds a capacity by the solver's tolerance."""
    flow = np.maximum(flow, 0.0)
    for axis, capacity in ((1, chances), (0, p)):
        sums = flow.sum(axis=axis)
        share = np.where(sums > capacity, capacity / np.where(sums > 0.0, sums, 1.0), 1.0)
        flow = flow * np.expand_dims(share, axis)
    return flow
