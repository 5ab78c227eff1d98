"""Settings and result of one search."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evolvent.errors import ConfigError
from evolvent.methods.strategist.games.protocol import Action

Selection = Literal["auto", "duct", "rm", "serial", "ismcts"]
Move = Literal["visits", "sample", "average"]
RM_FROM = 300  # budget from which "auto" is regret matching


@dataclass(frozen=True)
class SearchSettings:
    """How a tree is grown and a move taken from it.

    Attributes:
        budget: simulations for one move.
        selection: "duct" (decoupled PUCT), "rm" (regret matching), "serial" (one player after another), "ismcts"
            (hidden information), or "auto": ismcts where something is hidden, else duct below 300 simulations and rm
            from there.
        move: "visits" (most visited), "sample" (visits^(1/temperature)) or "average" (mean strategy of rm; with other
            selections the share of visits).
        temperature: of "sample".
        puct_c1: exploration weight (official code: 1).
        puct_c2: visits at which exploration grows (official code: 19652).
        exploration: weight of the availability bonus of ismcts.
        gamma: share of uniform exploration in regret matching.
    """

    budget: int = 32
    selection: Selection = "auto"
    move: Move = "sample"
    temperature: float = 1.0
    puct_c1: float = 1.0
    puct_c2: float = 19652.0
    exploration: float = 0.7
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ConfigError(f"search: budget must be at least 1 simulation, got {self.budget}")
        if not self.temperature > 0:
            raise ConfigError(f"search: temperature must be above 0, got {self.temperature}")
        if not 0 <= self.gamma <= 1:
            raise ConfigError(f"search: gamma must lie in [0, 1], got {self.gamma}")

    def resolved(self, hidden: bool) -> str:
        """What selects in a search: what "auto" stands for; where something is hidden it is always "ismcts".

        Raises:
            ConfigError: "ismcts" where nothing is hidden.
        """
        if hidden:
            return "ismcts"
        if self.selection == "ismcts":
            raise ConfigError("search: ismcts is for hidden information; this game has none: give auto, duct or rm")
        if self.selection != "auto":
            return self.selection
        return "rm" if self.budget >= RM_FROM else "duct"


@dataclass(frozen=True)
class SearchResult:
    """What a search found at its root.

    Attributes:
        actions: legal actions of each searching player, ascending.
        policy: probability of each of those actions, from which `move` draws.
        visits: simulations through each action.
        values: mean return of that player after each action (0 where never tried).
        value: mean return of every player, (players,).
    """

    actions: dict[int, tuple[Action, ...]]
    policy: dict[int, NDArray[np.float64]]
    visits: dict[int, NDArray[np.int64]]
    values: dict[int, NDArray[np.float64]]
    value: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def best(self, player: int) -> Action:
        """The most probable action of a player."""
        return self.actions[player][int(np.argmax(self.policy[player]))]


def move_policy(
    visits: NDArray[np.float64], average: NDArray[np.float64], settings: SearchSettings
) -> NDArray[np.float64]:
    """Probability of each action: see `move` of :class:`SearchSettings`.

    Args:
        visits: simulations through each action, (..., actions).
        average: summed strategies of regret matching, or again the visits.
        settings: the move rule.
    """
    if settings.move == "visits":
        chosen = np.zeros_like(visits)
        np.put_along_axis(chosen, visits.argmax(-1)[..., None], 1.0, -1)
        return chosen
    weights = average if settings.move == "average" else visits
    if settings.move == "sample" and settings.temperature != 1:
        # Scaled first, so that no power overflows.
        weights = (weights / weights.max(-1, keepdims=True)) ** (1 / settings.temperature)
    total = weights.sum(-1, keepdims=True)
    policy: NDArray[np.float64] = np.where(total > 0, weights / np.maximum(total, 1e-300), 1 / weights.shape[-1])
    return policy
