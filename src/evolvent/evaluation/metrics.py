"""Measures of quality and of calibration."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from evolvent.models.protocol import LanguageModel

_ARTICLES = re.compile(r"\b(a|an|the)\b")


def accuracy(predictions: Sequence[Any], gold: Sequence[Any]) -> float:
    """Share of equal pairs; nan for none."""
    return float(np.mean([p == g for p, g in zip(predictions, gold, strict=True)])) if gold else math.nan


def macro_f1(predictions: Sequence[str | None], gold: Sequence[str]) -> float:
    """Mean F1 over the classes that occur in `gold`; a prediction of None is wrong."""
    from sklearn.metrics import f1_score

    said = ["\x00none" if p is None else p for p in predictions]
    return float(f1_score(gold, said, labels=sorted(set(gold)), average="macro", zero_division=0))


def normalize_answer(text: str) -> str:
    """SQuAD's normalisation: lower case, no punctuation, no articles, single spaces (Rajpurkar et al. 2016)."""
    lowered = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", lowered).split())


def exact_match(prediction: str, gold: Sequence[str]) -> float:
    """1.0 when the normalised prediction equals one of the gold answers."""
    return float(any(normalize_answer(prediction) == normalize_answer(g) for g in gold))


def squad_f1(prediction: str, gold: Sequence[str]) -> float:
    """Best word-overlap F1 against the gold answers."""
    return max((_overlap_f1(prediction, g) for g in gold), default=0.0)


def _overlap_f1(prediction: str, gold: str) -> float:
    said, right = normalize_answer(prediction).split(), normalize_answer(gold).split()
    if not said or not right:
        return float(said == right)
    common = sum((Counter(said) & Counter(right)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(said), common / len(right)
    return 2 * precision * recall / (precision + recall)


@dataclass(frozen=True, slots=True)
class Perplexity:
    """How well a model predicts texts: exp(nats per token), and bits per UTF-8 byte (comparable over tokenizers)."""

    per_token: float
    bits_per_byte: float
    tokens: int


def perplexity(model: LanguageModel, texts: Sequence[str]) -> Perplexity:
    """Perplexity of whole texts, each within the model's context; the first token is predicted from an empty prompt."""
    scores = model.loglikelihood([("", text) for text in texts])
    nats = -sum(s.log_prob for s in scores)
    tokens = sum(s.tokens for s in scores)
    size = sum(len(t.encode()) for t in texts)
    return Perplexity(math.exp(nats / tokens), nats / math.log(2) / size, tokens)


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, *, bins: int = 15) -> float:
    """Mean |accuracy - confidence| over equal-width bins of confidence in [0, 1], weighted by their rows."""
    sure, right = np.asarray(confidence, float), np.asarray(correct, float)
    if len(sure) == 0:
        return math.nan
    bin_of = np.minimum((sure * bins).astype(int), bins - 1)
    count = np.bincount(bin_of, minlength=bins)
    gap = np.abs(np.bincount(bin_of, sure, bins) - np.bincount(bin_of, right, bins))
    return float(gap[count > 0].sum() / len(sure))


def auroc(scores: ArrayLike, correct: ArrayLike) -> float:
    """Probability that a right row scores above a wrong one; nan when all are right or all are wrong."""
    from sklearn.metrics import roc_auc_score

    right = np.asarray(correct, bool)
    if right.all() or not right.any():
        return math.nan
    return float(roc_auc_score(right, np.asarray(scores, float)))
