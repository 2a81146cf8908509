"""The best acceptance that any exact rule can reach for k drafts at one position.

Optimal acceptance = 1 + min over token sets H of p(H) - Q(H), where Q(H) is the probability that
all k drafts lie in H (the dual of the optimal transport problem). For independent draws and for
draws without replacement a minimiser is a prefix of the tokens sorted by q/p, largest first.
Source: Towards Optimal Multi-draft Speculative Decoding (arXiv 2502.18779).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from foretoken.bound.clocks import IntArray, lowest_gap
from foretoken.errors import ConfigError
from foretoken.types import BoolArray, FloatArray

Scheme = Literal["with", "without", "greedy", "top-k"]
SCHEMES: tuple[Scheme, ...] = ("with", "without", "greedy", "top-k")
TAIL = 1e-13  # probability that may be neglected; see `trim`


def optimum(p: FloatArray, q: FloatArray, k: int, scheme: Scheme) -> float:
    """Largest probability that the emitted token is among k drafts; see `optima`."""
    return float(optima(p, q, [k], scheme)[0])


def optima(p: FloatArray, q: FloatArray, drafts: Sequence[int], scheme: Scheme) -> FloatArray:
    """[len(drafts)] the optimum for each number of drafts; p, q: [V] float64, each summing to 1.

    scheme: "with" (independent draws), "without" (replacement), "greedy" (the k-1 likeliest tokens
    and one drawn from the rest) or "top-k" (the k likeliest: no chance, so the optimum is p of
    them). Without replacement, a law with fewer than k tokens drafts all it has.
    The error is below (max(drafts) + 1) * 3e-13. Raises ConfigError for fewer than one draft or an
    unknown scheme.
    """
    if min(drafts) < 1:
        raise ConfigError("drafts", min(drafts), "whole numbers from 1")
    if scheme not in SCHEMES:
        raise ConfigError("scheme", scheme, f"one of {', '.join(SCHEMES)}")
    if scheme == "greedy":
        return np.array([greedy_rate(p, q, k) for k in drafts])
    if scheme == "top-k":
        return np.array([p[likeliest(q, k)].sum() for k in drafts])
    p, q = _sorted(*trim(p, q, max(drafts)))
    if scheme == "with":
        gaps = np.cumsum(p) - np.cumsum(q) ** np.array(drafts)[:, None]
        return np.asarray(1.0 + np.minimum(gaps.min(axis=1), 0.0))
    return _without(p, q, drafts)


def greedy_rate(p: FloatArray, q: FloatArray, k: int) -> float:
    """Acceptance of greedy drafting under its own rule, which is the optimum of that scheme.

    The k-1 likeliest tokens T of q are always drafted, one more is drawn from q without them; if q
    holds nothing else, the next token by id is taken.
    """
    fixed, rest = greedy_split(q, k)
    return float(p[fixed].sum() + np.minimum(p, rest).sum())


def greedy_split(q: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
    """(ids [k-1] of the fixed tokens, law [V] of the drawn one: 0 on them, and a point mass where
    q has no mass left)."""
    order = likeliest(q, k)
    fixed = order[: k - 1]
    rest = q.copy()
    rest[fixed] = 0.0
    mass = rest.sum()
    if mass <= 0.0 and len(order) >= k:
        rest[order[k - 1]] = mass = 1.0
    return fixed, rest / mass if mass > 0.0 else rest


def likeliest(q: FloatArray, k: int) -> IntArray:
    """Ids of the k largest entries, the lowest id first among equals; all of them if k > V."""
    return np.argsort(-q, kind="stable")[:k]


def trim(p: FloatArray, q: FloatArray, k: int) -> tuple[FloatArray, FloatArray]:
    """The same pair without tokens that cannot matter, each law summing to 1 again.

    Left out of p: the smallest, up to TAIL in all. Left out of q: the smallest, up to TAIL times
    the k-th largest in all. Among k draws without replacement at least one of the k likeliest
    tokens is still there to be drawn, so that each draw hits a token left out with probability
    TAIL at most. Every rate for up to k drafts changes by at most (k + 1) * 2 * TAIL.
    """
    positive = np.sort(q[q > 0])[::-1]
    seen_p, seen_q = _heavy(p, TAIL), _heavy(q, TAIL * positive[min(k, len(positive)) - 1])
    either = seen_p | seen_q
    p, q = np.where(seen_p, p, 0.0)[either], np.where(seen_q, q, 0.0)[either]
    return p / p.sum(), q / q.sum()


def _heavy(law: FloatArray, mass: float) -> BoolArray:
    """All but the smallest entries, whose sum is `mass` at most."""
    order = np.argsort(law)
    kept = np.ones(len(law), dtype=np.bool_)
    kept[order[np.cumsum(law[order]) <= mass]] = False
    return kept


def _sorted(p: FloatArray, q: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The tokens of positive q, by q/p descending (p = 0 first). Others only add to p(H)."""
    p, q = p[q > 0], q[q > 0]
    order = np.argsort(p / q, kind="stable")
    return p[order], q[order]


def _without(p: FloatArray, q: FloatArray, drafts: Sequence[int]) -> FloatArray:
    counts = [min(k, len(q)) for k in drafts]
    lowest = {1: (np.cumsum(p) - np.cumsum(q)).min()}
    if 2 in counts:
        lowest[2] = (np.cumsum(p) - _both_inside(q)).min()
    if more := sorted({k for k in counts if k > 2}):
        lowest.update(zip(more, lowest_gap(p, q, more), strict=True))
    return np.array([1.0 + min(lowest[k], 0.0) for k in counts])


def _both_inside(q: FloatArray) -> FloatArray:
    """[n] probability that two draws without replacement lie in each prefix: the sum over x in H of
    q(x) / (1 - q(x)) * q(H without x). The largest token stands apart: 1 - q(x) and q(H without x)
    would lose all digits where it has nearly all the mass."""
    top = int(np.argmax(q))
    others = q.copy()
    others[top] = 0.0
    odds = others / (1.0 - others)
    inside = np.cumsum(odds) * np.cumsum(q) - np.cumsum(odds * others)
    rest = others.sum()
    inside[top:] += q[top] / rest * np.cumsum(others)[top:] if rest > 0.0 else 1.0
    return inside
