"""Fine-tuning: from a checkpoint folder and examples to a new checkpoint folder.

Runs on `transformers.Trainer`, so `accelerate launch`, DDP, FSDP and DeepSpeed work as they do there.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from evolvent.errors import ConfigError, DataError, ModelError
from evolvent.models.local import LocalModel
from evolvent.models.quiet import quiet
from evolvent.models.resolve import computes_bfloat16, load_local
from evolvent.training.config import FineTuneConfig
from evolvent.training.distillation import Divergence
from evolvent.training.distillation import divergence as divergence_of
from evolvent.training.examples import (
    IGNORED,
    EncodedExample,
    LeftPadded,
    TrainingExample,
    encode_examples,
    training_order,
)
from evolvent.training.top_layers import ActivationCache, LeftPaddedStates, TopLayers

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, float], None]

SHORT_ROW = 512  # tokens up to which plain attention trains faster on a CPU than the fused one


@dataclass(frozen=True)
class FineTuneResult:
    """What a fine-tuning run left.

    Attributes:
        checkpoint: the folder: a PEFT adapter or full weights, with the tokenizer.
        steps: optimiser steps taken.
        losses: (step, unsmoothed loss in nats per answer token) of every step.
        trained_tokens: tokens that went through the training steps, padding not counted.
        seconds: of the last process that worked on it.
    """

    checkpoint: Path
    steps: int
    losses: list[tuple[int, float]] = field(default_factory=list)
    trained_tokens: int = 0
    seconds: float = 0.0

    @classmethod
    def load(cls, folder: Path) -> FineTuneResult:
        """Read what :func:`fine_tune` wrote into `folder`."""
        stored = json.loads((folder / "training.json").read_text())
        losses = [(int(s), float(x)) for s, x in stored.pop("losses")]
        return cls(checkpoint=folder / "checkpoint", losses=losses, **stored)


@quiet()
def fine_tune(
    source: str | Path,
    examples: Sequence[TrainingExample | EncodedExample],
    args: FineTuneConfig,
    *,
    output_dir: str | Path,
    labeled: int = 0,
    labeled_share: float = 0.0,
    order: Sequence[int] | None = None,
    divergence: Divergence = "forward_kl",
    on_progress: Progress | None = None,
    activations: Path | None = None,
) -> FineTuneResult:
    """Fine-tune the model at `source`; continue where a killed run stopped.

    The loss is the mean negative log-likelihood of the completions' tokens, each row times its weight; of rows with
    soft targets it is the mean divergence from those. The order of rows is fixed by `args.seed` alone, so one process,
    two processes and a resumed one see the same batches.

    Args:
        source: "embedded", folder, hub id or GGUF. A LoRA folder is trained further when `args.peft` is "lora".
        examples: what to learn, as text or as token ids; the first `labeled` of them are the labelled ones.
        args: see :class:`FineTuneConfig`.
        output_dir: gets `checkpoint/` and `training.json`; `trainer/` holds the state from which it resumes.
        labeled: number of leading examples of which each batch holds at least `labeled_share`.
        labeled_share: see `labeled`.
        order: numbers of the examples of all batches one after the other, in place of a shuffle by `args.seed`; its
            length over `args.batch_size` is the number of steps.
        divergence: of which kind, for rows with soft targets.
        on_progress: called with (step, steps, loss) after each step.
        activations: folder for the cached activations of `peft="top_layers"`; default in memory.

    Raises:
        DataError: no examples.
        ConfigError: the model does not allow what `args` asks for.
        ModelError: the source cannot be loaded, or the loss is not finite; names the rows of that batch.
    """
    if not examples:
        raise DataError("nothing to train on: no examples")
    output = Path(output_dir)
    if (output / "training.json").is_file():
        return FineTuneResult.load(output)
    started = time.perf_counter()
    torch.manual_seed(args.seed)
    bfloat16 = _bfloat16(args)
    model = _trainable_model(source, args, bfloat16)
    rows = _encoded(model, examples, args)
    if model.device.type == "cpu" and max(len(row.tokens) for row in rows) <= SHORT_ROW:
        model.causal_lm.set_attn_implementation("eager")  # torch's fused attention is slow backwards on a CPU
    if model.device.type == "cpu" and args.peft == "full":
        _keep_freed_memory()
    steps = args.total_steps(len(rows)) if order is None else len(order) // args.batch_size
    if order is None:
        order = training_order(
            len(rows),
            batch_size=args.batch_size,
            steps=steps,
            seed=args.seed,
            labeled=labeled,
            labeled_share=labeled_share,
        )
    dataset = [rows[i] for i in order]
    collate: Any = LeftPadded(model.pad_token)
    top = None
    if args.peft == "top_layers":
        top, collate = _cached_top(model, rows, args, collate, activations)
    trainer = _CompletionTrainer(
        model=model.module,
        args=_training_arguments(output / "trainer", args, steps, bfloat16),
        train_dataset=dataset,
        data_collator=collate,
        label_smoothing=args.label_smoothing,
        divergence=divergence,
        callbacks=[_Watch(steps, args.stop_below, on_progress)],
    )
    trainer.remove_callback(PrinterCallback)
    resume = _last_checkpoint(output / "trainer")
    if top is None:
        trainer.train(resume_from_checkpoint=resume)
    else:
        with top.without_trunk():
            trainer.train(resume_from_checkpoint=resume)
    result = FineTuneResult(
        checkpoint=output / "checkpoint",
        steps=int(trainer.state.global_step),
        losses=[(int(e["step"]), float(e["nll"])) for e in trainer.state.log_history if "nll" in e],
        trained_tokens=sum(len(r.tokens) for r in dataset[: trainer.state.global_step * args.batch_size]),
        seconds=time.perf_counter() - started,
    )
    if trainer.is_world_process_zero():
        save_checkpoint(model, result.checkpoint)
        _write_result(output, result)
    trainer.accelerator.wait_for_everyone()
    return result


@quiet()
def save_checkpoint(model: LocalModel, folder: Path) -> None:
    """Write a folder that `from_pretrained` (full weights) or PEFT (adapter) loads as it is."""
    if not hasattr(model.module, "peft_config"):
        model.module.to(torch.bfloat16 if model.dtype == torch.bfloat16 else torch.float32)
    model.module.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's template card; lineage writes a real one
    model.tokenizer.save_pretrained(folder)


def _encoded(
    model: LocalModel, examples: Sequence[TrainingExample | EncodedExample], args: FineTuneConfig
) -> list[EncodedExample]:
    texts = [e for e in examples if isinstance(e, TrainingExample)]
    encoded = iter(encode_examples(model, texts, max_length=args.max_length, end_token=args.end_token))
    return [e if isinstance(e, EncodedExample) else next(encoded) for e in examples]


class _CompletionTrainer(Trainer):
    """Trainer whose loss is the weighted, smoothed negative log-likelihood of the completions, or a divergence."""

    def __init__(self, *args: Any, label_smoothing: float, divergence: Divergence, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._divergence = divergence
        self.model_accepts_loss_kwargs = True  # the loss below divides by the tokens of the whole batch
        self._smoothing = label_smoothing
        self._scored: list[torch.Tensor] = []  # (summed loss, tokens) of each forward pass since the last log

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Loss of one micro-batch, scaled so that the sum over micro-batches and processes is the batch's mean."""
        names, weights, labels = inputs.pop("names"), inputs.pop("weights"), inputs.pop("labels")
        teacher_ids, teacher_log_probs = inputs.pop("teacher_ids", None), inputs.pop("teacher_log_probs", None)
        keep = int((labels != IGNORED).sum(1).max())
        outputs = model(**inputs, logits_to_keep=keep + 1, use_cache=False)
        logits = outputs.logits[:, :-1].float()  # (rows, keep, vocab)
        targets = labels[:, -keep:]  # (rows, keep)
        scored = targets != IGNORED
        if teacher_log_probs is None:
            nll, smoothed = self._negative_log_likelihood(logits, targets)
        else:
            nll = smoothed = divergence_of(logits, teacher_ids, teacher_log_probs, self._divergence)
        count = scored.sum() if num_items_in_batch is None else num_items_in_batch
        loss = (smoothed * scored * weights[:, None]).sum() / count
        if not torch.isfinite(loss):
            raise ModelError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}, rows {', '.join(names)}: "
                "look at these rows, or lower learning_rate; the last good checkpoint is kept"
            )
        if self.args.world_size > 1:
            loss = loss * self.args.world_size  # gradients are averaged over processes, `count` is of all of them
        self._scored.append(torch.stack([(nll.detach() * scored).sum(), scored.sum()]))
        return (loss, outputs) if return_outputs else loss

    def _negative_log_likelihood(self, logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Plain and smoothed, of each position (rows, keep)."""
        log_probs = logits.log_softmax(-1)
        nll = -log_probs.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        return nll, (1 - self._smoothing) * nll - self._smoothing * log_probs.mean(-1)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the unsmoothed loss per answer token, over all processes."""
        if "loss" in logs and self._scored:
            own = torch.stack(self._scored).sum(0, keepdim=True)
            total, tokens = self.accelerator.gather(own).sum(0).tolist()
            logs["nll"] = total / tokens
            self._scored.clear()
        super().log(logs, *args, **kwargs)


class _Watch(TrainerCallback):
    """Reports progress, and stops when the loss has reached its floor."""

    def __init__(self, steps: int, stop_below: float | None, on_progress: Progress | None) -> None:
        self.steps, self.stop_below, self.on_progress = steps, stop_below, on_progress

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= self.steps:
            control.should_save = (
                False  # the checkpoint is written next; the Trainer would store a state to resume from
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs or "nll" not in logs:
            return
        if self.on_progress:
            self.on_progress(state.global_step, self.steps, logs["nll"])
        recent = [e["nll"] for e in state.log_history[-8:] if "nll" in e]
        if self.stop_below and len(recent) == 8 and sum(recent) / 8 < self.stop_below:
            control.should_training_stop = True


def _keep_freed_memory() -> None:
    """Have glibc reuse the blocks of all gradients, which it would return after each step and fault in again."""
    trim_threshold, mmap_max = -1, -4  # the numbers of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


def _bfloat16(args: FineTuneConfig) -> bool:
    if args.precision == "auto":
        return torch.cuda.is_available() or computes_bfloat16()
    return args.precision == "bfloat16"


def _trainable_model(source: str | Path, args: FineTuneConfig, bfloat16: bool) -> LocalModel:
    """Load `source` with frozen weights in the compute type and trainable ones in fp32."""
    from peft import LoraConfig, get_peft_model

    model: LocalModel = load_local(source, dtype="bfloat16" if bfloat16 else "float32")
    is_adapter = hasattr(model.module, "peft_config")
    if args.peft == "lora":
        if not is_adapter:
            targets = args.target_modules if isinstance(args.target_modules, str) else list(args.target_modules)
            config = LoraConfig(
                r=args.lora_r, lora_alpha=args.lora_alpha, target_modules=targets, task_type="CAUSAL_LM"
            )
            model = LocalModel(get_peft_model(model.module, config), model.tokenizer, name=model.name)
        for name, parameter in model.module.named_parameters():
            parameter.requires_grad_("lora_" in name)
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    elif is_adapter:
        raise ConfigError(f'{source} is a LoRA adapter: peft="{args.peft}" needs full weights; merge it first')
    elif args.peft == "full":
        model.module.float().requires_grad_(True)
    return model


def _cached_top(
    model: LocalModel,
    rows: Sequence[EncodedExample],
    args: FineTuneConfig,
    collate: LeftPadded,
    folder: Path | None,
) -> tuple[TopLayers, LeftPaddedStates]:
    top = TopLayers(model.causal_lm, args.trainable_layers)
    batch = collate(rows[: args.batch_size])
    top.check({k: batch[k].to(model.device) for k in ("input_ids", "attention_mask", "position_ids")})
    cache = ActivationCache(top, collate, folder=folder)
    cache.fill(rows)
    top.freeze_trunk()
    return top, LeftPaddedStates(cache, collate, model.dtype)


def _training_arguments(folder: Path, args: FineTuneConfig, steps: int, bfloat16: bool) -> TrainingArguments:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if args.batch_size % processes:
        raise ConfigError(f"batch_size {args.batch_size} cannot be divided over {processes} processes")
    share = args.batch_size // processes
    micro = min(args.micro_batch_size or share, share)
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=share // micro,
        learning_rate=args.learning_rate,
        lr_scheduler_type=args.schedule,
        warmup_steps=round(args.warmup_ratio * steps),
        weight_decay=args.weight_decay,
        max_grad_norm=args.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=bfloat16,
        seed=args.seed,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=args.save_steps,
        save_total_limit=2,
        ddp_find_unused_parameters=False,
        report_to="none",
        disable_tqdm=True,
        use_cpu=not (torch.cuda.is_available() or torch.backends.mps.is_available()),
    )


def _last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint; the Trainer writes trainer_state.json last."""
    complete = []
    for state in folder.glob("checkpoint-*/trainer_state.json"):
        try:
            complete.append((int(json.loads(state.read_text())["global_step"]), str(state.parent)))
        except (ValueError, KeyError):
            logger.warning("%s is torn: ignored", state)
    return max(complete)[1] if complete else None


def _write_result(output: Path, result: FineTuneResult) -> None:
    stored = {
        "steps": result.steps,
        "trained_tokens": result.trained_tokens,
        "seconds": result.seconds,
        "losses": result.losses,
    }
    temporary = output / "training.json.tmp"
    temporary.write_text(json.dumps(stored))
    temporary.rename(output / "training.json")
