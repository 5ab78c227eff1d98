"""Gradient unlearning, as the comparator: ascent, ascent with retained text, NPO, learning to refuse; and relearning.

All are AdamW over every weight, on the answers of the facts' prompts, until the forgetting of LAW is matched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evolvent.data.records import Fact
from evolvent.errors import ModelError
from evolvent.methods.law.probe import filled, probe
from evolvent.models.attention import plain_attention
from evolvent.models.local import LocalModel
from evolvent.training.examples import IGNORED, LeftPadded, TrainingExample, encode_examples

REFUSAL = " I don't know."
NPO_BETA = 0.1  # Zhang et al. 2024, "Negative Preference Optimization"
BATCH = 8
MAX_LENGTH = 128


@dataclass(frozen=True)
class GradientRun:
    """How far a gradient method went.

    Attributes:
        steps: optimiser steps.
        known: share of the facts still known at its end.
        matched: whether that is as little as was asked for.
    """

    steps: int
    known: float
    matched: bool


@contextmanager
def trained(model: LocalModel, lr: float) -> Iterator[torch.optim.Optimizer]:
    """Inside, all weights train; afterwards they are what they were before."""
    module = model.causal_lm
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    module.requires_grad_(True)
    try:
        with plain_attention(module, model.device):
            yield torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=0.0, foreach=False)
    finally:
        module.requires_grad_(False)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.grad = None
                parameter.copy_(before[name])


def forget_by_gradient(
    model: LocalModel,
    optimizer: torch.optim.Optimizer,
    kind: str,
    facts: Sequence[Fact],
    *,
    retain: Sequence[str],
    until: float,
    epochs: int,
    seed: int,
    on_progress: Callable[[int, int, str], None] = lambda *_: None,
) -> GradientRun:
    """Train until at most the share `until` of the facts is known; looks after every quarter of an epoch.

    Args:
        model: inside :func:`trained`.
        optimizer: of its weights.
        kind: "ascent", "difference" (with the retained text's likelihood), "npo", or "refusal".
        facts: to forget.
        retain: general text of "difference".
        until: share known at which it stops.
        epochs: most epochs.
        seed: of the order.
        on_progress: called with (step, most steps, note).
    """
    answer = REFUSAL if kind == "refusal" else None
    rows = _encoded(model, facts, answer)
    collate = LeftPadded(model.pad_token)
    reference = _answer_log_probs(model, collate(rows)).detach() if kind == "npo" else None
    kept = encode_examples(
        model, [TrainingExample("", t) for t in retain[:256]], max_length=MAX_LENGTH // 2, end_token=False
    )
    random = np.random.default_rng(seed)
    batches = -(-len(rows) // BATCH)
    look = max(1, batches // 4)
    known = 1.0
    step = 0
    for _ in range(epochs):
        order = random.permutation(len(rows))
        for start in range(0, len(rows), BATCH):
            chosen = order[start : start + BATCH]
            said = _answer_log_probs(model, collate([rows[i] for i in chosen]))
            loss = _loss(kind, said, None if reference is None else reference[torch.from_numpy(chosen)])
            if kind == "difference":
                texts = [kept[i] for i in random.integers(len(kept), size=4)]
                loss = loss - _answer_log_probs(model, collate(texts)).mean()
            _take_step(model, optimizer, loss, step)
            step += 1
            if step % look == 0:
                known = known_share(model, facts)
                on_progress(step, epochs * batches, f"{kind}, still known {known:.0%}")
                if known <= until:
                    return GradientRun(step, known, True)
    known = known_share(model, facts)
    return GradientRun(step, known, known <= until)


def relearn(
    model: LocalModel, optimizer: torch.optim.Optimizer, facts: Sequence[Fact], *, steps: int, seed: int
) -> None:
    """Fine-tune on facts for a few steps: the attack."""
    rows = _encoded(model, facts, None)
    collate = LeftPadded(model.pad_token)
    random = np.random.default_rng(seed)
    for step in range(steps):
        chosen = random.permutation(len(rows))[:BATCH]
        _take_step(model, optimizer, -_answer_log_probs(model, collate([rows[i] for i in chosen])).mean(), step)


def known_share(model: LocalModel, facts: Sequence[Fact]) -> float:
    """Share of facts whose object is the most probable next token of their prompt."""
    return float(np.mean([k.known for k in probe(model, facts, paraphrases=False, chat=False)]))


def _encoded(model: LocalModel, facts: Sequence[Fact], answer: str | None) -> list[Any]:
    examples = [TrainingExample(filled(f.prompt or "", f), answer or f" {f.object}", name=f.id) for f in facts]
    return encode_examples(model, examples, max_length=MAX_LENGTH, end_token=False)


def _answer_log_probs(model: LocalModel, batch: dict[str, Any]) -> Tensor:
    """Mean log-probability of each row's answer tokens (rows,)."""
    labels = batch["labels"].to(model.device)
    keep = int((labels != IGNORED).sum(1).max())
    inputs = {k: batch[k].to(model.device) for k in ("input_ids", "attention_mask", "position_ids")}
    logits = model.module(**inputs, logits_to_keep=keep + 1, use_cache=False).logits[:, :-1].float()
    targets = labels[:, -keep:][:, -logits.shape[1] :]
    scored = targets != IGNORED
    said = logits.log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    mean: Tensor = (said * scored).sum(1) / scored.sum(1).clamp(min=1)
    return mean


def _loss(kind: str, said: Tensor, reference: Tensor | None) -> Tensor:
    if kind == "refusal":
        return -said.mean()
    if kind == "npo":
        assert reference is not None
        return -(2 / NPO_BETA) * torch.nn.functional.logsigmoid(-NPO_BETA * (said - reference)).mean()
    return said.mean()


def _take_step(model: LocalModel, optimizer: torch.optim.Optimizer, loss: Tensor, step: int) -> None:
    if not bool(torch.isfinite(loss)):
        raise ModelError(f"the loss is {float(loss)} at step {step + 1}: lower baseline_lr")
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.causal_lm.parameters(), 1.0)
    optimizer.step()
