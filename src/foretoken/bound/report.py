"""Many positions as one document: means, distances to the optimum, and which claims hold here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from foretoken.bound.optimum import SCHEMES, Scheme
from foretoken.bound.table import DRAWS, RULES, Figures, figures
from foretoken.types import FloatArray, Options

RESAMPLES = 2000  # of the bootstrap
MOST_BINS = 1000  # more groups than this are thrown together, for memory's sake
SMALLEST = 1e-9  # a difference below it is rounding
HOLDS, FAILS, OPEN = "holds", "does not hold here", "no clear difference here"
WITHOUT_ABOVE_WITH = "without replacement is above with"
K_SEQ_ABOVE = "k-SEQ is above recursive rejection (independent drafts)"
GREEDY_BEST = "greedy drafting is best (claimed for low temperature)"
CLAIMS = (WITHOUT_ABOVE_WITH, K_SEQ_ABOVE, GREEDY_BEST)


class Mean(Options):
    """A mean over positions with a 95 % interval (bootstrap over groups: positions of one text are
    not independent). None: there is one group, so nothing to resample."""

    mean: float
    low: float | None
    high: float | None


class RuleRow(Options):
    """One rule with k drafts."""

    rule: str
    scheme: Scheme
    rate: Mean  # chance that the token written was drafted
    gap: Mean  # optimum of the same way of drafting minus rate, position by position
    standard_error: float = Field(0.0, description="of the mean, from simulation; 0 if exact")


class DraftsRow(Options):
    """All that concerns one number of drafts."""

    drafts: int
    optima: dict[Scheme, Mean]
    rules: list[RuleRow]


class Ordering(Options):
    """One claim of the papers, at one number of drafts."""

    claim: str
    drafts: int
    left: str
    left_rate: float
    right: str
    right_rate: float
    difference: Mean  # left minus right
    verdict: str  # one of HOLDS, FAILS, OPEN


class Panel(Options):
    """One temperature, or laws that were given (temperature None)."""

    temperature: float | None
    positions: int
    groups: int  # texts that the positions come from
    rows: list[DraftsRow]
    orderings: list[Ordering]


class BoundReport(Options):
    """The document of `foretoken bound --json`."""

    model: str  # name, or the file of p
    drafter: str  # name, or the file of q
    vocab: int
    dtype: str | None = None  # None: laws were given
    prompts: list[str] = Field(default_factory=list, description="files that the prompts are from")
    max_new_tokens: int | None = None
    drafts: list[int]
    draws: int  # simulated draws of `recursive` at each position
    seed: int
    interrupted: bool
    panels: list[Panel]
    note: str = (
        "One position at a time. Rules for chains and trees gain beyond this table from the order "
        "of several positions: here `token` and `block` are any rule with one draft, and "
        "`traversal` is the recursive rule of the same drafts."
    )


@dataclass(frozen=True)
class Position:
    """One pair's figures and the text that it comes from."""

    group: int
    figures: Figures


class Collected:
    """Positions as they come, and the report of what has come."""

    def __init__(self, drafts: Sequence[int], seed: int, draws: int = DRAWS) -> None:
        self.drafts, self.seed, self.draws = list(drafts), seed, draws
        self.interrupted = False
        self._found: dict[float | None, list[Position]] = {}

    def add(
        self, temperature: float | None, group: int, at: int, p: FloatArray, q: FloatArray
    ) -> None:
        """One more position: number `at` of text `group`. p, q: [V] float64 summing to 1."""
        rng = np.random.default_rng((self.seed, group, at))
        position = Position(group, figures(p, q, self.drafts, self.draws, rng))
        self._found.setdefault(temperature, []).append(position)

    @property
    def any(self) -> bool:
        """Whether there is something to report."""
        return bool(self._found)

    def report(self, model: str, drafter: str, vocab: int, **facts: Any) -> BoundReport:
        """The document. model, drafter: names; facts: fields that say where the text came from."""
        return BoundReport(
            model=model,
            drafter=drafter,
            vocab=vocab,
            drafts=self.drafts,
            draws=self.draws,
            seed=self.seed,
            interrupted=self.interrupted,
            **facts,
            panels=[panel(t, self.drafts, found) for t, found in self._found.items()],
        )


