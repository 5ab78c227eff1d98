"""The exact belief about hidden roles in Avalon: a probability for every way to deal them.

    b(A)  ∝  1[private knowledge allows A] · Π_quests P(fails | evil of A on the team)
             · Π_votes P(approve | class of the voter in A, …) · exp(κ · Σ_p e_p · 1[p is evil in A])

A quest with f fails rules out every assignment with fewer evil players on its team, whatever the tables say.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolvent.errors import EvolventError
from evolvent.methods.strategist.belief_tables import CLASSES, BeliefTables, walk
from evolvent.methods.strategist.games.avalon import AvalonInfo, Ballot, QuestResult
from evolvent.methods.strategist.games.avalon_rules import FIRST_EVIL, ROLES, RoleSet
from evolvent.methods.strategist.games.rng import Stream

logger = logging.getLogger(__name__)


class ContradictionError(EvolventError):
    """An event that no assignment allows."""


class Belief:
    """What the public events of one game say about the roles; each player adds his private knowledge.

    Args:
        role_set: what was dealt: `game.role_set`, or `RoleSet.dealt(roles)` of a log.
        tables: likelihoods; None: hard logic only.
        kappa: weight of talk.
    """

    def __init__(self, role_set: RoleSet, tables: BeliefTables | None = None, *, kappa: float = 0.5) -> None:
        self.role_set, self.tables, self.kappa = role_set, tables, kappa
        self._seats = np.arange(role_set.num_players)
        self._evil = role_set.evil
        self._possible = np.ones(len(self._evil), bool)
        self._log = np.zeros(len(self._evil))
        self._spoken = np.zeros(len(self._evil))
        self._classes = np.array(CLASSES[tables.by if tables else "side"])[role_set.assignments]
        self._seen: tuple[Any, ...] = ()

    def observe(self, history: tuple[Any, ...]) -> None:
        """Take in the public events that came since the last call.

        Raises:
            ContradictionError: an event is impossible under every assignment.
        """
        if history[: len(self._seen)] != self._seen:
            raise ValueError("observe: this history does not continue the one observed before")
        done = len([e for e in self._seen if isinstance(e, Ballot | QuestResult)])
        self._seen = history
        for event, team, proposal, quest in list(walk(history))[done:]:
            self._add(event, team, proposal, quest)

    def _add(self, event: Ballot | QuestResult, team: int, proposal: int, quest: int) -> None:
        evil = np.bitwise_count(self._evil & team).astype(np.int64)
        if isinstance(event, QuestResult):
            self._possible &= evil >= event.fails
            if not self._possible.any():
                raise ContradictionError(
                    f"quest {quest + 1}: {event.fails} fails are impossible after what came before"
                )
            if self.tables:
                chances = self.tables.fails[quest, :, min(event.fails, 4)]
                self._log += _log(chances)[evil]
        elif self.tables:
            on_team, approved = team >> self._seats & 1, event.approvals >> self._seats & 1
            table = self.tables.approve[:, :, :, min(proposal, 4), quest]  # (class, evil on team, voter on team)
            chosen = np.where(approved, table[:, :, on_team], 1 - table[:, :, on_team])  # (class, 2, players)
            logs = _log(chosen)
            has_evil = (evil > 0).astype(np.int64)
            for seat in self._seats:
                self._log += logs[self._classes[:, seat], has_evil, seat]

    def talk(self, evidence: Mapping[int, float]) -> None:
        """Add what was heard: e_p in [-2, 2] for each player, positive for "evil"."""
        for player, e in evidence.items():
            if 0 <= player < self.role_set.num_players:
                share = self.kappa * min(2.0, max(-2.0, float(e)))
                self._spoken += share * (self._evil >> player & 1)

    def posterior(self, info: AvalonInfo | None = None) -> NDArray[np.float64]:
        """Probability of each assignment, (assignments,), for a player or for an onlooker.

        Soft evidence that leaves nothing of what hard logic allows is dropped, with a warning.

        Raises:
            ContradictionError: private knowledge and hard logic leave nothing.
        """
        allowed = self._possible
        if info is not None:
            knowledge = self.role_set.knowledge[:, info.player]
            allowed = allowed & (knowledge == info.role | info.seen << 4)
        if not allowed.any():
            raise ContradictionError("what this player was dealt and the quests so far exclude every assignment")
        soft = self._log + self._spoken
        if not np.isfinite(soft[allowed]).any():
            logger.warning(
                "the tables give what happened no chance at all: votes and fail counts are ignored from here"
            )
            self._log[:] = 0.0
            soft = self._spoken
        weights = np.where(allowed, np.exp(soft - soft[allowed].max()), 0.0)
        posterior: NDArray[np.float64] = weights / weights.sum()
        return posterior

    def evil_probability(self, info: AvalonInfo | None = None) -> NDArray[np.float64]:
        """P(evil) of each player, (players,)."""
        chances: NDArray[np.float64] = self.posterior(info) @ (self.role_set.assignments >= FIRST_EVIL)
        return chances

    def role_probability(self, role: str, info: AvalonInfo | None = None) -> NDArray[np.float64]:
        """P(role) of each player, (players,)."""
        chances: NDArray[np.float64] = self.posterior(info) @ (self.role_set.assignments == ROLES.index(role))
        return chances

    def evil_sets(self, info: AvalonInfo | None = None) -> dict[int, float]:
        """Probability of each set of evil players, by mask of seats."""
        masks, inverse = np.unique(self._evil, return_inverse=True)
        chances = np.bincount(inverse, weights=self.posterior(info))
        return {int(mask): float(p) for mask, p in zip(masks, chances, strict=True)}

    def merlin_given_evil(self, evil: int) -> NDArray[np.float64]:
        """P(Merlin) of each player for one who knows the evil seats (a mask), from votes and quests, (players,)."""
        weights = np.where(self._evil == evil, self._log, -math.inf)
        weights = np.exp(weights - weights.max())
        found: NDArray[np.float64] = weights @ (self.role_set.assignments == ROLES.index("merlin"))
        found /= weights.sum()
        return found

    def sample(self, stream: Stream, info: AvalonInfo | None = None) -> tuple[int, ...]:
        """Roles drawn from the posterior."""
        running = np.cumsum(self.posterior(info))
        drawn = min(int(np.searchsorted(running, stream.uniform() * running[-1], side="right")), len(running) - 1)
        return tuple(int(role) for role in self.role_set.assignments[drawn])


def _log(p: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        found: NDArray[np.float64] = np.log(p)
    return found
