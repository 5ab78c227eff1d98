"""Class priors: how often each answer is given over unlabelled rows, and how to repair it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def mean_log_prior(probabilities: Array) -> Array:
    """Mean log-probability of each answer, (answers,), from (rows, answers); subtracting it favours no answer."""
    return np.asarray(np.log(np.clip(probabilities, 1e-12, None)).mean(axis=0))


def em_prior(probabilities: Array, source_prior: Array, *, iterations: int = 200) -> Array:
    """Answer shares of unlabelled rows by expectation maximisation (Saerens, Latinne and Decaestecker 2002).

    Args:
        probabilities: (rows, answers), of a model that was trained where answers had `source_prior`.
        source_prior: (answers,), sums to 1.
        iterations: at most; stops when the shares move less than 1e-7.
    """
    prior = np.asarray(source_prior, float)
    shares = prior.copy()
    for _ in range(iterations):
        updated = correct(probabilities, -np.log(np.clip(shares / prior, 1e-12, None))).mean(axis=0)
        if np.abs(updated - shares).max() < 1e-7:
            return np.asarray(updated)
        shares = updated
    return shares


def align_shares(probabilities: Array, target: Array, *, iterations: int = 200) -> Array:
    """Offsets (answers,) to the log-probabilities under which their mean over the rows equals `target`.

    Distribution alignment (Berthelot et al. 2020, ReMixMatch) solved to its fixed point instead of by a running mean.
    """
    offsets = np.zeros(probabilities.shape[1])
    log_target = np.log(np.asarray(target, float))
    for _ in range(iterations):
        step = log_target - np.log(np.clip(correct(probabilities, -offsets).mean(axis=0), 1e-12, None))
        offsets += step
        if np.abs(step).max() < 1e-7:
            break
    return np.asarray(offsets - offsets.mean())


def correct(probabilities: Array, log_prior: Array) -> Array:
    """Probabilities (rows, answers) with a log-prior (answers,) divided out, normalised again."""
    logits = np.log(np.clip(probabilities, 1e-12, None)) - log_prior
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
