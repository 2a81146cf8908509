"""All figures of one pair (p, q): the optimum of each way of drafting, and each rule's rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from foretoken.bound import rates
from foretoken.bound.optimum import SCHEMES, Scheme, optima, trim
from foretoken.types import FloatArray

DRAWS = 32  # simulated draws of `recursive` at each position


@dataclass(frozen=True)
class Rule:
    """An acceptance rule under a way of drafting. exact: rate(p, q, most) -> [most]; None for the
    rule that is simulated."""

    name: str  # of the verifier in `foretoken methods`
    scheme: Scheme
    exact: Callable[[FloatArray, FloatArray, int], FloatArray] | None

    @property
    def label(self) -> str:
        """Unique; a key of `Figures.rates`."""
        return f"{self.name}, {self.scheme}"


RULES = (
    Rule("walk", "with", rates.walk_with),
    Rule("multi-round", "with", rates.multi_round),
    Rule("k-seq", "with", rates.k_seq),
    Rule("walk", "without", rates.walk_without),
    Rule("recursive", "without", None),
    Rule("walk", "greedy", rates.walk_greedy),
    Rule("mixed", "greedy", rates.mixed),
    Rule("walk", "top-k", rates.walk_top),
)


@dataclass(frozen=True)
class Figures:
    """Of one position; every array is [len(drafts)]."""

    optima: dict[Scheme, FloatArray]
    rates: dict[str, FloatArray]  # by Rule.label
    error: FloatArray  # standard error of the simulated rule


def figures(
    p: FloatArray, q: FloatArray, drafts: Sequence[int], draws: int, rng: np.random.Generator
) -> Figures:
    """Everything about one position. p, q: [V] float64 summing to 1; draws: at least 2."""
    most, columns = max(drafts), np.array(drafts) - 1
    p, q = trim(p, q, most)
    simulated = rates.recursive(p, q, most, draws, rng)
    found = {
        rule.label: (simulated.mean if rule.exact is None else rule.exact(p, q, most))[columns]
        for rule in RULES
    }
    best = {scheme: optima(p, q, drafts, scheme) for scheme in SCHEMES}
    return Figures(best, found, simulated.error[columns])
