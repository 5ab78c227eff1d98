"""Settings of Strategist (arXiv 2408.10635); the field docs name the paper's or the official code's value."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from evolvent.methods.strategist.sandbox.workers import Limits
from evolvent.methods.strategist.search.settings import SearchSettings

Improvement = Literal["strategist", "line", "greedy", "bfs", "bfs-thought"]


class StrategistConfig(BaseModel):
    """Every setting of Strategist with its default.

    Attributes:
        output_dir: the run folder.
        skill_kind: "program" (weighted features), "code" (a function written by the model), "guide" (Avalon: questions
            before a speech; without a model that can write and listen, answers of typed acts), or "auto": code if the
            model passes the probe for it, else program.
        guide_role: whose guide is learnt.
        proposer: who has ideas: "llm" (the paper's prompts), "choice" (the model ranks typed edits), "residual"
            (regression, no model), "uniform" (random edits, the control), or "auto": the best that the probe allows.
        improvement: "strategist" (idea queue and strategy tree) or a published search it is compared with: "line"
            (refine the last skill), "greedy" (the best of the last generation), "bfs" (the best of the tree),
            "bfs-thought" (the same, the model first rewrites its plan); these take one new idea for each skill.
        feedback: key states for reflection: "discrepancy" between search and value (paper), "outcome", "random", or
            "critic" (no games: the model judges the skill by reading it).
        evolutions: rounds of ideas, implementation and tournament (paper: 10).
        strategies_per_evolution: new skills of each (paper: 4).
        ideas_per_evolution: prompts or selections that bring ideas; each brings `ideas_per_prompt`.
        strategy_topk: skills from which a parent is drawn (paper: best 2 of the tree; official code 1).
        strategy_temperature: of that draw, in points (paper).
        idea_temperature: of the draw among ideas.
        ucb_c: exploration among ideas (√2).
        idea_prior: credit of an untried idea.
        num_seeds: seed skills that a model writes; without one the seed is the score so far.
        search_budget: simulations for a move.
        selection: of the search, see :class:`SearchSettings`.
        move: how matches take a move from a search; self-play for feedback always samples by visits.
        games_per_pair: game pairs of a match in the tournament, of which a race plays a quarter first and four times
            as many among those who are still in it.
        racing: drop whoever's 95 % interval lies below the leader's.
        anchors: opponents that stay: "seed", "rollout" (search with one playout a leaf), "champion" (the best so far).
        rating_l2: λ of the ratings.
        feedback_states: key states in a prompt (paper: 6).
        feedback_games: games of self-play that each new skill leaves for reflection and regression.
        outcome_share: of the regression target; the rest is what the search found (measured: ½ is better than 1).
        repair_attempts: prompts with the error for a skill that fails its checks (official code: 8).
        calibrate: refit the constants of a skill in closed form after an edit, kept only if self-play agrees.
        ridge_lambda: of that fit, on standardised features.
        exploitability_weight: λ; skills are selected on rating - λ · exact exploitability (GOPS up to 5 cards).
        sandbox: "strict" or "language"; see :class:`Limits`.
        max_llm_calls: end the run in good order after so many prompts.
        max_llm_tokens: the same after so many generated tokens.
        final_games: game pairs on fresh seeds with which the best skill is measured at the end.
        executor: "serial", "process" or "ray".
        workers: processes of the executor; None: one a core.
        on_config_change: in a folder that holds a run with other settings.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    output_dir: Path
    seed: int = Field(0, ge=0)
    skill_kind: Literal["auto", "program", "code", "guide"] = "auto"
    guide_role: Literal["good", "merlin", "evil"] = "merlin"
    proposer: Literal["auto", "llm", "choice", "residual", "uniform"] = "auto"
    improvement: Improvement = "strategist"
    feedback: Literal["discrepancy", "outcome", "random", "critic"] = "discrepancy"
    # high level
    evolutions: int = Field(10, ge=0)
    strategies_per_evolution: int = Field(4, ge=1)
    ideas_per_evolution: int = Field(3, ge=1)
    ideas_per_prompt: int = Field(3, ge=1)
    strategy_topk: int = Field(2, ge=1)
    strategy_temperature: float = Field(1.0, gt=0)
    idea_temperature: float = Field(1.0, gt=0)
    ucb_c: float = Field(1.4142, ge=0)
    idea_prior: float = 0.0
    num_seeds: int = Field(4, ge=1)
    # low level
    search_budget: int = Field(32, ge=1)
    selection: Literal["auto", "duct", "rm", "serial", "ismcts"] = "auto"
    move: Literal["visits", "sample", "average"] = "visits"
    puct_c1: float = Field(1.0, ge=0)
    puct_c2: float = Field(19652.0, gt=0)
    # evaluation
    games_per_pair: int = Field(64, ge=4)
    racing: bool = True
    anchors: tuple[Literal["seed", "rollout", "champion"], ...] = ("seed", "rollout", "champion")
    rating_l2: float = Field(1.0, gt=0)
    final_games: int = Field(500, ge=1)
    exploitability_weight: float = Field(0.0, ge=0)
    # feedback
    feedback_states: int = Field(6, ge=1)
    feedback_games: int = Field(64, ge=1)
    outcome_share: float = Field(0.5, ge=0, le=1)
    # skills
    repair_attempts: int = Field(3, ge=0)
    calibrate: bool = True
    ridge_lambda: float = Field(20.0, gt=0)
    # the model
    llm_temperature: float = Field(0.7, ge=0)
    max_new_tokens: int = Field(1500, ge=16)
    max_llm_calls: int | None = Field(None, ge=1)
    max_llm_tokens: int | None = Field(None, ge=1)
    # sandbox
    sandbox: Literal["strict", "language"] = "strict"
    fuel: int = Field(20_000, ge=100)
    worker_memory_mb: int = Field(512, ge=64)
    worker_timeout_s: float = Field(5.0, gt=0)
    # machine
    executor: Literal["serial", "process", "ray"] = "serial"
    workers: int | None = Field(None, ge=1)
    on_config_change: Literal["refuse", "rerun"] = "refuse"

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.skill_kind == "code" and self.proposer in ("residual", "uniform", "choice"):
            raise ValueError(f'proposer="{self.proposer}" edits programs; code is written by proposer="llm"')
        if self.skill_kind == "program" and self.proposer == "llm":
            raise ValueError('proposer="llm" writes code: leave skill_kind out, or set it to "code"')
        if self.skill_kind == "guide" and self.proposer in ("choice", "residual"):
            raise ValueError(f'proposer="{self.proposer}" edits programs; guides take "llm", "uniform" or "auto"')
        if not self.anchors:
            raise ValueError("anchors: at least one opponent that stays is needed")
        return self

    @property
    def search(self) -> SearchSettings:
        """Of every skill in this run."""
        return SearchSettings(
            budget=self.search_budget,
            selection=self.selection,
            move=self.move,
            puct_c1=self.puct_c1,
            puct_c2=self.puct_c2,
        )

    @property
    def limits(self) -> Limits:
        """Of the sandbox."""
        return Limits(self.fuel, self.worker_memory_mb, self.worker_timeout_s, self.sandbox)

    @property
    def race(self) -> tuple[int, ...]:
        """Game pairs after each heat."""
        return (
            (self.games_per_pair // 4, self.games_per_pair, 4 * self.games_per_pair)
            if self.racing
            else (self.games_per_pair,)
        )

    @classmethod
    def paper(cls, output_dir: Path | str, **changes: Any) -> StrategistConfig:
        """The paper's setting: 10 × 4 skills, 32 games a step, best two, decoupled PUCT, no calibration."""
        settings: dict[str, Any] = {
            "output_dir": Path(output_dir), "games_per_pair": 16, "racing": False, "selection": "duct",
            "calibrate": False, "anchors": ("seed",), "proposer": "llm", "skill_kind": "code", **changes,
        }  # fmt: skip
        return cls.model_validate(settings)
