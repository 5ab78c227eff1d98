"""How good a belief is on finished games whose roles are known: losses, names, calibration by quest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolvent.errors import ConfigError
from evolvent.methods.strategist.belief import Belief
from evolvent.methods.strategist.belief_tables import BeliefTables, GameRecord
from evolvent.methods.strategist.games.avalon import QuestResult
from evolvent.methods.strategist.games.avalon_rules import FIRST_EVIL, MERLIN, RoleSet


@dataclass(frozen=True)
class BeliefScores:
    """What an onlooker's belief says about games.

    Attributes:
        loss: -ln P(the true set of evil players) at the end of each game, nats, (games,).
        named: whether that set was the likeliest, (games,).
        evil_by_quest: after each quest, (P(evil), was evil) of every player of every game, (players, 2) each.
        merlin: whether the likeliest Merlin, for one who knows the evil seats, was Merlin, (named games,).
        assassins: whether the Assassin of that game named him, (named games,).
    """

    loss: NDArray[np.float64]
    named: NDArray[np.bool_]
    evil_by_quest: tuple[NDArray[np.float64], ...]
    merlin: NDArray[np.bool_]
    assassins: NDArray[np.bool_]

    def calibration(self, bins: int = 10) -> dict[str, list[tuple[float, float, int]]]:
        """After each quest, (mean P(evil), share that was evil, players) in bins of P(evil)."""
        curves = {}
        for quest, pairs in enumerate(self.evil_by_quest, start=1):
            where = np.minimum((pairs[:, 0] * bins).astype(int), bins - 1)
            groups = [pairs[where == b] for b in np.unique(where)]
            curves[f"quest {quest}"] = [(float(g[:, 0].mean()), float(g[:, 1].mean()), len(g)) for g in groups]
        return {quest: curve for quest, curve in curves.items() if curve}

    def metrics(self) -> dict[str, float]:
        """Flat numbers for metrics.json."""
        found = {"log_loss/evil_set": float(self.loss.mean()), "accuracy/evil_set": float(self.named.mean())}
        if len(self.merlin):
            found |= {"accuracy/merlin": float(self.merlin.mean()), "accuracy/assassins": float(self.assassins.mean())}
        for quest, curve in self.calibration().items():
            total = sum(n for *_, n in curve)
            error = sum(n * abs(said - was) for said, was, n in curve) / total
            found[f"calibration_error/{quest.replace(' ', '_')}"] = error
        return found


def score_belief(games: Sequence[GameRecord], tables: BeliefTables | None) -> BeliefScores:
    """Watch each game from outside and compare with its roles.

    Raises:
        ConfigError: there is no game.
        ContradictionError: a game holds an event that its rules exclude.
    """
    if not games:
        raise ConfigError("there is no game to score the belief on")
    sets: dict[tuple[int, ...], RoleSet] = {}
    loss, named, merlin, assassins = [], [], [], []
    by_quest: list[list[tuple[float, float]]] = [[] for _ in range(5)]
    for game in games:
        key = tuple(sorted(game.roles))
        belief = Belief(sets.setdefault(key, RoleSet.dealt(key)), tables)
        is_evil = [role >= FIRST_EVIL for role in game.roles]
        for quest, end in enumerate(_quest_ends(game.events)):
            belief.observe(game.events[:end])
            chances = belief.evil_probability()
            by_quest[quest] += [(float(p), float(evil)) for p, evil in zip(chances, is_evil, strict=True)]
        belief.observe(game.events)
        truth = sum(1 << seat for seat, evil in enumerate(is_evil) if evil)
        found = belief.evil_sets()
        with np.errstate(divide="ignore"):
            loss.append(-np.log(found[truth]))
        named.append(max(found, key=lambda mask: found[mask]) == truth)
        if game.target >= 0 and MERLIN in game.roles:
            merlin.append(game.roles[int(belief.merlin_given_evil(truth).argmax())] == MERLIN)
            assassins.append(game.roles[game.target] == MERLIN)
    pairs = tuple(np.array(p).reshape(len(p), 2) for p in by_quest)
    return BeliefScores(np.array(loss), np.array(named), pairs, np.array(merlin, bool), np.array(assassins, bool))


def _quest_ends(events: Sequence[Any]) -> list[int]:
    return [i for i, event in enumerate(events, start=1) if isinstance(event, QuestResult)]
