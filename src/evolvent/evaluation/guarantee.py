"""How confident must an answer be for its kind to be right at least so often? Learn-then-test selection."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class CertifiedThreshold:
    """A threshold of confidence, and what it promises.

    Attributes:
        threshold: keep rows whose confidence is at least this; inf when nothing could be certified.
        certified: whether there is one.
        upper_error: upper confidence bound of the error among kept rows; nan when nothing could be certified.
        coverage: share of the calibration rows that it keeps.
    """

    threshold: float
    certified: bool
    upper_error: float
    coverage: float


def certified_threshold(
    confidence: ArrayLike, correct: ArrayLike, target_precision: float, *, delta: float = 0.1, grid: int = 20
) -> CertifiedThreshold:
    """The lowest threshold at which kept answers are right with `target_precision`, with probability 1 - `delta`.

    Fixed-sequence testing (Angelopoulos et al. 2021): thresholds at `grid` quantiles fixed in advance are tested from
    the strictest on, each by the exact (Clopper-Pearson) bound at level `delta`, until the first one fails.

    Args:
        confidence: (rows,) of calibration rows that were not trained on; higher is surer.
        correct: (rows,) whether their answer was right.
        target_precision: in (0, 1).
        delta: probability with which the promise may fail, over draws of the calibration rows.
        grid: number of thresholds.
    """
    sure, right = np.asarray(confidence, float), np.asarray(correct, bool)
    best = CertifiedThreshold(math.inf, False, math.nan, 0.0)
    rows = len(sure)
    if rows == 0:
        return best
    # Too few rows cannot pass however right they are; the sequence starts where a pass is possible.
    needed = math.ceil(math.log(delta) / math.log(target_precision))
    counts = [c for c in sorted({math.ceil(rows * (g + 1) / grid) for g in range(grid)}) if c >= needed]
    ordered = np.sort(sure)[::-1]
    for count in counts:
        threshold = float(ordered[count - 1])
        kept = sure >= threshold
        upper = upper_error_bound(int((~right[kept]).sum()), int(kept.sum()), delta)
        if upper > 1 - target_precision:
            break
        best = CertifiedThreshold(threshold, True, upper, float(kept.mean()))
    return best


def upper_error_bound(errors: int, rows: int, delta: float) -> float:
    """Clopper-Pearson upper bound, at level 1 - `delta`, of an error rate seen as `errors` of `rows`."""
    from scipy.stats import beta

    return 1.0 if errors >= rows else float(beta.ppf(1 - delta, errors + 1, rows - errors))
