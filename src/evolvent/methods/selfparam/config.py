"""Settings of SELF-PARAM. Where the paper gives no value, the default is what docs/selfparam.md measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from evolvent.training.config import FineTuneConfig

Baseline = Literal[
    "base", "in_context", "retrieval", "dense", "ft_context", "sft", "sft_bare", "sft_replay", "no_replay"
]


class SelfParamConfig(BaseModel):
    """How passages go into the weights.

    Attributes:
        output_dir: the run folder.
        mode: "batch" learns all passages together (one passage: the paper's single injection); "sequential" learns them
            one after the other, as they arrive, each starting from the model before it.
        generator: who writes question-answer pairs for passages that bring none: "rules" (cloze sentences, needs no
            model), "split" (no pairs: the rest of a text is learnt as if its beginning were known), "self" (the model),
            or a model reference such as "endpoint:NAME@URL".
        pairs_per_passage: questions asked of the generator for each passage.
        max_rounds: calls of the generator for a passage until every sentence has a pair.
        round_trip: keep generated pairs only when the model itself, with the passage, gives that answer.
        chunk_words: longer passages are cut where paragraphs end.
        formats: prompt formats that the student is trained in, each with its share; "chat" needs a chat template.
        shots: solved pairs of another passage in the teacher's prompt.
        hint: whether the teacher also sees the passage's own training pairs: "all" (one wording a fact), "wordings"
            (all of them), "loo" (all but the fact that is asked), "off", or "auto" ("all" when it makes the given
            answers clearly likelier).
        teacher_format: "probe" tries prompts on `probe_pairs` pairs and takes the best one; "fixed" takes `shots` and
            `hint` as they are.
        probe_pairs: pairs that the probe scores.
        temperature: of the teacher's distribution; None: 0.5 with a hint, else 1.
        contrast: how far what the passage changes in the teacher's predictions is amplified (Shi et al., arXiv
            2305.14739); 0 is the paper's.
        teacher_errors: where the teacher finds another token likelier than the given answer's: "keep" teaches that, as
            the paper does; "swap" exchanges the two probabilities (Wen et al., arXiv 1911.07471).
        answers: "given" distils the pairs' own answers; "teacher" lets the teacher write them first (greedily).
        strict: stop when the probe says that the teacher cannot read the passages.
        top_k: stored tokens of each prediction; None stores the whole vocabulary.
        target: tokens that are learnt: the "answer", or "all", the question's too (plain format only).
        divergence: forward KL is the paper's.
        cross_entropy_weight: weight of the answers' negative log-likelihood beside the divergence, 0 in the paper.
        retention_weight: weight of the same KL on general text, whose teacher is the model before (paper: SlimPajama).
        retention_rows: pieces of general text in each batch; 0 turns retention off.
        retention_tokens: tokens of a piece.
        pair_weighting: "uniform", or "gain": pairs that the passage explains best weigh most.
        min_gain: pairs whose answer the passage makes less than this likelier (nats per token) are known already; a
            tenth of them is kept.
        min_teacher: pairs whose answer the teacher finds less likely than this (nats per token) are dropped.
        on_conflict: what to do when passages give different answers to one question: the newest holds, all are kept,
            or it is an error.
        exposures: times that each fact is seen (in all its wordings together).
        max_steps: bound on the optimiser steps of one injection.
        batch_size: pairs per step.
        peft: "full" up to 500M weights, else "lora", when None.
        learning_rate: peak; None: 1e-4 for all weights, 5e-4 for LoRA.
        replay_share: sequential: share of each batch from pairs of earlier passages, with their stored predictions.
        replay_pairs: sequential: pairs kept of each earlier passage.
        keep_checkpoints: sequential: how many of the last injections keep their weights for `rollback`; None all.
        baselines: what the result is compared with, on the same questions; "sft_bare" is SFT without general text;
            "no_replay" and "sft_replay" (SFT with the same replay) in sequential mode only.
        max_answer_tokens: bound on answers, given and generated.
        save_steps: steps between the states from which a killed training goes on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    output_dir: Path
    mode: Literal["batch", "sequential"] = "batch"
    seed: int = 0

    generator: str = "rules"
    pairs_per_passage: int = Field(24, ge=1)
    max_rounds: int = Field(4, ge=1)
    round_trip: bool = True
    chunk_words: int = Field(700, ge=20)

    formats: dict[Literal["plain", "chat"], float] = {"plain": 1.0}
    shots: int = Field(3, ge=0)
    hint: Literal["auto", "off", "all", "wordings", "loo"] = "auto"
    teacher_format: Literal["probe", "fixed"] = "probe"
    probe_pairs: int = Field(32, ge=1)
    temperature: float | None = Field(None, gt=0)
    contrast: float = Field(1.0, ge=0)
    teacher_errors: Literal["keep", "swap"] = "swap"
    answers: Literal["given", "teacher"] = "given"
    strict: bool = False
    top_k: int | None = Field(64, ge=1)

    target: Literal["answer", "all"] = "answer"
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    cross_entropy_weight: float = Field(0.0, ge=0)
    retention_weight: float = Field(1.0, ge=0)
    retention_rows: int = Field(4, ge=0)
    retention_tokens: int = Field(32, ge=8)
    pair_weighting: Literal["uniform", "gain"] = "uniform"
    min_gain: float = 0.2
    min_teacher: float = -2.5
    on_conflict: Literal["newest", "keep", "error"] = "newest"

    exposures: float = Field(16.0, gt=0)
    max_steps: int = Field(600, ge=1)
    batch_size: int = Field(8, ge=1)
    peft: Literal["full", "lora"] | None = None
    lora_r: int = Field(16, ge=1)
    lora_alpha: int = Field(32, ge=1)
    learning_rate: float | None = Field(None, gt=0)

    replay_share: float = Field(0.25, ge=0, lt=1)
    replay_pairs: int = Field(64, ge=0)
    keep_checkpoints: int | None = Field(None, ge=1)

    baselines: tuple[Baseline, ...] = ("base", "in_context", "retrieval", "dense", "ft_context", "sft")
    max_answer_tokens: int = Field(40, ge=1)
    save_steps: int = Field(100, ge=1)
    dtype: str = "auto"
    on_config_change: Literal["refuse", "rerun"] = "refuse"

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if not self.formats or min(self.formats.values()) <= 0:
            raise ValueError("formats: give at least one format, each with a share above 0")
        if self.target == "all" and "chat" in self.formats:
            raise ValueError('target="all" needs formats={"plain": 1}: in a chat the question holds the passage')
        return self

    def rate(self, peft: str) -> float:
        """Peak learning rate."""
        return self.learning_rate or {"full": 1e-4, "lora": 5e-4}[peft]

    def steps(self, facts: int, *, replayed: bool = False) -> int:
        """Optimiser steps after which each of `facts` facts was seen `exposures` times."""
        new = self.batch_size - (self.replayed if replayed else 0)
        return max(1, min(self.max_steps, math.ceil(self.exposures * facts / new)))

    @property
    def replayed(self) -> int:
        """Rows of a batch that come from earlier passages; at least one row is new."""
        return min(round(self.replay_share * self.batch_size), self.batch_size - 1)

    def training(self, peft: Literal["full", "lora"], steps: int, rows: int) -> FineTuneConfig:
        """The fine-tuning of `steps` batches of `rows` rows."""
        return FineTuneConfig(
            peft=peft,
            lora_r=self.lora_r,
            lora_alpha=self.lora_alpha,
            learning_rate=self.rate(peft),
            epochs=None,
            steps=steps,
            batch_size=rows,
            micro_batch_size=_piece(self.batch_size, rows),
            schedule="cosine",
            label_smoothing=0.0,
            seed=self.seed,
            save_steps=self.save_steps,
        )


def _piece(pairs: int, rows: int) -> int:
    """Rows of a forward pass: pairs are short and general text is long, so they are padded apart."""
    return math.gcd(pairs, rows)
