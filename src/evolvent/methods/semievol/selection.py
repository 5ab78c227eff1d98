"""Confidence of a consensus, and adaptive selection of the pseudo-labels that are worth learning (S5, S6)."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evolvent.methods.semievol.collaboration import Consensus

Confidence = Literal["entropy", "margin", "nll", "semantic"]


def uncertainty(consensus: Consensus, kind: Confidence) -> float:
    """How unsure a consensus is; lower is surer.

    ==========  =================================================================================
    entropy     H(p) of the mean distribution over the answers, in nats
    semantic    the same over clusters of free-form answers (the distribution is their vote share)
    margin      1 - (p of the best answer - p of the second)
    nll         mean negative log-likelihood per token of the answer (the official code's measure)
    ==========  =================================================================================
    """
    p = np.asarray(consensus.distribution, dtype=float)
    if kind == "nll":
        return consensus.nll
    if kind == "margin":
        top = np.sort(p)[::-1]
        return float(1 - (top[0] - (top[1] if len(top) > 1 else 0.0)))
    positive = p[p > 0]
    return float(-(positive * np.log(positive)).sum())


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows were kept.

    Attributes:
        kept: positions of the kept rows, ascending.
        reasons: for every row "selected", or why it was dropped.
        threshold: largest uncertainty kept, for each class (one entry "all" when selected over all rows).
    """

    kept: tuple[int, ...]
    reasons: tuple[str, ...]
    threshold: dict[str, float]


def select(
    ids: Sequence[str],
    answers: Sequence[str | None],
    uncertainties: Sequence[float],
    *,
    theta: float,
    balance: Literal["class", "global"],
    min_per_class: int = 1,
    known: Collection[str | None] | None = None,
    certified_threshold: float | None = None,
) -> Selection:
    """Keep the surest share `theta` of the rows, inside each predicted class or over all.

    Exactly ceil(theta x N) rows of a group of N are kept: equal uncertainties are ordered by row id. Rows without an
    answer are dropped first. With `certified_threshold`, what is kept is instead every row at most that unsure.

    Args:
        ids: row ids.
        answers: predicted answer of each row; None where no two votes could be read.
        uncertainties: see :func:`uncertainty`.
        theta: share in (0, 1].
        balance: "class" groups rows by answer.
        min_per_class: at least so many of each predicted class, if it has them ...
        known: ... and is one of these, default all: a class without a labelled row gets no floor.
        certified_threshold: largest uncertainty to keep.
    """
    reasons = ["unparsed" if answer is None else "unsure" for answer in answers]
    groups: dict[str, list[int]] = {}
    for row, answer in enumerate(answers):
        if answer is not None and math.isfinite(uncertainties[row]):
            groups.setdefault(answer if balance == "class" else "all", []).append(row)
    kept: list[int] = []
    threshold: dict[str, float] = {}
    for name, rows in sorted(groups.items()):
        rows.sort(key=lambda r: (uncertainties[r], ids[r]))
        if certified_threshold is not None:
            count = sum(uncertainties[r] <= certified_threshold for r in rows)
        else:
            count = math.ceil(theta * len(rows) - 1e-9)
            if balance == "class" and (known is None or name in known):
                count = min(len(rows), max(count, min_per_class))
        if count:
            kept += rows[:count]
            threshold[name] = uncertainties[rows[count - 1]]
    for row in kept:
        reasons[row] = "selected"
    return Selection(tuple(sorted(kept)), tuple(reasons), threshold)
