"""Expected target mass on the first k draws without replacement: what draw-and-follow accepts.

The clocks of `clocks.py`: token x is among the first k draws if fewer than k others have rung when
it rings, at a time of density q(x) exp(-q(x) t). Summed over x with weights p(x) that is a product
of polynomials in which one token is marked: pairs (law, marked law) multiply like a function and
its derivative, so one pass gives the sum over all tokens.

At each time, most tokens of a large vocabulary are light: q(x) t is small. The product over all
light ones follows from the sums of q^i and p q^i alone (Newton's identities on the odds
exp(q t) - 1, which is stable because the odds are small), so that they cost nothing per time.
"""

from __future__ import annotations

import numpy as np

from foretoken.bound.clocks import DEAD, LAST, STEP, IntArray, in_blocks, times_cut
from foretoken.types import FloatArray

EARLY = -36.0  # log t; exp(EARLY) of the mass is left out
LIGHT = 0.05  # largest q(x) t of a light token
TERMS = 16  # of the series of the odds' powers: what is left out is below LIGHT ** TERMS
WIDTH = 64  # tokens multiplied together, a power of two

Pair = tuple[FloatArray, FloatArray]  # law and marked law, [k, ...] coefficients first


def covered(p: FloatArray, q: FloatArray, most: int) -> FloatArray:
    """[most] expected p of the first 1..most draws from q without replacement. p, q: [V]."""
    p, q = p[q > 0], q[q > 0]
    order = np.argsort(-q)  # heavy tokens first; late times then drop out soon
    p, q = p[order], q[order]
    times = np.exp(np.arange(EARLY, np.log(LAST / q[-1]) + STEP, STEP))
    law, marked = np.zeros((2, most, len(times)))
    law[0] = 1.0
    light_from = np.full(len(times), -(-len(q) // WIDTH))  # block whose tokens are light, by time
    live = len(times)  # times at which fewer than k rings still have a chance
    for block, at in enumerate(range(0, len(q), WIDTH)):
        first = int(np.searchsorted(times, LIGHT / q[at]))
        light_from[:first] = np.minimum(light_from[:first], block)
        if first >= live:
            break
        some = _product(p[at : at + WIDTH], q[at : at + WIDTH], times[first:live], most)
        law[:, first:live], marked[:, first:live] = _both(
            (law[:, first:live], marked[:, first:live]), some, most
        )
        alive = np.flatnonzero((law + times * marked).sum(axis=0)[:live] > DEAD)
        live = int(alive[-1]) + 1 if len(alive) else 0
    times = times[:live]
    light = _light(p, q, times, light_from[:live], most)
    _, marked = _both((law[:, :live], marked[:, :live]), light, most)
    return np.asarray(STEP * np.cumsum((times * marked).sum(axis=1)))


def _product(p: FloatArray, q: FloatArray, times: FloatArray, k: int) -> Pair:
    """[k, T] law of the number of rings of some tokens, and the same with one of them marked by
    p(x) q(x) exp(-q(x) t) and not counted."""
    p, q = in_blocks(p, WIDTH)[0][:, None], in_blocks(q, WIDTH)[0][:, None]
    rung = -np.expm1(-q * times)
    still = 1.0 - rung
    pair = np.stack((still, rung)), np.stack((p * q * still, np.zeros_like(rung)))
    while pair[0].shape[1] > 1:
        left, right = ((pair[0][:, i::2], pair[1][:, i::2]) for i in (0, 1))
        pair = _both(left, right, k)
    return pair[0][:k, 0], pair[1][:k, 0]


def _both(a: Pair, b: Pair, k: int) -> Pair:
    return times_cut(a[0], b[0], k), times_cut(a[1], b[0], k) + times_cut(a[0], b[1], k)


def _light(p: FloatArray, q: FloatArray, times: FloatArray, light_from: IntArray, k: int) -> Pair:
    """[k, T] the pair of all tokens from block `light_from` [T] on, which are light by then."""
    heads = np.append(q[::WIDTH], 0.0)  # no token is light where the largest light one is "0"
    sums = _powers(q, np.ones_like(q))[light_from] * _vander(heads[light_from] * times)
    weighed = _powers(q, p * q)[light_from] * _vander(heads[light_from] * times)
    odds = np.zeros((k, TERMS))
    odds[0, 0] = 1.0  # series in q t of the odds' j-th power
    for j in range(1, k):
        odds[j] = np.convolve(odds[j - 1], _EXPM1)[:TERMS]
    moments, weighed = odds @ sums.T, odds @ weighed.T  # [k, T] sums of odds^j, with p q before
    law = np.zeros((k, len(times)))
    law[0] = np.exp(-sums[:, 1])
    for c in range(1, k):
        for j in range(1, c + 1):
            law[c] += (-1.0) ** (j - 1) * law[c - j] * moments[j] / c
    signs = (-1.0) ** np.arange(k)[:, None]
    return law, times_cut(law, signs * weighed, k)  # 1 / (1 + odds z) takes the marked one out


def _powers(q: FloatArray, weights: FloatArray) -> FloatArray:
    """[blocks + 1, TERMS] sums of weight * (q / head) ** i over the tokens from each block on.
    head: the block's largest q, without which powers would leave the range of float64."""
    tokens, heads = in_blocks(q, WIDTH), q[::WIDTH]
    parts = np.einsum("bw,bwi->bi", in_blocks(weights, WIDTH), _vander(tokens / heads[:, None]))
    shrinks = _vander(heads[1:] / heads[:-1])
    out = np.zeros((len(parts) + 1, TERMS))
    out[-2] = parts[-1]
    for b in reversed(range(len(parts) - 1)):
        out[b] = parts[b] + shrinks[b] * out[b + 1]
    return out


def _vander(x: FloatArray) -> FloatArray:
    """[..., TERMS] x ** 0, x ** 1, ..."""
    return x[..., None] ** np.arange(TERMS)


_EXPM1 = np.concatenate(([0.0], 1.0 / np.cumprod(np.arange(1.0, TERMS))))  # exp(u) - 1
