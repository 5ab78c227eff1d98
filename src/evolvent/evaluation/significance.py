"""Is a difference real? Bootstrap intervals and paired tests on the same questions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

DRAWS = 10_000
_BLOCK = 4_000_000  # resampled values held in memory at once


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairedTest:
    """A paired difference (second minus first), its 95 % bootstrap interval, and a two-sided p-value."""

    difference: float
    low: float
    high: float
    p_value: float


def bootstrap_interval(values: ArrayLike, *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Percentile interval of the mean of (rows,) or (seeds, rows) values; both levels are resampled."""
    table = _table(values)
    means = _resampled_means(table, draws, seed)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(table.mean()), float(low), float(high))


def paired_bootstrap(first: ArrayLike, second: ArrayLike, *, draws: int = DRAWS, seed: int = 0) -> PairedTest:
    """Mean of second - first with interval and p-value.

    Args:
        first: a value for each row, (rows,), or for each seed and row, (seeds, rows).
        second: the same rows under the other variant.
        draws: bootstrap samples. With several seeds, seeds are drawn with replacement, and rows within each.
        seed: of the bootstrap.

    The p-value is twice the share of draws on the other side of 0, at least 2 / (draws + 1), and at least
    2^(1 - k) where k rows differ, which is all that a sign-flip test of k rows can show.
    """
    table = _table(second) - _table(first)
    means = _resampled_means(table, draws, seed)
    low, high = np.quantile(means, [0.025, 0.975])
    tail = min((means <= 0).sum(), (means >= 0).sum())
    least = 2.0 ** (1 - np.count_nonzero(table.mean(0)))
    p_value = min(1.0, max(2 * (tail + 1) / (draws + 1), least))
    return PairedTest(float(table.mean()), float(low), float(high), float(p_value))


def mcnemar_exact(first_correct: ArrayLike, second_correct: ArrayLike) -> float:
    """Exact two-sided McNemar p-value: a binomial test on the rows where exactly one of two models is right."""
    from scipy.stats import binomtest

    a, b = np.asarray(first_correct, bool), np.asarray(second_correct, bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def _table(values: ArrayLike) -> NDArray[np.float64]:
    table = np.atleast_2d(np.asarray(values, dtype=float))
    if table.ndim != 2 or table.size == 0:
        raise ValueError(f"expected values of shape (rows,) or (seeds, rows), got {np.asarray(values).shape}")
    return table


def _resampled_means(table: NDArray[np.float64], draws: int, seed: int) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    seeds, rows = table.shape
    means: list[NDArray[Any]] = []
    step = max(1, _BLOCK // (seeds * rows))
    for start in range(0, draws, step):
        count = min(step, draws - start)
        which = random.integers(seeds, size=(count, seeds, 1))
        picked = random.integers(rows, size=(count, seeds, rows))
        means.append(table[which, picked].mean(axis=(1, 2)))
    return np.concatenate(means)
