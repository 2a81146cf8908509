"""Slow and obvious: every draft listed, the optimum by max-flow and by all subsets, and the rules
by recursion over draws. Vocabularies of a few tokens only."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from foretoken.types import FloatArray

Drafts = dict[tuple[int, ...], float]  # drawn tokens in order -> probability


def laws(rng: np.random.Generator, vocab: int) -> tuple[FloatArray, FloatArray]:
    """A random pair, from nearly one-hot to nearly flat; some tokens have no probability."""
    out = []
    for _ in range(2):
        law = rng.dirichlet(np.full(vocab, rng.choice([0.05, 0.3, 1.0, 4.0])))
        law[rng.random(vocab) < 0.15] = 0.0
        out.append(law / law.sum() if law.sum() > 0 else np.eye(vocab)[rng.integers(vocab)])
    return out[0], out[1]


def with_replacement(q: FloatArray, k: int) -> Drafts:
    return {
        drawn: float(np.prod(q[list(drawn)]))
        for drawn in itertools.product(range(len(q)), repeat=k)
    }


def without_replacement(q: FloatArray, k: int) -> Drafts:
    out: Drafts = {}
    for drawn in itertools.permutations(np.flatnonzero(q), min(k, int((q > 0).sum()))):
        left, chance = q.copy(), 1.0
        for x in drawn:
            chance *= left[x] / left.sum()
            left[x] = 0.0
        out[tuple(int(x) for x in drawn)] = chance
    return out


def greedy(q: FloatArray, k: int) -> Drafts:
    order = [int(i) for i in np.argsort(-q, kind="stable")]
    fixed, rest = tuple(order[: k - 1]), q.copy()
    rest[list(fixed)] = 0.0
    if rest.sum() <= 0.0:
        return {tuple(order[:k]): 1.0}
    return {(int(x), *fixed): float(rest[x] / rest.sum()) for x in np.flatnonzero(rest)}


LISTED: dict[str, Callable[[FloatArray, int], Drafts]] = {
    "with": with_replacement, "without": without_replacement, "greedy": greedy,
}  # fmt: skip


def by_subsets(p: FloatArray, drafts: Drafts) -> float:
    """1 + min over all token sets of p(H) - Q(H)."""
    sets = [(set(drawn), chance) for drawn, chance in drafts.items()]
    best = 0.0
    for size in range(len(p) + 1):
        for inside in itertools.combinations(range(len(p)), size):
            within = sum(chance for drawn, chance in sets if drawn <= set(inside))
            best = min(best, float(p[list(inside)].sum()) - within)
    return 1.0 + best


def by_flow(p: FloatArray, drafts: Drafts) -> float:
    """The optimal transport problem itself: most mass from drafted sets to their members."""
    from scipy.optimize import linprog

    merged: dict[frozenset[int], float] = {}
    for drawn, chance in drafts.items():
        merged[frozenset(drawn)] = merged.get(frozenset(drawn), 0.0) + chance
    edges = [(i, x) for i, drawn in enumerate(merged) for x in drawn]
    limits = np.zeros((len(merged) + len(p), len(edges)))
    for column, (i, x) in enumerate(edges):
        limits[i, column] = limits[len(merged) + x, column] = 1.0
    capacity = np.concatenate((list(merged.values()), p))
    found = linprog(-np.ones(len(edges)), A_ub=limits, b_ub=capacity)
    return float(-found.fun)


def walked(p: FloatArray, drafts: Drafts) -> float:
    """Draw and follow: the target's mass on the drafted set."""
    return sum(chance * float(p[list(set(drawn))].sum()) for drawn, chance in drafts.items())


def rejected_in_turn(p: FloatArray, q: FloatArray, k: int, *, replace: bool) -> float:
    """Recursive rejection: chance that one of k draws is accepted, over all draws."""

    def rejected(target: FloatArray, left: FloatArray, more: int) -> float:
        if not more or left.sum() <= 0.0:
            return 1.0
        law = left / left.sum()
        owed = np.maximum(target - law, 0.0)
        below = owed / owed.sum() if owed.sum() > 1e-300 else target
        out = 0.0
        for x in np.flatnonzero(law > target):
            rest = left.copy()
            rest[x] = left[x] if replace else 0.0
            out += float(law[x] - target[x]) * rejected(below, rest, more - 1)
        return out

    return 1.0 - rejected(p, q, k)


def prefix_laws(q: FloatArray, order: Sequence[int], k: int) -> Iterator[float]:
    """Q of each prefix of `order`, by listing the draws."""
    drafts = without_replacement(q, k)
    for m in range(len(order) + 1):
        inside = set(order[:m])
        yield sum(chance for drawn, chance in drafts.items() if set(drawn) <= inside)
