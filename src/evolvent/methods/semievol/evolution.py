"""Adaptive evolution (S7) and the decision whether to keep it (S8)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evolvent.data.records import Question
from evolvent.data.tasks import Task
from evolvent.evaluation.significance import mcnemar_exact
from evolvent.methods.semievol.collaboration import Consensus
from evolvent.methods.semievol.config import SemiEvolConfig
from evolvent.methods.semievol.propagation import supervised_examples, training_settings
from evolvent.training.config import FineTuneConfig
from evolvent.training.examples import TrainingExample

COLLAPSE = 0.05  # level of the test on rows that were trained on
NEGLIGIBLE = 0.02  # probability under which a soft target is not worth a row


def evolution_examples(
    task: Task,
    labeled: Sequence[Question],
    selected: Sequence[tuple[Question, Consensus]],
    args: SemiEvolConfig,
) -> list[TrainingExample]:
    """D* = labelled rows, then the selected ones; without demonstrations: knowledge moves from context to weights.

    Soft targets become one row for each answer, weighted by its probability.
    """
    examples = supervised_examples(task, labeled) if args.include_labeled else []
    for question, consensus in selected:
        prompt = task.prompt(question)
        weight = args.correction_weight if is_correction(consensus) else 1.0
        for answer, probability in _targets(consensus, args.soft_targets):
            completion = task.completion(question, answer)
            name = f"pseudo-labelled row {question.id}"
            examples.append(TrainingExample(prompt, completion, weight * probability, name))
    return examples


def is_correction(consensus: Consensus) -> bool:
    """Whether the consensus differs from what the warmed-up model alone (the first voter) says."""
    first = consensus.ballots[0]
    return first >= 0 and consensus.answer is not None and consensus.candidates[first] != consensus.answer


def evolution_training(args: SemiEvolConfig, *, rows: int) -> FineTuneConfig:
    """S7: `evolve_epochs` over D*, at the final learning rate."""
    training = training_settings(args)
    steps = training.model_copy(update={"epochs": args.evolve_epochs}).total_steps(rows)
    steps = max(args.min_steps, steps) if args.evolve_from == "base" else steps
    return training.model_copy(update={"steps": steps, "learning_rate": args.evolve_lr})


@dataclass(frozen=True, slots=True)
class Verdict:
    """S8: whether the evolved model is kept, and why."""

    accepted: bool
    reason: str


def accept_or_roll_back(
    warm_correct: NDArray[np.bool_], evolved_correct: NDArray[np.bool_], *, held_out: bool
) -> Verdict:
    """Keep the evolved model unless it is worse than the warm one on labelled rows.

    On held-out rows, worse by more than one standard error (the specified rule). Rows that both were trained on favour
    the warm model, which saw nothing else; there only a collapse counts, by an exact McNemar test at 5 %.

    Args:
        warm_correct: whether the warmed-up model is right, for each labelled row that is looked at.
        evolved_correct: the same for the evolved model.
        held_out: whether these rows were kept out of training.
    """
    rows = len(warm_correct)
    if rows == 0:
        return Verdict(True, "accepted: no labelled rows to test on")
    warm, evolved = float(warm_correct.mean()), float(evolved_correct.mean())
    where = f"{rows} held-out labelled rows" if held_out else f"the {rows} labelled rows themselves"
    said = f"{evolved:.1%} after against {warm:.1%} before, on {where}"
    if held_out:
        difference = evolved_correct.astype(float) - warm_correct.astype(float)
        error = float(difference.std(ddof=1) / math.sqrt(rows)) if rows > 1 else 0.0
        if evolved - warm < -error - 1e-12:
            return Verdict(False, f"rolled back: {said}, worse by more than one standard error ({error:.1%})")
    elif evolved < warm and (p_value := mcnemar_exact(warm_correct, evolved_correct)) < COLLAPSE:
        return Verdict(False, f"rolled back: {said}, a collapse (p = {p_value:.2g})")
    return Verdict(True, f"accepted: {said}")


def _targets(consensus: Consensus, soft: bool) -> list[tuple[str, float]]:
    if not soft:
        assert consensus.answer is not None
        return [(consensus.answer, 1.0)]
    kept = [(c, p) for c, p in zip(consensus.candidates, consensus.distribution, strict=True) if p >= NEGLIGIBLE]
    total = sum(p for _, p in kept)
    return [(c, p / total) for c, p in kept]
