"""What one injection learns from: rows of the new pairs, of earlier ones (replay), and of general text (retention)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np
import torch

from evolvent.errors import NothingSelectedError
from evolvent.methods.selfparam.config import SelfParamConfig
from evolvent.methods.selfparam.pairs import QAPair
from evolvent.models.distributions import IMPOSSIBLE, TokenDistributions
from evolvent.runs.stages import digest
from evolvent.training.distillation import SoftTargets
from evolvent.training.examples import EncodedExample


def distilled(
    name: str, student: tuple[Sequence[int], Sequence[int]], predictions: TokenDistributions, weight: float = 1.0
) -> EncodedExample:
    """A row whose answer's predictions are learnt from the teacher's.

    Raises:
        ValueError: teacher and student do not score the same number of tokens.
    """
    question, answer = student
    if len(predictions.gold) != len(answer):
        raise ValueError(f"{name}: the teacher predicts {len(predictions.gold)} tokens, the student {len(answer)}")
    return EncodedExample((*question, *answer), len(answer), weight, name, SoftTargets.of(predictions))


def corrected(predictions: TokenDistributions, answer: Sequence[int]) -> TokenDistributions:
    """The predictions with the given answer's tokens as the most probable ones.

    Where the teacher finds another token likelier, the two exchange their probabilities ("probability shift", Wen et
    al., arXiv 1911.07471). The mass outside the stored tokens stays: an answer's token from there changes places too.
    """
    given = torch.tensor(answer)[:, None]  # (tokens, 1)
    if predictions.ids is None:
        log_probs, first = predictions.log_probs.clone(), predictions.log_probs.argmax(-1, keepdim=True)
        log_probs.scatter_(1, first, predictions.log_probs.gather(1, given))
        return replace(predictions, log_probs=log_probs.scatter(1, given, predictions.log_probs.gather(1, first)))
    return replace(predictions, ids=put_first(predictions.ids, given))


def put_first(ids: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """Token ids (tokens, k) with the given ones (tokens, 1) in front; what stood there takes their place."""
    moved = torch.where(ids == given, ids[:, :1], ids)
    moved[:, :1] = given
    return moved


def labelled(predictions: TokenDistributions, answer: Sequence[int], weight: float) -> TokenDistributions:
    """The predictions p mixed with the given answer: (p + weight x 1) / (1 + weight).

    The divergence from the mixture is, up to a constant, (divergence from p + weight x negative log-likelihood of the
    answer) / (1 + weight). A token from outside the stored ones takes the place of the least probable.
    """
    given = torch.tensor(answer)[:, None]  # (tokens, 1)
    ids, place = predictions.ids, given
    if ids is not None:
        ids = ids.clone()
        kept = (ids == given).any(-1, keepdim=True)
        ids[:, -1:] = torch.where(kept, ids[:, -1:], given)
        place = (ids == given).float().argmax(-1, keepdim=True)
    mass = predictions.log_probs.float().exp()
    if ids is not None:
        mass[:, -1:] *= kept
    mass = mass.scatter_add(1, place, torch.full_like(given, weight, dtype=mass.dtype)) / (1 + weight)
    log_probs = mass.log().clamp(min=IMPOSSIBLE)
    return replace(predictions, ids=ids, log_probs=log_probs.to(predictions.log_probs.dtype))


def instructive(
    pairs: Sequence[QAPair],
    explained: Sequence[float],
    alone: Sequence[float],
    args: SelfParamConfig,
    *,
    hinted: bool,
) -> tuple[list[int], dict[str, int]]:
    """Numbers of the pairs that teach something, and how many of the others there are for each reason.

    Args:
        pairs: all of them.
        explained: mean log-probability of each answer with the passage, nats per token.
        alone: without it.
        args: `min_teacher`, `min_gain`.
        hinted: whether the teacher was told the answers, so that its doubt says nothing against a pair.

    Raises:
        NothingSelectedError: no pair is left; says why.
    """
    kept: list[int] = []
    dropped = {"the teacher disagrees": 0, "known already": 0}
    for i, pair in enumerate(pairs):
        if explained[i] < args.min_teacher and not hinted and pair.kind != "split":
            dropped["the teacher disagrees"] += 1
        elif explained[i] - alone[i] < args.min_gain and int(digest(pair.id), 16) % 10:
            dropped["known already"] += 1
        else:
            kept.append(i)
    if not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise NothingSelectedError(f"no pair is left to learn from: {reasons} (min_teacher, min_gain)")
    return kept, dropped


def balanced(
    pairs: Sequence[EncodedExample], text: Sequence[EncodedExample], args: SelfParamConfig
) -> list[EncodedExample]:
    """Rows weighted so that the loss is (token mean over pairs) + retention_weight x (token mean over general text).

    The trainer divides by all tokens of a batch, so each kind is scaled by its share of them, taken over the run.
    """
    if not text:
        return list(pairs)
    injected = args.batch_size * fmean([r.answer_tokens * r.weight for r in pairs])
    general = args.retention_rows * fmean([r.answer_tokens for r in text])
    total = injected + general
    return [_scaled(r, total / injected) for r in pairs] + [
        _scaled(r, args.retention_weight * total / general) for r in text
    ]


def batches(new: int, replayed: int, text: int, steps: int, args: SelfParamConfig) -> list[int]:
    """Row numbers of all batches: new pairs first, then replayed ones, then general text.

    Args:
        new: rows 0 .. new - 1 are the pairs of this injection.
        replayed: the next ones are earlier pairs, `replay_share` of the pairs of each batch.
        text: the last ones are general text, `retention_rows` a batch.
        steps: batches.
        args: shares and seed.
    """
    random = np.random.default_rng(args.seed)
    old = args.replayed if replayed else 0
    draw_new = _endless(random, range(new))
    draw_old = _endless(random, range(new, new + replayed))
    draw_text = _endless(random, range(new + replayed, new + replayed + text))
    order: list[int] = []
    for _ in range(steps):
        order += [next(draw_new) for _ in range(args.batch_size - old)]
        order += [next(draw_old) for _ in range(old)]
        order += [next(draw_text) for _ in range(args.retention_rows if text else 0)]
    return order


def replay_buffer(earlier: Sequence[Sequence[EncodedExample]], args: SelfParamConfig) -> list[EncodedExample]:
    """At most `replay_pairs` rows of each earlier passage, drawn by the seed."""
    random = np.random.default_rng(args.seed)
    return [rows[i] for rows in earlier for i in sorted(random.permutation(len(rows))[: args.replay_pairs].tolist())]


def gain_weights(explained: Sequence[float], alone: Sequence[float]) -> list[float]:
    """Weights with mean 1 that grow with what the passage explains: clip(a - b, 0.25, 4) / mean.

    Args:
        explained: a, mean log-probability of each answer with the passage, nats per token.
        alone: b, without it.
    """
    gains = np.clip(np.subtract(explained, alone), 0.25, 4)
    return [float(gain / gains.mean()) for gain in gains]


def _scaled(row: EncodedExample, factor: float) -> EncodedExample:
    return replace(row, weight=float(row.weight * factor))


def _endless(random: np.random.Generator, pool: Sequence[int]) -> Iterator[int]:
    while True:
        yield from random.permutation(np.asarray(pool)).tolist()
