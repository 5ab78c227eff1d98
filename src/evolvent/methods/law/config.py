"""Settings of LAW (arXiv 2405.16720); the field docs name the paper's or the official code's value."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Baseline = Literal["ascent", "difference", "npo", "refusal"]


class LawConfig(BaseModel):
    """Every setting of LAW with its default.

    Attributes:
        output_dir: the run folder.
        layers: block numbers whose down-projections change; "auto" takes `n_layers` from 0.13 of the depth on.
        n_layers: how many "auto" takes (official code: 5 or 6).
        method: filter of the key spectrum: "law" (exact flow of the paper's objective from the MEMIT start), "memit",
            "anti" (stationary point of the paper's first objective), or "ascent" (its Adam ascent, literally).
        t_grid: times of the flow that are tried at the last block; the share of facts still known decides, the smaller
            time on a tie.
        anti: pull against the general keys of method "anti"; 1 is the Hebbian rule, 0 is MEMIT.
        ascent_steps: of method "ascent" (official code: 1000).
        ascent_lr: its Adam learning rate (official code: 1e-7 for GPT2-XL, 1e-8 for GPT-J).
        budget_ratio: cost that "law", "anti" and "ascent" may have, as a multiple of MEMIT's (official code: 1.1).
        target: what the model shall say instead: "suppress" (its own distribution without the object), "eos" (official
            code), "text:..." (that text), or "mean" (the state of the mean reference subject; needs no gradient).
        target_steps: Adam steps (official code: 20 or 25).
        target_dtype: of the forward passes that learn targets (displacements are float32): "auto" is bfloat16 where the
            processor computes in it.
        target_lr: in units of the state's root mean square.
        clamp: longest displacement as a share of the state's norm (official code: 0.75).
        kl_factor: weight of the divergence at "{subject} is a" (official code: 0.0625).
        weight_decay: on the squared relative displacement (official code: 0.5).
        target_loss: a fact whose loss is below this is left as it is (official code: 0.05).
        contexts: wordings around each prompt: "auto" (bare, a neutral prefix and, where there is a chat template, two
            chat forms), "bare", or "sampled" (official code: bare and five beginnings that the model writes).
        key_contexts: "each" wording is a column of its own, or their "mean" is (official code).
        beta_rel: most output energy that an edit may add on general text, as a share of the layer's own.
        lam: weight of the general keys; "auto" is `lam_scale` times the median of the spectrum, "norm_window" is the
            official search for a norm between a third and three quarters of the weight's.
        lam_scale: see `lam`.
        ridge: share of the mean eigenvalue that is added to C0; grows tenfold until Cholesky succeeds.
        n_references: most reference subjects whose prompts are protected.
        mu_ratio: weight of one protected token over `lam`, which is that of the mean general token; 0 protects none.
        eliminate: when a fact is left out of the next block of a round: "never" (it is washed with all blocks), when it
            is gone in all "wordings" (contexts, paraphrases and the question), in all "contexts" (more of
            the relation stays, and more comes back by paraphrase), or after the bare "prompt" (official code).
        max_rounds: repetitions on facts that are still known by prompt, paraphrase or chat.
        stop_accuracy: share still known at which rounds end.
        gone_margin: a fact counts as gone when its object's logit is so far below the best one (nats).
        max_ppl_ratio: perplexity after / before at which a run stops at the last good round.
        on_budget: what to do then: "stop", or "ignore".
        stats_tokens: tokens of general text; None: ten for each unit of the MLP.
        probe_mode: "rank" (the object's first token is the most probable one) or "generate" (official code: the object
            occurs in `max_new_tokens` greedy tokens).
        max_new_tokens: see `probe_mode`, and of chat answers.
        baselines: gradient methods that are run to the same forgetting: "ascent", "difference", "npo", "refusal".
        baseline_lr: of their AdamW.
        baseline_epochs: most epochs over the facts.
        attacks: what the audit tries.
        relearn_steps: optimiser steps of the relearning attack on half of the facts.
        batch_tokens: padded tokens of a forward pass; None as the model has it.
        dtype: of the weights while they are edited; small edits drown in the rounding of bfloat16.
        on_config_change: in a folder that holds a run with other settings: "refuse", or "rerun" what changed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    output_dir: Path
    seed: int = 0
    layers: Literal["auto"] | tuple[int, ...] = "auto"
    n_layers: int = Field(5, ge=1)
    # solver
    method: Literal["law", "memit", "anti", "ascent"] = "law"
    t_grid: tuple[float, ...] = (0.0, 0.5)
    anti: float = Field(0.5, ge=0, le=1)
    ascent_steps: int = Field(1000, ge=1)
    ascent_lr: float = Field(1e-7, gt=0)
    budget_ratio: float = Field(1.1, gt=0)
    beta_rel: float = Field(0.05, gt=0)
    lam: Literal["auto", "norm_window"] | float = "auto"
    lam_scale: float = Field(0.1, gt=0)
    ridge: float = Field(1e-3, ge=0)
    # targets
    target: str = "suppress"
    target_steps: int = Field(12, ge=1)
    target_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    target_lr: float = Field(0.15, gt=0)
    clamp: float = Field(0.35, gt=0)
    kl_factor: float = Field(0.0625, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    target_loss: float = Field(0.05, ge=0)
    contexts: Literal["auto", "bare", "sampled"] = "auto"
    key_contexts: Literal["mean", "each"] = "mean"
    # what is protected, and when to stop
    n_references: int = Field(512, ge=0)
    mu_ratio: float = Field(1e-3, ge=0)
    eliminate: Literal["never", "wordings", "contexts", "prompt"] = "wordings"
    max_rounds: int = Field(3, ge=1)
    stop_accuracy: float = Field(0.02, ge=0, lt=1)
    gone_margin: float = Field(0.0, ge=0)
    max_ppl_ratio: float = Field(1.10, gt=1)
    on_budget: Literal["stop", "ignore"] = "stop"
    stats_tokens: int | None = Field(None, ge=1)
    # measurement
    probe_mode: Literal["rank", "generate"] = "rank"
    max_new_tokens: int = Field(12, ge=1)
    baselines: tuple[Baseline, ...] = ()
    baseline_lr: float = Field(1e-5, gt=0)
    baseline_epochs: int = Field(10, ge=1)
    attacks: tuple[Literal["paraphrase", "chat", "4bit", "relearn", "membership", "few-shot", "lens"], ...] = (
        "paraphrase",
        "chat",
        "4bit",
        "relearn",
        "membership",
        "few-shot",
        "lens",
    )
    relearn_steps: int = Field(10, ge=1)
    # machine
    batch_tokens: int | None = Field(None, ge=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    on_config_change: Literal["refuse", "rerun"] = "refuse"

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.target not in ("suppress", "eos", "mean") and not self.target.removeprefix("text:").strip():
            raise ValueError("target: the text after 'text:' is empty")
        if self.target not in ("suppress", "eos", "mean") and not self.target.startswith("text:"):
            raise ValueError(f"target: {self.target!r} is none of suppress, eos, mean, text:...")
        if isinstance(self.lam, float) and self.lam <= 0:
            raise ValueError("lam: must be positive")
        if isinstance(self.layers, tuple) and list(self.layers) != sorted({n for n in self.layers if n >= 0}):
            raise ValueError("layers: give rising block numbers, from 0")
        if self.layers == ():
            raise ValueError("layers: give at least one block number, or auto")
        if not self.t_grid or min(self.t_grid) < 0:
            raise ValueError("t_grid: give times of at least 0")
        return self

    @classmethod
    def paper(cls, output_dir: Path | str, **changes: object) -> LawConfig:
        """The official code at c08b801: end-of-text targets, sampled contexts, norm window, Adam ascent, no references.

        `method="law"` in `changes` replaces its Adam by the exact flow.
        """
        settings: dict[str, object] = {
            "output_dir": Path(output_dir),
            "method": "ascent",
            "target": "eos",
            "target_steps": 20,
            "clamp": 0.75,
            "weight_decay": 0.5,
            "contexts": "sampled",
            "eliminate": "prompt",
            "lam": "norm_window",
            "beta_rel": 1e9,
            "ridge": 0.0,
            "n_references": 0,
            "mu_ratio": 0.0,
            "max_rounds": 1,
            "on_budget": "ignore",
            **changes,
        }
        return cls.model_validate(settings)
