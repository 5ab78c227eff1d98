"""A learnt skill that acts: a folder that is loaded, a state that comes in, a move that goes out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ValidationError

from evolvent.data.files import write_text
from evolvent.errors import ModelError
from evolvent.methods.strategist.belief_tables import BeliefTables
from evolvent.methods.strategist.games.protocol import Action, Game, State
from evolvent.methods.strategist.games.registry import make_game
from evolvent.methods.strategist.games.rng import Stream, key_of
from evolvent.methods.strategist.matches import MOVE, SEARCH, Seat, draw_move
from evolvent.methods.strategist.sandbox.workers import Limits
from evolvent.methods.strategist.search.in_step import Request, searcher_of
from evolvent.methods.strategist.search.settings import SearchResult, SearchSettings
from evolvent.methods.strategist.skills import ActGuide, GuideSkill, Skill, skill_from
from evolvent.methods.strategist.skills.guide import Guide
from evolvent.methods.strategist.skills.program import seed_program
from evolvent.methods.strategist.tournament import evaluator_of

FILE = "strategist.json"


class AgentFile(BaseModel):
    """What is in `strategist.json`.

    Attributes:
        game: name; settings: what `make_game` builds it from.
        skill: see :func:`skill_from`.
        proposer: who made it, honestly.
        search: settings of its search.
        sandbox: level that code ran under.
        fuel, worker_memory_mb, worker_timeout_s: its other limits, see :class:`Limits`.
        lineage: from the seed to this skill: idea, proposer and rating of each step.
    """

    game: str
    settings: dict[str, Any] = {}
    skill: dict[str, Any]
    proposer: str
    search: dict[str, Any]
    sandbox: Literal["strict", "language"] = "strict"
    fuel: int = 20_000
    worker_memory_mb: int = 512
    worker_timeout_s: float = 5.0
    lineage: list[dict[str, Any]] = []


def write_agent(folder: Path, agent: AgentFile) -> Path:
    """Write an agent's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "skill.txt", f"{skill_from(agent.skill)}\n")
    return write_text(folder / FILE, agent.model_dump_json(indent=1) + "\n")


class StrategistAgent:
    """A skill with a search around it.

    Args:
        game: the rules.
        skill: JSON of a value skill, "rollout" or "random".
        settings: of the search.
        tables: of the belief about roles.
        limits: of code skills.
        guides: by role, for the talk at a table.

    Example:
        >>> game = make_game("gops", num_cards=5)
        >>> agent = StrategistAgent(game, "rollout", SearchSettings(budget=16, move="visits"))
        >>> state = game.step(game.initial(0), {-1: 5})
        >>> agent.act(state, 0) in game.legal(state, 0)
        True
    """

    def __init__(
        self,
        game: Game,
        skill: str,
        settings: SearchSettings | None = None,
        *,
        tables: BeliefTables | None = None,
        limits: Limits | None = None,
        file: AgentFile | None = None,
        guides: Mapping[str, Guide] | None = None,
    ) -> None:
        self.game, self.file, self.guides = game, file, dict(guides or {})
        self.seat = Seat(evaluator_of(game, skill, limits or Limits()), settings or SearchSettings(), tables)
        self.new_game()

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, budget: int | None = None, tables: BeliefTables | None = None
    ) -> StrategistAgent:
        """Load the folder `best/` of a run, or the run folder itself.

        Raises:
            ModelError: there is no agent in it.
        """
        file = read_agent(folder)
        search = {**file.search, **({"budget": budget} if budget else {})}
        limits = Limits(file.fuel, file.worker_memory_mb, file.worker_timeout_s, file.sandbox)
        skill: Skill = skill_from(file.skill)
        game = make_game(file.game, **{k: v for k, v in file.settings.items() if k != "spiel_name"})
        guides: dict[str, Guide] = {}
        if isinstance(skill, GuideSkill | ActGuide):  # it says how to talk; moves are those of the seed
            guides, skill = {skill.role: skill}, seed_program(game)
        return cls(
            game, json.dumps(skill.to_json(), sort_keys=True), SearchSettings(**search), tables=tables, limits=limits,
            file=file, guides=guides,
        )  # fmt: skip

    def new_game(self) -> None:
        """Forget the trees and beliefs of the game before."""
        self.searcher = searcher_of(self.game, self.seat) if self.seat.evaluator is not None else None

    def search(self, state: State, player: int, seed: int = 0) -> SearchResult:
        """What the search finds for a player who acts; hidden parts of `state` are not looked at."""
        assert self.searcher is not None
        return self.searcher.search([Request(0, player, state, key_of(seed, SEARCH, player))])[0]

    def act(self, state: State, player: int, seed: int = 0) -> Action:
        """A move; the same state and seed give the same one."""
        stream = Stream(key_of(seed, MOVE, player))
        legal = self.game.legal(state, player)
        if len(legal) == 1 or self.searcher is None:
            return legal[stream.below(len(legal))]
        found = self.search(state, player, seed)
        return found.actions[player][int(draw_move(found.policy[player], np.array(stream.uniform())))]


def read_agent(folder: str | Path) -> AgentFile:
    """`strategist.json` of an agent's folder or a run folder.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    for path in (Path(folder) / FILE, Path(folder) / "best" / FILE):
        if path.is_file():
            try:
                file = AgentFile.model_validate_json(path.read_text())
                SearchSettings(**file.search)
            except ValidationError as error:
                field = ".".join(map(str, error.errors()[0]["loc"]))
                raise ModelError(f"{path}: {field and f'field {field}: '}{error.errors()[0]['msg']}") from error
            except TypeError as error:
                raise ModelError(f"{path}: field search: {error}") from error
            return file
    raise ModelError(f"{folder}: no {FILE}; give the folder of a finished run, or its best/")
