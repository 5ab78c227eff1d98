"""Which proposer a run gets: the one that is asked for, or with "auto" the best that the model is able to be."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from evolvent.errors import ConfigError
from evolvent.methods.strategist.config import StrategistConfig
from evolvent.methods.strategist.dialogue.rehearsal import Rehearsal
from evolvent.methods.strategist.games.avalon import Avalon
from evolvent.methods.strategist.games.protocol import Game
from evolvent.methods.strategist.probe import Probe, run_probe
from evolvent.methods.strategist.proposers import Proposer
from evolvent.methods.strategist.proposers.choice import ChoiceProposer
from evolvent.methods.strategist.proposers.guides import ActProposer, GuideProposer
from evolvent.methods.strategist.proposers.llm import Budget, LLMProposer, Writer
from evolvent.methods.strategist.proposers.residual import ResidualProposer
from evolvent.methods.strategist.proposers.uniform import UniformProposer
from evolvent.models.protocol import LanguageModel
from evolvent.models.resolve import load
from evolvent.runs.folder import Run

logger = logging.getLogger(__name__)


def choose_proposer(
    folder: Run, model: str | Path | LanguageModel | None, game: Game, args: StrategistConfig, budget: Budget
) -> tuple[Proposer, Probe | None]:
    """The proposer of a run, and the probe if the model was probed.

    Raises:
        ConfigError: a proposer that needs a model, without one.
    """
    if args.skill_kind == "guide":
        assert isinstance(game, Avalon)
        return _coach(folder, model, game, args, budget)
    if args.proposer != "auto":
        return make_proposer(args.proposer, model, args, budget), None
    if model is None:
        if args.skill_kind == "code":
            raise ConfigError('skill_kind="code": code is written by a model; give one')
        return make_proposer("residual", None, args, budget), None
    loaded = load(model)
    probe = _probed(folder, loaded, game, args)
    kind = probe.unlocks
    if kind == "llm" and args.skill_kind == "program":
        kind = "choice" if probe.chooses else "residual"
    if kind == "residual" and args.skill_kind == "code":
        raise ConfigError(f"{loaded.name} cannot write skills: {probe.summary()}\nForce it with proposer: llm")
    if kind == "residual":
        logger.warning(
            "%s can neither write nor choose edits (%s): the proposer is residual (no LLM)",
            loaded.name,
            probe.summary(),
        )
    return make_proposer(kind, loaded, args, budget), probe


def _probed(folder: Run, model: LanguageModel, game: Game, args: StrategistConfig) -> Probe:
    def compute(stage: Path) -> None:
        (stage / "probe.json").write_text(json.dumps(run_probe(model, game, args).to_json(), indent=1))

    inputs = {"model": model.name, "game": [game.name, dict(game.settings)], "guide": args.skill_kind == "guide"}
    return folder.stage(
        "probe", inputs, compute, load=lambda stage: Probe.from_json(json.loads((stage / "probe.json").read_text()))
    )


def _coach(
    folder: Run, model: str | Path | LanguageModel | None, game: Avalon, args: StrategistConfig, budget: Budget
) -> tuple[Proposer, Probe | None]:
    """Of guides: the model, if it can have ideas and listen or is told to; else random shifts of typed acts."""
    if not game.discussion_rounds:
        raise ConfigError('skill_kind="guide": discussion_rounds is 0, so nobody talks')
    if args.proposer == "llm" and model is None:
        raise ConfigError("proposer='llm' needs a model")
    loaded = load(model) if model is not None and args.proposer != "uniform" else None
    probe = None
    if loaded is not None and args.proposer == "auto":
        probe = _probed(folder, loaded, game, args)
        if not probe.talks:
            logger.warning("%s cannot coach (%s): %s", loaded.name, probe.summary(), ActProposer.name)
            loaded = None
    writer = Writer(loaded, args, budget) if loaded is not None else None
    rehearsal = Rehearsal(game, args.guide_role, args.search, writer)
    return GuideProposer(rehearsal, args) if writer is not None else ActProposer(rehearsal), probe


def make_proposer(
    kind: str, model: str | Path | LanguageModel | None, args: StrategistConfig, budget: Budget
) -> Proposer:
    """A proposer by its name.

    Raises:
        ConfigError: one that needs a model, without one.
    """
    if kind == "residual":
        return ResidualProposer(args.outcome_share, args.calibrate)
    if kind == "uniform":
        return UniformProposer(args.calibrate)
    if model is None:
        raise ConfigError(f"proposer={kind!r} needs a model")
    if kind == "choice":
        return ChoiceProposer(load(model), args.feedback_states, args.feedback)
    return LLMProposer(load(model), args, budget)
