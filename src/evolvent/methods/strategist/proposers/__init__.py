"""Who has ideas and carries them out: a language model, a regression, or chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from evolvent.errors import ConfigError
from evolvent.methods.strategist.games.protocol import Encoded, Game
from evolvent.methods.strategist.skills import ActGuide, Skill
from evolvent.methods.strategist.skills.program import Edit, ProgramSkill
from evolvent.methods.strategist.tree import Node


@dataclass(frozen=True)
class Draft:
    """An idea before it is filed."""

    text: str
    edit: Edit | None = None


@dataclass(frozen=True)
class Replay:
    """Self-play from the view of team 0.

    Attributes:
        game: index of the match, (rows,).
        states: encoded, (rows, fields).
        search: what search expected, nan where nobody searched, (rows,).
        value: what the skill said, nan where it was not asked, (rows,).
        actions: what each player did, -1 for nothing, (rows, players).
        outcome: final return, (rows,).
    """

    game: NDArray[np.int64]
    states: Encoded
    search: NDArray[np.float64]
    value: NDArray[np.float64]
    actions: NDArray[np.int64]
    outcome: NDArray[np.float64]

    def target(self, outcome_share: float) -> NDArray[np.float64]:
        """What a value is regressed on: the outcome mixed with what search found."""
        searched = np.where(np.isnan(self.search), self.outcome, self.search)
        return outcome_share * self.outcome + (1 - outcome_share) * searched

    @classmethod
    def for_team_zero(cls, game: Game, played: Mapping[str, Any]) -> Replay:
        """From :func:`~evolvent.methods.strategist.tournament.self_play`; players' values become one."""
        sides = game.sides(played["states"])
        outcome = (played["outcome"] * sides).mean(1)
        search, value = (_mean_known(played[name] * sides) for name in ("search", "leaf"))
        return cls(played["game"], played["states"], search, value, played["actions"], outcome)

    @classmethod
    def none(cls) -> Replay:
        """No games."""
        counts, numbers = np.zeros(0, np.int64), np.zeros(0)
        return cls(counts, np.zeros((0, 0), np.int16), numbers, numbers, np.zeros((0, 0), np.int64), numbers)

    @classmethod
    def joined(cls, parts: Sequence[Replay]) -> Replay:
        """Several, with games numbered on."""
        columns = {name: np.concatenate([getattr(p, name) for p in parts]) for name in vars(parts[0])}
        starts = np.cumsum([0, *(int(p.game.max(initial=-1)) + 1 for p in parts)])
        columns["game"] = np.concatenate([p.game + start for p, start in zip(parts, starts, strict=False)])
        return cls(**columns)


def _mean_known(table: NDArray[np.float64]) -> NDArray[np.float64]:
    known = ~np.isnan(table)
    sums = np.where(known, table, 0.0).sum(1)
    return np.where(known.any(1), sums / np.maximum(known.sum(1), 1), np.nan)


class Proposer(Protocol):
    """Has ideas about a skill and writes the skill that one idea makes of another."""

    name: str  # as provenance and reports say it

    def seeds(self, game: Game, count: int, random: np.random.Generator) -> list[Skill]:
        """First skills."""
        ...

    def ideas(self, game: Game, node: Node, replay: Replay, count: int, random: np.random.Generator) -> list[Draft]:
        """What would improve a skill, judged by its games (`replay`: its own, then everybody's)."""
        ...

    def implement(
        self, game: Game, nodes: Sequence[Node], drafts: Sequence[Draft], keys: Sequence[str]
    ) -> list[Skill | str]:
        """One skill for each (node, idea); a text says why there is none. `keys` name the draws."""
        ...


class TypedProposer:
    """Ideas are typed edits, of programs or of a guide's answers, so carrying one out needs no model."""

    def seeds(self, game: Game, count: int, random: np.random.Generator) -> list[Skill]:
        """The score so far."""
        from evolvent.methods.strategist.skills.program import seed_program

        return [seed_program(game)]

    def implement(
        self, game: Game, nodes: Sequence[Node], drafts: Sequence[Draft], keys: Sequence[str]
    ) -> list[Skill | str]:
        """Apply each edit."""
        made: list[Skill | str] = []
        for node, draft in zip(nodes, drafts, strict=True):
            assert isinstance(node.skill, ProgramSkill | ActGuide)
            assert draft.edit is not None
            try:
                made.append(node.skill.apply(draft.edit))
            except ConfigError as error:
                made.append(str(error))
        return made
