"""The tests of an audit: counts against known probabilities, counts against counts, and power.

All p-values are those of a law that holds if the engine is exact. The cells of every test are
chosen without a look at the audited sample, or from the margins of both samples alone.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from typing import NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)

POOL = 10.0  # least expected count of a cell
CELLS = 64  # most cells: more of them dilute the power against a given distance
LEVEL = 0.95  # of the intervals for the distance
MOST_SAMPLES = 1_000_000


class Outcome(NamedTuple):
    """A test's result."""

    statistic: float
    freedom: int  # degrees of freedom; 0: there was nothing to test
    p_value: float


def chi_square(seen: Sequence[float], expected: Sequence[float]) -> Outcome:
    """Pearson's test of counts against expected ones (all above 0), of equal sums.

    Pearson's and not the likelihood ratio G: with expected counts near 10 its mean is still right,
    while G's is too large, so that G accuses too often.
    """
    from scipy.stats import chi2

    freedom = len(seen) - 1
    if freedom < 1:
        return Outcome(0.0, 0, 1.0)
    value = sum((s - e) ** 2 / e for s, e in zip(seen, expected, strict=True))
    return Outcome(value, freedom, float(chi2.sf(value, freedom)))


def likelihood_ratio(seen: Sequence[float], expected: Sequence[float]) -> float:
    """G of the same counts, for readers who are used to it."""
    pairs = zip(seen, expected, strict=True)
    return 2 * sum(s * math.log(s / e) for s, e in pairs if s)


def two_samples(
    a: Mapping[K, int], b: Mapping[K, int], cells: int = CELLS
) -> tuple[Outcome, float, int]:
    """(test, total variation, cells) of two counts that should have one law.

    A cell is an outcome whose margin (both counts together) expects POOL in either sample; the
    most frequent ones at most `cells`, the rest is pooled. Given the margins the test is fair.
    """
    total_a, total_b = sum(a.values()), sum(b.values())
    total = total_a + total_b
    share = min(total_a, total_b) / total
    margins = sorted(((a.get(k, 0) + b.get(k, 0), repr(k), k) for k in {*a, *b}), reverse=True)
    own = [key for n, _, key in margins if n * share >= POOL][: cells - 1]
    rows = [(a.get(key, 0), b.get(key, 0)) for key in own]
    rest = (total_a - sum(x for x, _ in rows), total_b - sum(y for _, y in rows))
    if sum(rest) * share >= POOL or not rows:
        rows.append(rest)
    elif sum(rest):
        rows[-1] = (rows[-1][0] + rest[0], rows[-1][1] + rest[1])
    margin = [(x + y) / total for x, y in rows]
    seen = [x for x, _ in rows] + [y for _, y in rows]
    test = chi_square(seen, [m * total_a for m in margin] + [m * total_b for m in margin])
    found = _of_table(test.statistic, len(rows) - 1)
    distance = sum(abs(x / total_a - y / total_b) for x, y in rows) / 2
    return found, distance, len(rows)


def _of_table(statistic: float, freedom: int) -> Outcome:
    from scipy.stats import chi2

    if freedom < 1:
        return Outcome(0.0, 0, 1.0)
    return Outcome(statistic, freedom, float(chi2.sf(statistic, freedom)))


def deviation(total: float, variance: float) -> Outcome:
    """A sum of many centred terms against the normal law, both sides. variance: of the sum."""
    from scipy.stats import norm

    if variance <= 0.0:
        return Outcome(0.0, 0, 1.0)
    z = total / math.sqrt(variance)
    return Outcome(z, 1, float(2 * norm.sf(abs(z))))


def rare_count(seen: int, mean: float, variance: float) -> Outcome:
    """How often something happened that was to happen `mean` times, both sides.

    Each occasion has a small chance of its own. Below a variance of 25 by Poisson's law, which is
    wider than the true one, hence careful; above by the normal law.
    """
    from scipy.stats import poisson

    if mean <= 0.0:
        return Outcome(float(seen), 0, 1.0)
    if variance > 25:
        return deviation(seen - mean, variance)
    tail = min(poisson.cdf(seen, mean), poisson.sf(seen - 1, mean))
    return Outcome(float(seen), 1, min(1.0, 2 * float(tail)))


def interval(distance: float, cells: int, samples: float) -> tuple[float, float]:
    """LEVEL interval for the true total variation over the cells, from the observed one.

    McDiarmid: one sample moves the observed distance by 1/N at most. Its mean lies between the
    true distance and that plus sqrt((cells - 1) / N) / 2. No assumption, hence wide.
    """
    slack = math.sqrt(math.log(2 / (1 - LEVEL)) / (2 * samples))
    bias = math.sqrt(max(cells - 1, 0) / samples) / 2
    return max(0.0, distance - slack - bias), min(1.0, distance + slack)


def power(samples: float, freedom: int, effect: float, alarm: float) -> float:
    """Least chance that the chi-square test sees a total variation of `effect` over its cells.

    The noncentrality is N sum (p-q)^2/q, which is at least 4 N TV^2 (Cauchy-Schwarz).
    """
    from scipy.stats import chi2, ncx2

    if freedom < 1:
        return 0.0
    return float(ncx2.sf(chi2.isf(alarm, freedom), freedom, 4 * samples * effect**2))


@cache
def detectable(samples: float, freedom: int, wanted: float, alarm: float) -> float | None:
    """The least total variation that is seen with probability `wanted`; None: not even 1."""
    if power(samples, freedom, 1.0, alarm) < wanted:
        return None
    low, high = 0.0, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        if power(samples, freedom, middle, alarm) < wanted:
            low = middle
        else:
            high = middle
    return high
