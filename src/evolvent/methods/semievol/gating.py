"""Which voters may vote, and with what weight: judged on labelled rows that their model was not trained on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evolvent.data.records import Question
from evolvent.data.tasks import Task
from evolvent.errors import ModelError
from evolvent.evaluation.priors import align_shares, em_prior
from evolvent.methods.semievol.collaboration import Response
from evolvent.methods.semievol.config import InferenceConfiguration, SemiEvolConfig


@dataclass(frozen=True, slots=True)
class VoterWeights:
    """Weight and held-out accuracy of each voter; a weight of 0 leaves it out."""

    names: tuple[str, ...]
    weights: tuple[float, ...]
    accuracies: tuple[float, ...]
    rows: int

    @property
    def voting(self) -> dict[str, float]:
        """Name -> weight of the voters that vote."""
        return {n: w for n, w in zip(self.names, self.weights, strict=True) if w > 0}

    def __str__(self) -> str:
        if not self.rows:
            return "voters: all equal (no held-out rows)"
        parts = [
            f"{n} {a:.1%}" + ("" if w else " (left out)")
            for n, w, a in zip(self.names, self.weights, self.accuracies, strict=True)
        ]
        return f"voters on {self.rows} held-out rows: " + ", ".join(parts)


def weigh_voters(
    task: Task,
    voters: Sequence[InferenceConfiguration],
    questions: Sequence[Question],
    responses: Mapping[str, Sequence[Response]],
    args: SemiEvolConfig,
) -> VoterWeights:
    """w_g in proportion to held-out accuracy above chance; 0 for a voter `config_margin` below the best one.

    Without held-out rows, or when no voter is above chance, all are equal.
    """
    names = tuple(v.name for v in voters)
    equal = tuple(1.0 for _ in voters)
    if not questions or args.gate == "never":
        return VoterWeights(names, equal, tuple(float("nan") for _ in voters), 0)
    accuracies = tuple(_accuracy(task, questions, responses[name]) for name in names)
    chance = float(np.mean([1 / len(q.choices) if q.choices else 0.0 for q in questions]))
    best = max(accuracies)
    weights = tuple(max(0.0, a - chance) if a >= best - args.config_margin - 1e-12 else 0.0 for a in accuracies)
    if not any(weights):
        weights = equal
    return VoterWeights(names, weights, accuracies, len(questions))


def require_useful_warmup(weights: VoterWeights, labeled: Sequence[Question]) -> None:
    """Stop when no voter beats the most frequent answer: what follows would learn noise.

    Raises:
        ModelError: the best voter is more than one standard error below the share of the most frequent answer.
    """
    if not weights.rows:
        return
    best = max(weights.accuracies)
    majority = max(Counter(q.answer for q in labeled).values()) / len(labeled)
    error = math.sqrt(max(best * (1 - best), 1 / weights.rows) / weights.rows)
    if best < majority - error:
        raise ModelError(
            f"the warmed-up model is right on {best:.1%} of {weights.rows} held-out labelled rows; always giving the "
            f"most frequent answer would be on {majority:.1%}. Label more rows, raise min_steps or warmup_lr, "
            "or go on with force=True (--force)"
        )


def cross_fit_folds(labeled: Sequence[Question], folds: int, seed: int) -> list[list[Question]]:
    """Split the labelled rows into folds with about the same answers in each."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(labeled))
    by_answer = sorted(order.tolist(), key=lambda i: str(labeled[i].answer))
    return [[labeled[i] for i in sorted(by_answer[f::folds])] for f in range(folds)]


def answer_log_prior(
    kind: Literal["labeled", "uniform", "em", "none"],
    responses: Sequence[Sequence[Response]],
    unlabeled: Sequence[Question],
    labeled: Sequence[Question],
) -> Mapping[str, float] | None:
    """Log-prior of each answer that is divided out of the votes; None for no correction.

    See `SemiEvolConfig.prior_correction`. Needs the same choices in every row.
    """
    choices = unlabeled[0].choices
    if kind == "none" or not choices or any(q.choices != choices for q in unlabeled):
        return None
    votes = np.mean(
        [[r.probabilities or (1 / len(choices),) * len(choices) for r in voter] for voter in responses],
        axis=0,
    )
    counts = np.array([1.0 + sum(q.answer == c for q in labeled) for c in choices])
    shares = counts / counts.sum()
    if kind == "em":
        log_prior = np.log(shares) - np.log(em_prior(votes, shares))
    else:
        target = shares if kind == "labeled" else np.full(len(choices), 1 / len(choices))
        log_prior = -align_shares(votes, target)
    return {c: float(x) for c, x in zip(choices, log_prior, strict=True)}


def _accuracy(task: Task, questions: Sequence[Question], responses: Sequence[Response]) -> float:
    hits = [
        np.mean([a is not None and task.matches(a, q.answer or "") for a in r.answers])
        for q, r in zip(questions, responses, strict=True)
    ]
    return float(np.mean(hits))
