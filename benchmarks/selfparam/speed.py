"""A training step on stored predictions against one that asks the teacher again, as TRL's SDFT and others do.

python -m benchmarks.selfparam.speed

Both take the same eight pairs, weights, precision and divergence, and AdamW; times are of the processor. The asking
step runs the teacher over context and question without keeping its cache, and takes its whole vocabulary's softmax.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from benchmarks.results_file import record
from benchmarks.selfparam.facts import invented
from evolvent.methods.selfparam.injection import distilled
from evolvent.methods.selfparam.teacher import Teacher, TeacherPrompt
from evolvent.models.distributions import token_distributions
from evolvent.models.local import LocalModel
from evolvent.models.resolve import computes_bfloat16, load_local
from evolvent.training.distillation import divergence
from evolvent.training.examples import LeftPadded

PAIRS = 8


def rows_at(model: LocalModel, context_tokens: int) -> tuple[list, list]:  # type: ignore[type-arg]
    """Eight pairs whose context is filled up with the other passages to about that many tokens."""
    passages, train, _ = invented(4)
    text = passages[0].text
    filler = " ".join(p.text for p in passages[1:]) * 8
    while len(model.encode(text)) < context_tokens and filler:
        text, filler = f"{filler[:20]} {text}", filler[20:]
    shown = [passages[0].model_copy(update={"text": text}), *passages[1:]]
    pairs = [p for p in train if p.passage == passages[0].id][:PAIRS]
    teacher = Teacher(model, shown, pairs)
    prompt = TeacherPrompt("plain", 0, "off")
    return [teacher.teacher(p, prompt) for p in pairs], [teacher.student(p, "plain") for p in pairs]


def timed(step: Callable[[], float], repeats: int) -> tuple[float, float]:
    """Processor seconds of the fastest step, and the loss of the first one."""
    first = step()
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        step()
        seconds.append(time.process_time() - started)
    return min(seconds), first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, nargs="+", default=[130, 1000])
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    teacher = load_local("embedded")
    measured = []
    for context in given.contexts:
        asked, answered = rows_at(teacher, context)
        found = token_distributions(teacher, asked, top_k=64)
        batch = LeftPadded(teacher.pad_token)([distilled("pair", s, d) for s, d in zip(answered, found, strict=True)])
        reads = LeftPadded(teacher.pad_token)([distilled("pair", t, d) for t, d in zip(asked, found, strict=True)])
        keep = int((batch["labels"] >= 0).sum(1).max())
        scored = batch["labels"][:, -keep:] >= 0
        # A rate of 0 keeps the weights, so that every step's loss can be compared; the optimiser's work is the same.
        student = load_local("embedded").module.float().requires_grad_(True)
        optimizer = torch.optim.AdamW(student.parameters(), lr=0.0, fused=True)

        def loss_against(
            ids: torch.Tensor | None,
            log_probs: torch.Tensor,
            batch: dict = batch,  # type: ignore[type-arg]
            keep: int = keep,
            scored: torch.Tensor = scored,
            student: torch.nn.Module = student,
            optimizer: torch.optim.Optimizer = optimizer,
        ) -> float:
            names = ("input_ids", "attention_mask", "position_ids")
            with torch.autocast("cpu", torch.bfloat16, enabled=computes_bfloat16()):
                logits = student(**{n: batch[n] for n in names}, logits_to_keep=keep + 1, use_cache=False).logits
            loss = (divergence(logits[:, :-1], ids, log_probs) * scored).sum() / scored.sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return float(loss.detach())

        def stored(batch: dict = batch, learn: Callable = loss_against) -> float:  # type: ignore[type-arg]
            return learn(batch["teacher_ids"], batch["teacher_log_probs"])

        def asking(reads: dict = reads, keep: int = keep, learn: Callable = loss_against) -> float:  # type: ignore[type-arg]
            names = ("input_ids", "attention_mask", "position_ids")
            with torch.no_grad():
                logits = teacher.module(**{n: reads[n] for n in names}, logits_to_keep=keep + 1, use_cache=False).logits
            return learn(None, logits[:, :-1].float().log_softmax(-1))

        ours, our_loss = timed(stored, given.repeats)
        theirs, their_loss = timed(asking, given.repeats)
        tokens = len(asked[0][0])
        measured.append(
            {
                "claim": f"speed: step on stored predictions, {context}-token contexts",
                "value": ours,
                "unit": "CPU seconds",
                "comparator": "a teacher pass at every step",
                "comparator_value": theirs,
                "ratio": theirs / ours,
                "n": PAIRS,
                "prompt_tokens": tokens,
                "loss": our_loss,
                "comparator_loss": their_loss,
                "tail": sum(d.tail for d in found) / len(found),
            }
        )
    record("selfparam", measured, "python -m benchmarks.selfparam.speed")


if __name__ == "__main__":
    main()
