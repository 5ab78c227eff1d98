"""Settings of one fine-tuning run."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class FineTuneConfig(BaseModel):
    """How to fine-tune. Give `steps`, or `epochs` with an optional floor of `min_steps`.

    Attributes:
        peft: "lora" (adapters on `target_modules`), "full" (every weight), or "top_layers" (the last
            `trainable_layers` blocks, final norm included; the activations below them are computed once per row).
        learning_rate: peak rate of AdamW.
        batch_size: rows per optimiser step, over all processes and accumulation steps.
        micro_batch_size: rows per forward pass and process; None means the whole batch if memory allows.
        warmup_ratio: share of the steps over which the rate rises linearly.
        schedule: what the rate does after that.
        label_smoothing: probability mass spread over the vocabulary, so that the loss never reaches 0.
        max_length: tokens of a row; the middle of a longer prompt is cut, its completion never.
        end_token: whether the end-of-text token is part of what is learnt.
        stop_below: stop when the mean unsmoothed loss of the last 8 steps falls below this (nats per token).
        precision: "auto" computes in bfloat16 where the processor does, else in float32. Trainable weights and
            optimiser states are float32 either way.
        save_steps: optimiser steps between checkpoints from which a killed run resumes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    peft: Literal["lora", "full", "top_layers"] = "lora"
    lora_r: int = Field(16, ge=1)
    lora_alpha: int = Field(32, ge=1)
    target_modules: str | tuple[str, ...] = "all-linear"
    trainable_layers: int = Field(12, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    epochs: float | None = Field(2.0, gt=0)
    steps: int | None = Field(None, ge=1)
    min_steps: int = Field(0, ge=0)
    batch_size: int = Field(8, ge=1)
    micro_batch_size: int | None = Field(None, ge=1)
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    max_length: int = Field(1024, ge=8)
    end_token: bool = True
    stop_below: float | None = Field(None, gt=0)
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    save_steps: int = Field(50, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _has_a_length(self) -> Self:
        if self.steps is None and self.epochs is None:
            raise ValueError("give `steps` or `epochs`")
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of micro_batch_size")
        return self

    def total_steps(self, rows: int) -> int:
        """Optimiser steps for a data set of `rows` rows."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, self.min_steps, -(-int(self.epochs * rows) // self.batch_size))
