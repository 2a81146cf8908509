"""Intervals of ratios by a paired bootstrap over prompts.

Two methods decode the same prompts, and prompts differ more than runs do: so prompts are drawn
again, with replacement and for both methods alike, and the ratio of their speeds is taken anew. The
interval is that of the middle LEVEL of such ratios (Efron and Tibshirani 1993, ch. 13).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEVEL = 0.95
ROUNDS = 2000


def ratio_interval(
    ours: Sequence[tuple[float, float]], theirs: Sequence[tuple[float, float]], seed: int = 0
) -> tuple[float, float] | None:
    """Of our tokens per second over theirs. A pair (tokens, seconds) for each prompt, the same
    prompts in the same order; None for fewer than two."""
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} and {len(theirs)} prompts")
    n = len(ours)
    if n < 2:
        return None
    drawn = np.random.default_rng(seed).integers(0, n, (ROUNDS, n))
    mine, base = (
        np.asarray(pairs, dtype=np.float64)[drawn].sum(axis=1) for pairs in (ours, theirs)
    )
    ratios = (mine[:, 0] / mine[:, 1]) / (base[:, 0] / base[:, 1])
    low, high = np.quantile(ratios, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)).tolist()
    return low, high
