"""Trainings of a run: all passages in one, or one after the other, each from the model before it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evolvent.methods.selfparam.injection import balanced, batches, replay_buffer
from evolvent.methods.selfparam.measure import answered_exactly
from evolvent.methods.selfparam.teacher import Teacher
from evolvent.methods.selfparam.weights import plain_checkpoint
from evolvent.models.resolve import load_local
from evolvent.runs.stages import digest
from evolvent.training.config import FineTuneConfig
from evolvent.training.examples import EncodedExample
from evolvent.training.finetune import fine_tune

if TYPE_CHECKING:
    from evolvent.methods.selfparam.selfparam import SelfParam


@dataclass
class Trained:
    """One training of a run.

    Attributes:
        checkpoint: folder of its weights.
        identity: digest of everything the weights depend on.
        steps: optimiser steps.
        folder: its stage.
        retained: sequential mode, right after it: for each passage so far, which questions are answered exactly.
    """

    checkpoint: str
    identity: str
    steps: int
    folder: Path
    retained: list[list[bool]] | None = None

    def pruned(self) -> Trained:
        """This training without its weights on disk."""
        for name in ("checkpoint", "trainer"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        return self


def train_in_turn(
    method: SelfParam,
    name: str,
    groups: Sequence[list[EncodedExample]],
    facts: Sequence[int],
    *,
    replay: bool = False,
    text: Sequence[EncodedExample] = (),
) -> list[Trained]:
    """One training for each group of rows, each from the model before it.

    Args:
        method: the run.
        name: of the stages.
        groups: what each training learns.
        facts: how many facts that is, which sets its steps.
        replay: mix in `replay_share` rows of earlier groups.
        text: rows of general text to mix in.
    """
    args, done = method.args, list[Trained]()
    for number, rows in enumerate(groups):
        old = replay_buffer(groups[:number], args) if replay and args.replay_share else []
        mixed = balanced([*rows, *old], text, args)
        steps = args.steps(facts[number], replayed=bool(old))
        order = batches(len(rows), len(old), len(text), steps, args)
        settings = args.training(method.peft, steps, args.batch_size + (args.retention_rows if text else 0))
        source = done[-1] if done else None
        stage = name if len(groups) == 1 else f"{name}-{number + 1:03d}"
        inputs = {
            "source": source.identity if source else method.reference,
            "rows": digest([(r.tokens, r.answer_tokens, r.weight) for r in mixed]),
            "temperature": method.temperature,
            "prompts": {f: str(p) for f, p in method.prompts.items()},
            "order": digest(order),
            "settings": settings.model_dump(mode="json"),
            **method.settings("divergence", "cross_entropy_weight", "top_k", "teacher_errors"),
        }

        def compute(
            folder: Path,
            source: Trained | None = source,
            mixed: list[EncodedExample] = mixed,
            order: list[int] = order,
            settings: FineTuneConfig = settings,
            stage: str = stage,
        ) -> None:
            method.release()
            result = fine_tune(
                source.checkpoint if source else method.reference,
                mixed,
                settings,
                output_dir=folder,
                order=order,
                divergence=args.divergence,
                on_progress=lambda step, of, loss: method.on_progress(stage, step, of, f"loss {loss:.3f}"),
            )
            plain_checkpoint(result.checkpoint, folder)

        folder = method.stage(stage, inputs, compute, lambda folder: folder)
        done.append(Trained(str(folder / "checkpoint"), digest(inputs), steps, folder))
        if args.keep_checkpoints is not None:
            done[: -args.keep_checkpoints] = [t.pruned() for t in done[: -args.keep_checkpoints]]
        if args.mode == "sequential":
            done[-1].retained = _retained(method, stage, number, done[-1])
    return done


def _retained(method: SelfParam, stage: str, number: int, trained: Trained) -> list[list[bool]]:
    """Right after an injection, for each passage so far: which of its questions are answered exactly."""
    so_far = [passage.id for group in method.groups()[: number + 1] for passage in group]
    asked = [pair for name in so_far for pair in method.asked if pair.passage == name]

    def compute(folder: Path) -> None:
        method.release()
        model = load_local(trained.checkpoint, dtype=method.args.dtype)
        teacher = Teacher(model, method.passages, method.pairs)
        exact = answered_exactly(model, [teacher.student(pair, method.asking) for pair in asked])
        (folder / "exact.json").write_text(json.dumps(exact))

    exact = method.stage(
        f"after-{stage}",
        {"model": trained.identity, "asked": digest([p.model_dump() for p in asked]), **method.settings("formats")},
        compute,
        lambda folder: json.loads((folder / "exact.json").read_text()),
    )
    return [[hit for hit, p in zip(exact, asked, strict=True) if p.passage == name] for name in so_far]
