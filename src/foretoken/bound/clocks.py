"""The optimum without replacement: min over prefixes of p(H) - Q(H), for large vocabularies.

Give each token a clock that rings after an exponential time of rate q(x): draws without replacement
are the tokens in ringing order. With T ~ Exp(r) the first ring outside H, r = q(not H),
    Q(H) = P(at least k clocks of H ring before T) = E[ P(N_T >= k) ],
where N_t counts the rings in H by time t: a sum of independent coins. The expectation is a
trapezoid sum over log t, whose error falls doubly exponentially; the laws of N_t, cut at k, are
products of polynomials with positive coefficients, so that nothing cancels.

Only few prefixes are evaluated. Along the prefixes Q is convex as a function of q(H) ("q-convexity"
of the paper), so between two of them it lies below its chord. Blocks of tokens in which even the
chord cannot reach the minimum are skipped. The skipped part is a bound and not a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from foretoken.types import FloatArray

STEP = 0.25  # of the trapezoid in log t; the sum's error is about exp(-pi^2 / STEP)
FIRST = -10.0  # log t: earlier than that, two rings have probability below exp(2 * FIRST)
LAST = 45.0  # r * t: later than that, exp(-r * t) is nothing
DEAD = 1e-18  # probability of fewer than k rings that counts as 0
CHUNK = 1 << 21  # float64 numbers of one intermediate array
TOLERANCE = 1e-13  # by which a skipped prefix might be lower

IntArray = np.ndarray[Any, np.dtype[np.intp]]


def lowest_gap(p: FloatArray, q: FloatArray, drafts: Sequence[int]) -> FloatArray:
    """[len(drafts)] min over all prefixes of p(H) - Q(H), by number of drafts.

    p, q: [n] in the order of the prefixes, q > 0 and summing to 1; 2 <= drafts <= n.
    """
    table = Prefixes(p, q, max(drafts))
    columns = np.array(drafts) - 1
    at_ends = table.mass_at_ends - table.inside(table.ends, table.outside_at_ends)
    best = np.minimum(at_ends.min(axis=0), 0.0)
    for block in table.hopeful(at_ends, best, columns):
        best = np.minimum(best, table.refined(block))
    return np.asarray(best[columns])


class Prefixes:
    """Blocks of tokens, and the law of N_t at their ends.

    Arrays: blocks [B, size]; ends [B+1, k, T], the probabilities that c < k clocks of the first b
    blocks have rung by time t.
    """

    def __init__(self, p: FloatArray, q: FloatArray, k: int) -> None:
        size = max(8, 1 << round(np.log2(len(q)) / 2))
        self.k = k
        self.p, self.q = in_blocks(p, size), in_blocks(q, size)
        self.mass_at_ends = np.concatenate(([0.0], np.cumsum(self.p.sum(axis=1))))[:, None]
        # summed from the far end, because small remainders matter most
        after = np.cumsum(self.q.sum(axis=1)[::-1])[::-1]
        self.outside_at_ends = np.concatenate((after, [0.0]))
        logs = np.arange(FIRST, np.log(LAST / q[-1]) + STEP, STEP)
        self.times = np.exp(logs)
        self.ends = self._laws_at_ends()

    def _laws_at_ends(self) -> FloatArray:
        count, size = self.q.shape
        live = len(self.times)  # times at which fewer than k rings still have a chance
        ends = np.zeros((count + 1, self.k, live))
        ends[0, 0] = 1.0
        at = 0
        while at < count:
            some = self.q[at : at + max(1, CHUNK // (size * max(live, 1)))]
            for law in _block_laws(some, self.times[:live], self.k):
                ends[at + 1, :, :live] = times_cut(ends[at, :, :live], law, self.k)
                at += 1
            live = int((ends[at].sum(axis=0) > DEAD).sum())
        return ends

    def inside(self, laws: FloatArray, outside: FloatArray) -> FloatArray:
        """Q [m, k] of m prefixes. laws: [m, k, T]; outside: [m], r of each."""
        rate = outside[:, None] * self.times
        weight = STEP * rate * np.exp(-rate)
        found = np.einsum("mt,mkt->mk", weight, 1.0 - np.cumsum(laws, axis=1))
        found[outside <= 0.0] = 1.0
        return np.asarray(np.clip(found, 0.0, 1.0))

    def hopeful(self, at_ends: FloatArray, best: FloatArray, columns: IntArray) -> IntArray:
        """Indices of the blocks that may hold something lower than `best`.

        at_ends: [B+1, k] values of p(H) - Q(H); best: [k]; columns: the numbers of drafts - 1.
        """
        q_at_ends = self.mass_at_ends - at_ends
        share = np.cumsum(self.q, axis=1) / self.q.sum(axis=1, keepdims=True)  # [B, size]
        mass = self.mass_at_ends[:-1] + np.cumsum(self.p, axis=1)
        hopeful = np.zeros(len(self.q), dtype=np.bool_)
        for c in columns:
            left, right = q_at_ends[:-1, c, None], q_at_ends[1:, c, None]
            floor = mass - (left + share * (right - left))
            hopeful |= (floor[:, :-1] < best[c] - TOLERANCE).any(axis=1)
        return np.flatnonzero(hopeful)

    def refined(self, block: int) -> FloatArray:
        """[k] the least p(H) - Q(H) over the prefixes that end inside a block."""
        law, q = self.ends[block], self.q[block]
        laws = np.empty((len(q) - 1, *law.shape))
        for i, rate in enumerate(q[:-1]):
            rung = -np.expm1(-rate * self.times)
            longer = law * (1.0 - rung)
            longer[1:] += law[:-1] * rung
            laws[i] = law = longer
        after = np.cumsum(q[::-1])[::-1][1:] + self.outside_at_ends[block + 1]
        mass = self.mass_at_ends[block] + np.cumsum(self.p[block])[:-1]
        return np.asarray((mass[:, None] - self.inside(laws, after)).min(axis=0))


def in_blocks(values: FloatArray, size: int) -> FloatArray:
    """[B, size], the end filled with zeros: tokens that are never drawn."""
    return np.pad(values, (0, -len(values) % size)).reshape(-1, size)


def _block_laws(q: FloatArray, times: FloatArray, k: int) -> FloatArray:
    """[b, k, T] law of the number of rings in each block; q: [b, size], a power of two wide."""
    rung = -np.expm1(-q[:, :, None] * times)
    laws = np.stack((1.0 - rung, rung))  # [coefficient, b, tokens, T]
    while laws.shape[2] > 1:
        laws = times_cut(laws[:, :, 0::2], laws[:, :, 1::2], k)
    short = k - len(laws)
    laws = np.pad(laws[:k, :, 0], ((0, max(short, 0)), (0, 0), (0, 0)))
    return laws.transpose(1, 0, 2)


def times_cut(a: FloatArray, b: FloatArray, k: int) -> FloatArray:
    """Product of polynomials, coefficients first, cut after k of them."""
    out = np.zeros((min(len(a) + len(b) - 1, k), *a.shape[1:]))
    for i in range(min(len(a), k)):
        end = min(i + len(b), len(out))
        out[i:end] += a[i] * b[: end - i]
    return out
