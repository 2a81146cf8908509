"""What each acceptance rule reaches at one position: the chance that the token written was drafted.

p, q: [V] float64 laws of target and drafter. Functions return one figure per number of drafts
1..most, shape [most]. All are exact but `recursive`, which is averaged over simulated draws, with
everything else in each draw exact, and comes with its standard error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from foretoken.bound.clocks import IntArray
from foretoken.bound.covered import covered
from foretoken.bound.optimum import greedy_rate, greedy_split, likeliest
from foretoken.types import FloatArray

BISECTIONS = 60
NOTHING = 1e-15  # probability mass that counts as none
CHUNK = 1 << 20  # float64 numbers of one array of simulated draws


@dataclass(frozen=True)
class Estimate:
    """A mean over simulated draws and its standard error, [most] each."""

    mean: FloatArray
    error: FloatArray


def walk_with(p: FloatArray, q: FloatArray, most: int) -> FloatArray:
    """Draw and follow, drafts drawn independently: p of the drafted set, in the mean."""
    return np.array([float(p @ -np.expm1(k * _log1m(q))) for k in range(1, most + 1)])


def walk_without(p: FloatArray, q: FloatArray, most: int) -> FloatArray:
    """Draw and follow, drafts drawn without replacement."""
    return covered(p, q, most)


def walk_greedy(p: FloatArray, q: FloatArray, most: int) -> FloatArray:
    """Draw and follow over the k-1 likeliest tokens and a drawn one."""
    out = []
    for k in range(1, most + 1):
        fixed, rest = greedy_split(q, k)
        out.append(float(p[fixed].sum() + p @ rest))
    return np.array(out)


def walk_top(p: FloatArray, q: FloatArray, most: int) -> FloatArray:
    """Draw and follow over the k likeliest tokens."""
    return np.array([float(p[likeliest(q, k)].sum()) for k in range(1, most + 1)])


def mixed(p: FloatArray, q: FloatArray, most: int) -> FloatArray:
    """Greedy drafting under its own rule, the drawn child tested first (Optimal MDSD)."""
    return np.array([greedy_rate(p, q, k) for k in range(1, most + 1)])


def multi_round(p: FloatArray, q: FloatArray, most: int) -> FloatArray:
    """Recursive rejection over independent drafts (SpecInfer). The residual after each rejection
    does not depend on the token that was rejected, so no draw needs to be simulated."""
    rejected, out = 1.0, []
    for _ in range(most):
        rejected *= 1.0 - min(float(np.minimum(p, q).sum()), 1.0)
        out.append(1.0 - rejected)
        owed = np.maximum(p - q, 0.0)
        if owed.sum() <= NOTHING:
            rejected = 0.0
        else:
            p = owed / owed.sum()
    return np.array(out)


def k_seq(p: FloatArray, q: FloatArray, most: int) -> FloatArray:
    """SpecTr's k-SEQ at its best factor rho."""
    return np.array([k_seq_rate(p, q, k, k_seq_factor(p, q, k)) for k in range(1, most + 1)])


def k_seq_factor(p: FloatArray, q: FloatArray, k: int) -> float:
    """The least valid rho in [1, k]. It is the upper end of the last bracket: a smaller factor
    would accept more than the target allows (SpecTr, arXiv 2310.15141)."""

    def excess(rho: float) -> float:
        beta = float(np.minimum(q, p / rho).sum())
        return 1.0 - (1.0 - beta) ** k - rho * beta

    low, high = 1.0, float(k)
    if k == 1 or excess(low) <= 1e-12:
        return low
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high


def k_seq_rate(p: FloatArray, q: FloatArray, k: int, rho: float) -> float:
    """Acceptance of k-SEQ with any valid factor; a residual token that was drafted counts."""
    kept = np.minimum(q, p / rho)
    beta = min(float(kept.sum()), 1.0)
    if beta <= NOTHING:
        return 0.0
    accepted = 1.0 - (1.0 - beta) ** k
    if 1.0 - beta <= NOTHING:
        return accepted
    residual = np.maximum(p - kept * accepted / beta, 0.0)
    drafted_again = -np.expm1(k * _log1m((q - kept) / (1.0 - beta)))
    return accepted + float(residual @ drafted_again)


def recursive(
    p: FloatArray, q: FloatArray, most: int, draws: int, rng: np.random.Generator
) -> Estimate:
    """Recursive rejection over drafts without replacement (RSD, Sequoia).

    Only rejected histories go on, and they are drawn from their own law, which is proportional to
    (q - p)+ at each draw; the chance of acceptance at each draw is then an exact sum.
    """

    def some(count: int) -> FloatArray:
        target, left, rejected = np.tile(p, (count, 1)), np.tile(q, (count, 1)), np.ones(count)
        out = np.empty((most, count))
        for k in range(most):
            mass = left.sum(axis=1, keepdims=True)
            law = np.divide(left, mass, out=np.zeros_like(left), where=mass > 0)
            surplus, owed = np.maximum(law - target, 0.0), np.maximum(target - law, 0.0)
            lost, gained = surplus.sum(axis=1), owed.sum(axis=1)
            drawable = mass[:, 0] > 0  # else q has no more tokens, and nothing more is drafted
            rejected[drawable] *= np.minimum(lost, 1.0)[drawable]
            out[k] = 1.0 - rejected
            going = drawable & (lost > NOTHING) & (gained > NOTHING)
            rejected[drawable & ~going] = 0.0
            left[going, _drawn(surplus, rng)[going]] = 0.0
            target[going] = owed[going] / gained[going, None]
        return out

    return _estimate(some, len(p), draws)


def _drawn(weights: FloatArray, rng: np.random.Generator) -> IntArray:
    """[draws] a token of each row, proportionally to its weight; rows without weight give any."""
    sums = np.cumsum(weights, axis=1)
    reach = rng.random(len(weights)) * sums[:, -1]
    return np.asarray(np.minimum((sums <= reach[:, None]).sum(axis=1), weights.shape[1] - 1))


def _estimate(some: Callable[[int], FloatArray], vocab: int, draws: int) -> Estimate:
    """some: n -> [most, n] values, one column a simulated draw; called for as many as fit."""
    at_once = max(1, CHUNK // vocab)
    sizes = [min(at_once, draws - start) for start in range(0, draws, at_once)]
    values = np.concatenate([some(size) for size in sizes], axis=1)
    return Estimate(values.mean(axis=1), values.std(axis=1, ddof=1) / np.sqrt(draws))


def _log1m(x: FloatArray) -> FloatArray:
    """log(1 - x), -inf at 1."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log1p(-np.minimum(x, 1.0)))
