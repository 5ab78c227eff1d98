"""Settings of SemiEvol (arXiv 2410.14745); the field docs name the paper's or the official code's value."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class InferenceConfiguration(BaseModel):
    """One way of asking the warmed-up model: a voter of the collaborative stage.

    Attributes:
        name: how reports call it.
        demonstrations: nearest labelled rows shown in the context.
        demonstrations_from: rank of the first of them; 0 is the nearest row, k the first one that another voter
            with k demonstrations does not see.
        permute_options: list the options in another, seeded order for each row.
        wording: which of the task's phrasings.
        temperature: of free-form sampling; choice tasks are scored in closed form.
        model: another model or endpoint instead of the warmed-up one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    demonstrations: int = Field(0, ge=0)
    demonstrations_from: int = Field(0, ge=0)
    permute_options: bool = False
    wording: int = Field(0, ge=0)
    temperature: float = Field(1.0, gt=0)
    model: str | None = None


class SemiEvolConfig(BaseModel):
    """Every setting of SemiEvol with its default.

    Attributes:
        output_dir: the run folder.
        peft: what is trained, see :class:`~evolvent.training.config.FineTuneConfig`.
        warmup_epochs: of supervised training on the labelled rows (paper: 2) ...
        min_steps: ... but at least this many optimiser steps; an under-trained warm-up harms all that follows.
        warmup_lr: peak learning rate; None: 5e-4 for LoRA (official code 1e-4, for 8B models), 1e-4 for top layers,
            5e-5 for all weights.
        evolve_from: "base" trains the final model from the original weights (measured better on a small model),
            "warm" from the warmed-up ones (paper).
        evolve_lr_ratio: final learning rate as a share of `warmup_lr`; None: 1 from the base, 1/3 from the warm model.
        evolve_epochs: of the final training over labelled + selected rows (official code: 2).
        labeled_share: least share of labelled rows in each batch of the final training.
        label_smoothing: of both trainings.
        soft_targets: learn the voters' distribution of a selected row instead of its most probable answer.
        correction_weight: weight of selected rows whose consensus differs from the warm model's own answer.
        n_configs: voters (paper: 4); how many of `configs` are used.
        configs: the voters; None: plain, k demonstrations, another wording, k other or permuted demonstrations.
        k_shots: demonstrations of the default voters (paper: 3).
        retriever: what finds them: "auto" (dense), "dense" (embedded MiniLM), "bm25", or a folder of an encoder.
        gate: "always" leaves out voters that are more than `config_margin` below the best one on held-out labelled
            rows and weighs the rest by accuracy above chance; "never" lets all vote alike; "auto" gates when the
            hold-out is large enough to tell voters apart.
        holdout: share of the labelled rows that is held out for the gate and for the decision to accept ...
        min_holdout: ... if that makes at least so many rows.
        folds: cross-fitting folds of gate="always" when there is no hold-out.
        judge: "auto" (the warm model, if it beats the vote on held-out disputed rows), "always", "none", or a model.
        confidence: "entropy" (choice), "margin", "nll" (official code), "semantic" (free-form), or "auto".
        theta: share of pseudo-labelled rows that is kept (paper: 0.5).
        balance: whether `theta` holds inside each predicted class, or over all rows (paper).
        min_per_class: rows kept of each predicted class at least.
        target_precision: keep instead the largest set that is at least this precise with `certainty`.
        certainty: see `target_precision`.
        prior_correction: repair of the voters' class prior. "labeled" scales the votes so that their mean over the pool
            equals the labelled answers' shares (measured: +1.0 and +2.8 points of pseudo-label accuracy; fit when the
            labelled rows were drawn like the pool), "uniform" so that all answers are equally frequent, "em"
            re-estimates the shares by expectation maximisation, "none" leaves them.
        rounds: repetitions of label + select + evolve; later ones label with the evolved model.
        control: train the compute-matched control, on labelled rows only.
        in_weight: S1; off, the original weights label the pool (the "self-evolution" baseline).
        also_evaluate: name -> reference of further models to test on the same rows.
        shard_rows: rows of inference that are written together; a killed run repeats at most one shard.
        force: go on when the warmed-up model is no better than always giving the most frequent answer.
        on_config_change: in a folder that holds a run with other settings: "refuse", or "rerun" the stages whose
            inputs changed.
        prices: an endpoint's prices for a million tokens: prompt, completion and training, in any currency.
        max_cost: most that an endpoint may cost, in the currency of its prices.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    output_dir: Path
    seed: int = 0
    # in-weight propagation
    in_weight: bool = True
    peft: Literal["lora", "full", "top_layers"] = "lora"
    lora_r: int = Field(16, ge=1)
    lora_alpha: int = Field(32, ge=1)
    target: str = "all-linear"
    trainable_layers: int = Field(12, ge=1)
    warmup_epochs: float = Field(2.0, gt=0)
    min_steps: int = Field(40, ge=1)
    warmup_lr: float | None = Field(None, gt=0)
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    batch_size: int = Field(8, ge=1)
    micro_batch_size: int | None = Field(None, ge=1)
    max_length: int = Field(1024, ge=16)
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    # in-context propagation and collaboration
    n_configs: int = Field(4, ge=1)
    configs: tuple[InferenceConfiguration, ...] | None = None
    k_shots: int = Field(3, ge=0)
    retriever: str = "auto"
    gate: Literal["auto", "always", "never"] = "auto"
    config_margin: float = Field(0.05, ge=0, le=1)
    holdout: float = Field(0.1, ge=0, lt=1)
    min_holdout: int = Field(20, ge=1)
    folds: int = Field(2, ge=2)
    samples: int = Field(1, ge=1)
    max_new_tokens: int = Field(256, ge=1)
    judge: str = "auto"
    prior_correction: Literal["labeled", "uniform", "em", "none"] = "labeled"
    # selection
    confidence: Literal["auto", "entropy", "margin", "nll", "semantic"] = "auto"
    theta: float = Field(0.5, gt=0, le=1)
    balance: Literal["class", "global"] = "class"
    min_per_class: int = Field(1, ge=0)
    target_precision: float | None = Field(None, gt=0, lt=1)
    certainty: float = Field(0.9, gt=0, lt=1)
    # evolution
    evolve_from: Literal["base", "warm"] = "base"
    evolve_lr_ratio: float | None = Field(None, gt=0)
    evolve_epochs: float = Field(2.0, gt=0)
    labeled_share: float = Field(0.0, ge=0, le=1)
    include_labeled: bool = True
    soft_targets: bool = False
    correction_weight: float = Field(1.0, gt=0)
    rounds: int = Field(1, ge=1)
    control: bool = True
    few_shot_baseline: bool = True
    zero_shot_baseline: bool = True
    # machine
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    shard_rows: int = Field(256, ge=1)
    save_steps: int = Field(50, ge=1)
    keep_overlap: bool = False
    force: bool = False
    also_evaluate: dict[str, str] = {}
    on_config_change: Literal["refuse", "rerun"] = "refuse"
    prices: dict[Literal["prompt", "completion", "training"], float] | None = None
    max_cost: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.configs is not None and len({c.name for c in self.configs}) != len(self.configs):
            raise ValueError("configs: two voters have the same name")
        if self.configs is not None and not self.configs:
            raise ValueError("configs: at least one voter is needed")
        return self

    @property
    def peak_lr(self) -> float:
        """Peak learning rate of the warm-up."""
        return self.warmup_lr or {"lora": 5e-4, "top_layers": 1e-4, "full": 5e-5}[self.peft]

    @property
    def evolve_lr(self) -> float:
        """Peak learning rate of the final training."""
        ratio = self.evolve_lr_ratio or (1.0 if self.evolve_from == "base" else 1 / 3)
        return self.peak_lr * ratio

    def voters(self, *, lists_options: bool) -> tuple[InferenceConfiguration, ...]:
        """The inference configurations of this run.

        Args:
            lists_options: whether prompts list the options, so that permuting them makes another view.
        """
        if self.configs is not None:
            return self.configs[: self.n_configs]
        k = self.k_shots
        other_view = (
            InferenceConfiguration(name="permuted", demonstrations=k, permute_options=True)
            if lists_options
            else InferenceConfiguration(name="more-shots", demonstrations=k, demonstrations_from=k)
        )
        four = (
            InferenceConfiguration(name="plain"),
            InferenceConfiguration(name="few-shot", demonstrations=k),
            InferenceConfiguration(name="wording", wording=1),
            other_view,
        )
        extra = tuple(
            InferenceConfiguration(name=f"wording-{i}", wording=i) for i in range(2, self.n_configs - len(four) + 2)
        )
        return (*four, *extra)[: self.n_configs]

    @classmethod
    def reference(cls, output_dir: Path | str, **changes: object) -> SemiEvolConfig:
        """The official code at d91013a: four samples of one prompt, no in-context stage, pseudo-labels only, lr 1e-6.

        Its prompts are the plain ones; `theta` is its 30th percentile, over all rows.
        """
        settings: dict[str, object] = {
            "output_dir": Path(output_dir),
            "warmup_lr": 1e-4,
            "min_steps": 1,
            "label_smoothing": 0.0,
            "configs": tuple(InferenceConfiguration(name=f"sample-{i}", temperature=1.0) for i in range(4)),
            "gate": "never",
            "judge": "always",
            "confidence": "nll",
            "theta": 0.3,
            "balance": "global",
            "min_per_class": 0,
            "evolve_from": "warm",
            "evolve_lr_ratio": 0.01,
            "include_labeled": False,
            "control": False,
            **changes,
        }
        return cls.model_validate(settings)
