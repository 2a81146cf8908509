"""Means over prompts with their error: steps of one prompt resemble each other, prompts do not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from foretoken.types import Options

LEVEL = 0.95


class Mean(Options):
    """A ratio of two sums over prompts, as tokens per step. None: fewer than two prompts."""

    mean: float
    error: float | None = None  # standard error, prompts taken as independent
    low: float | None = None  # interval of LEVEL, Student's t
    high: float | None = None

    @classmethod
    def of(cls, sums: Sequence[float], counts: Sequence[float]) -> Mean | None:
        """sum(sums) / sum(counts), one entry a prompt; None if nothing was counted.

        The error is that of a ratio estimator (Cochran 1977, eq. 6.10): the residuals sums - mean *
        counts vary from prompt to prompt, whatever happens within one.
        """
        top, bottom = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
        if bottom.sum() <= 0:
            return None
        mean, n = float(top.sum() / bottom.sum()), len(top)
        if n < 2:
            return cls(mean=mean)
        from scipy.special import stdtrit

        residuals = top - mean * bottom
        error = math.sqrt(n / (n - 1) * float((residuals**2).sum())) / float(bottom.sum())
        half = error * float(stdtrit(n - 1, (1 + LEVEL) / 2))
        return cls(mean=mean, error=error, low=mean - half, high=mean + half)
