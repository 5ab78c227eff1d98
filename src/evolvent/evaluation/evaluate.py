"""Ask a model questions with known answers, and compare two models on the same ones."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolvent.data.records import Question
from evolvent.data.tasks import Task
from evolvent.errors import DataError, NoLogProbsError, PromptErrors
from evolvent.evaluation.metrics import accuracy, auroc, expected_calibration_error, macro_f1, squad_f1
from evolvent.evaluation.significance import (
    Interval,
    PairedTest,
    bootstrap_interval,
    mcnemar_exact,
    paired_bootstrap,
)
from evolvent.models.protocol import Choice, Completion, LanguageModel, Normalization, Prompt, Sampling

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answered question.

    Attributes:
        id: of the question.
        answer: what the model said; None when nothing could be read, or the prompt failed.
        gold: the right answer.
        correct: whether they match.
        confidence: probability of the answer among the options; for free-form answers exp(mean token log-probability).
        probabilities: of the options; empty for free-form answers.
        error: why the prompt failed.
    """

    id: str
    answer: str | None
    gold: str
    correct: bool
    confidence: float
    probabilities: tuple[float, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """Predictions in the order of the questions, and what they amount to."""

    predictions: tuple[Prediction, ...]
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each answer is right, (rows,)."""
        return np.array([p.correct for p in self.predictions], dtype=bool)

    @property
    def interval(self) -> Interval:
        """Accuracy with its 95 % bootstrap interval."""
        return bootstrap_interval(self.correct)

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps({"metrics": self.metrics, "predictions": [asdict(p) for p in self.predictions]}))

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """Read what :meth:`save` wrote."""
        stored = json.loads(path.read_text())
        predictions = tuple(
            Prediction(**{**p, "probabilities": tuple(p["probabilities"])}) for p in stored["predictions"]
        )
        return cls(predictions, stored["metrics"])


@dataclass(frozen=True)
class Comparison:
    """Two evaluations of the same questions.

    Attributes:
        test: paired bootstrap of the accuracies, second minus first.
        p_value: exact McNemar.
        changed: questions with another answer: (id, before, after, gold).
    """

    test: PairedTest
    p_value: float
    changed: tuple[tuple[str, str | None, str | None, str], ...]


def evaluate(
    model: LanguageModel,
    questions: Sequence[Question],
    task: Task,
    *,
    normalization: Normalization = "sum",
    log_prior: Mapping[str, float] | None = None,
    max_tokens: int = 256,
) -> Evaluation:
    """Answer every question: choice tasks in closed form, the others by greedy generation.

    Args:
        model: who answers.
        questions: with answers.
        task: how they are asked and marked.
        normalization: of the options' log-probabilities.
        log_prior: answer -> log-prior that is subtracted from the options' scores.
        max_tokens: of a generated answer.

    A prompt that fails, or whose options have no numbers for probabilities, counts as wrong and carries its error.

    Raises:
        DataError: a question without an answer.
    """
    missing = [q.id for q in questions if q.answer is None]
    if missing:
        raise DataError(f"{len(missing)} questions have no answer to compare with (first: {missing[0]})")
    questions = task.completed(questions)
    prompts = [task.prompt(q) for q in questions]
    results: Sequence[Choice | list[Completion] | None]
    failures: Mapping[int, Exception] = {}
    try:
        results = _ask(model, questions, prompts, task, max_tokens)
    except PromptErrors as errors:
        if len(errors.failures) == len(errors.results):
            raise
        results, failures = errors.results, errors.failures
    predictions = []
    for i, (question, result) in enumerate(zip(questions, results, strict=True)):
        gold = question.answer or ""
        if result is None:
            predictions.append(Prediction(question.id, None, gold, False, 0.0, (), str(failures[i])))
        elif isinstance(result, Choice) and any(map(math.isnan, result.log_probs)):
            predictions.append(Prediction(question.id, None, gold, False, 0.0, (), "its probabilities are not numbers"))
        elif isinstance(result, Choice):
            predictions.append(_chosen(question, result, task, normalization, log_prior))
        else:
            answer = task.parse(result[0].text, question)
            correct = answer is not None and task.matches(answer, gold)
            nll = result[0].mean_nll
            confidence = 0.0 if math.isnan(nll) else math.exp(-nll)
            predictions.append(Prediction(question.id, answer, gold, correct, confidence))
    return Evaluation(tuple(predictions), measure(predictions, free_form=task.kind == "text"))


def _ask(
    model: LanguageModel, questions: Sequence[Question], prompts: Sequence[Prompt], task: Task, max_tokens: int
) -> Sequence[Choice | list[Completion]]:
    if task.kind == "choice":
        try:
            return model.choose(prompts, [task.options(q) for q in questions])
        except NoLogProbsError as error:
            logger.warning("%s: its greedy answers are read instead", error)
    return model.generate(prompts, Sampling(max_tokens=max_tokens, stop=("\n\n",)))


def measure(predictions: Sequence[Prediction], *, free_form: bool = False) -> dict[str, float]:
    """Accuracy, macro-F1 (word-overlap F1 for free-form answers), ECE and AUROC of the confidence."""
    correct = [p.correct for p in predictions]
    confidence = [p.confidence for p in predictions]
    metrics = {
        "accuracy": accuracy(correct, [True] * len(correct)),
        "ece": expected_calibration_error(confidence, correct),
        "auroc": auroc(confidence, correct),
        "failed": float(sum(p.error is not None for p in predictions)),
    }
    if free_form:
        metrics["f1"] = float(np.mean([squad_f1(p.answer or "", [p.gold]) for p in predictions]))
    else:
        metrics["macro_f1"] = macro_f1([p.answer for p in predictions], [p.gold for p in predictions])
    return metrics


def compare(before: Evaluation, after: Evaluation, *, seed: int = 0) -> Comparison:
    """Paired comparison of two models on the same questions.

    Raises:
        DataError: the questions are not the same.
    """
    if [p.id for p in before.predictions] != [p.id for p in after.predictions]:
        raise DataError("the two evaluations are not of the same questions in the same order")
    changed = tuple(
        (b.id, b.answer, a.answer, b.gold)
        for b, a in zip(before.predictions, after.predictions, strict=True)
        if b.answer != a.answer
    )
    return Comparison(
        test=paired_bootstrap(before.correct, after.correct, seed=seed),
        p_value=mcnemar_exact(before.correct, after.correct),
        changed=changed,
    )


def _chosen(
    question: Question,
    choice: Choice,
    task: Task,
    normalization: Normalization,
    log_prior: Mapping[str, float] | None,
) -> Prediction:
    choices = question.choices or ()
    scores = np.array(choice.scores(normalization)) - [(log_prior or {}).get(c, 0.0) for c in choices]
    weights = np.exp(scores - scores.max())
    probabilities = weights / weights.sum()
    best = int(scores.argmax())
    gold = question.answer or ""
    return Prediction(
        id=question.id,
        answer=choices[best],
        gold=gold,
        correct=task.matches(choices[best], gold),
        confidence=float(probabilities[best]),
        probabilities=tuple(float(p) for p in probabilities),
    )


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """Metrics with the accuracy's interval, as printed by `evolvent evaluate`."""
    interval = evaluation.interval
    return {
        **evaluation.metrics,
        "accuracy/ci95": [interval.low, interval.high],
        "n": len(evaluation.predictions),
    }