def panel(temperature: float | None, drafts: Sequence[int], positions: Sequence[Position]) -> Panel:
    """Sum up at least one position."""
    means = Means([position.group for position in positions])
    best = {s: np.stack([position.figures.optima[s] for position in positions]) for s in SCHEMES}
    rates = {
        rule.label: np.stack([position.figures.rates[rule.label] for position in positions])
        for rule in RULES
    }
    errors = np.stack([position.figures.error for position in positions])
    of_mean = np.sqrt((errors**2).sum(axis=0)) / len(positions)
    rows = [
        DraftsRow(
            drafts=k,
            optima={scheme: means.of(best[scheme][:, i]) for scheme in SCHEMES},
            rules=[
                RuleRow(
                    rule=rule.name,
                    scheme=rule.scheme,
                    rate=means.of(rates[rule.label][:, i]),
                    gap=means.of(best[rule.scheme][:, i] - rates[rule.label][:, i]),
                    standard_error=float(of_mean[i]) if rule.exact is None else 0.0,
                )
                for rule in RULES
            ],
        )
        for i, k in enumerate(drafts)
    ]
    return Panel(
        temperature=temperature,
        positions=len(positions),
        groups=means.groups,
        rows=rows,
        orderings=_orderings(drafts, best, rates, means),
    )


class Means:
    """Means with bootstrap intervals; the same resamples for every figure, so that differences
    are paired."""

    def __init__(self, group_of: Sequence[int]) -> None:
        index = np.unique(group_of, return_inverse=True)[1]
        self.groups = int(index.max()) + 1
        self._index = (
            index % MOST_BINS
        )  # groups that are thrown together stay independent of others
        bins = min(self.groups, MOST_BINS)
        chosen = np.random.default_rng(0).multinomial(bins, np.full(bins, 1 / bins), RESAMPLES)
        self._sizes = np.bincount(self._index)
        self._weights = chosen / (chosen @ self._sizes)[:, None]  # [RESAMPLES, bins]

    def of(self, values: FloatArray) -> Mean:
        """values: [positions]."""
        mean = float(values.mean())
        if self.groups < 2:
            return Mean(mean=mean, low=None, high=None)
        means = self._weights @ np.bincount(self._index, weights=values)
        low, high = np.quantile(means, (0.025, 0.975))
        return Mean(mean=mean, low=float(low), high=float(high))


def _orderings(
    drafts: Sequence[int],
    best: dict[Scheme, FloatArray],
    rates: dict[str, FloatArray],
    means: Means,
) -> list[Ordering]:
    """The papers' claims for two drafts and more; with one, all rules but walk are the same."""
    out = []
    others = [rule.label for rule in RULES if rule.name != "mixed"]
    for i, k in enumerate(drafts):
        if k < 2:
            continue
        rate = {label: values[:, i] for label, values in rates.items()}
        optimum = {f"optimum, {scheme}": values[:, i] for scheme, values in best.items()}
        rival = max(others, key=lambda label: float(rate[label].mean()))
        pairs = [
            (WITHOUT_ABOVE_WITH, optimum, "optimum, without", optimum, "optimum, with"),
            (WITHOUT_ABOVE_WITH, rate, "recursive, without", rate, "multi-round, with"),
            (K_SEQ_ABOVE, rate, "k-seq, with", rate, "multi-round, with"),
            (GREEDY_BEST, rate, "mixed, greedy", rate, rival),
            (GREEDY_BEST, rate, "mixed, greedy", optimum, "optimum, without"),
        ]
        for claim, lefts, left, rights, right in pairs:
            difference = means.of(lefts[left] - rights[right])
            out.append(
                Ordering(
                    claim=claim,
                    drafts=k,
                    left=left,
                    left_rate=float(lefts[left].mean()),
                    right=right,
                    right_rate=float(rights[right].mean()),
                    difference=difference,
                    verdict=_verdict(difference),
                )
            )
    return sorted(out, key=lambda found: CLAIMS.index(found.claim))


def _verdict(difference: Mean) -> str:
    """Open where the interval says that other texts might have turned the difference round."""
    low, high = difference.low, difference.high
    if low is not None and high is not None and low < -SMALLEST and high > SMALLEST:
        return OPEN
    return HOLDS if difference.mean >= -SMALLEST else FAILS
