"""Where to put a threshold: the point of a ROC curve of least cost."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def best_threshold(
    scores: ArrayLike, missed: ArrayLike, stood: ArrayLike, fnr_weight: float = 3.0
) -> float:
    """The score s for which FPR + fnr_weight * FNR is least if all from s on are called positive;
    the highest such score among equals.

    scores: [n], distinct. missed, stood: [n] >= 0, how many negatives and positives had each
    score; both must have a positive sum. As scikit-learn's `roc_curve` with its argmin, whose
    further point (nothing is positive) can never cost less than the lowest score, where the FNR is
    0, if fnr_weight >= 1.
    """
    values = np.asarray(scores, dtype=np.float64)
    order = np.argsort(-values, kind="stable")
    false = np.cumsum(np.asarray(missed, dtype=np.float64)[order])
    true = np.cumsum(np.asarray(stood, dtype=np.float64)[order])
    cost = false / false[-1] + fnr_weight * (1.0 - true / true[-1])
    cost = cost.round(12)  # equal but for rounding is equal
    return float(values[order][int(np.argmin(cost))])
