"""The printed tables of The Resistance: Avalon: sides, quest sizes, roles, who sees whom, and all ways to deal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from evolvent.errors import ConfigError

ROLES = ("servant", "merlin", "percival", "minion", "assassin", "morgana", "mordred", "oberon")
SERVANT, MERLIN, PERCIVAL, MINION, ASSASSIN, MORGANA, MORDRED, OBERON = range(8)
FIRST_EVIL = MINION
OPTIONAL = ("percival", "morgana", "mordred", "oberon")
EVIL = {5: 2, 6: 2, 7: 3, 8: 3, 9: 3, 10: 4}
QUEST_SIZES = {
    5: (2, 3, 2, 3, 3),
    6: (2, 3, 4, 3, 4),
    7: (2, 3, 3, 4, 4),
    8: (3, 4, 4, 5, 5),
    9: (3, 4, 4, 5, 5),
    10: (3, 4, 4, 5, 5),
}


class RoleSet:
    """The roles of one table, before they are dealt.

    Args:
        num_players: 5 to 10.
        roles: optional roles in play, of percival, morgana, mordred, oberon.

    Raises:
        ConfigError: names the limit that is broken.
    """

    def __init__(self, num_players: int, roles: Sequence[str] = ()) -> None:
        if num_players not in EVIL:
            raise ConfigError(f"avalon: num_players must be 5 to 10, got {num_players}")
        if unknown := sorted(set(roles) - set(OPTIONAL)):
            raise ConfigError(f"avalon: unknown optional roles {unknown}; there are {', '.join(OPTIONAL)}")
        if len(set(roles)) != len(roles):
            raise ConfigError(f"avalon: a role is named twice in {list(roles)}")
        chosen = [MERLIN, ASSASSIN, *(ROLES.index(role) for role in roles)]
        evil = [role for role in chosen if role >= FIRST_EVIL]
        good = [role for role in chosen if role < FIRST_EVIL]
        seats = EVIL[num_players]
        if len(evil) > seats:
            raise ConfigError(
                f"avalon: {num_players} players have {seats} evil seats, the assassin and "
                f"{len(evil) - 1} more evil roles need {len(evil)}"
            )
        self.num_players, self.num_evil = num_players, seats
        good += [SERVANT] * (num_players - seats - len(good))
        evil += [MINION] * (seats - len(evil))
        self.roles: tuple[int, ...] = tuple(sorted([*good, *evil]))

    @classmethod
    def dealt(cls, roles: Sequence[int]) -> RoleSet:
        """The role set of a deal, whatever house rules it follows: logs often name no Assassin."""
        made = cls.__new__(cls)
        made.num_players, made.num_evil = len(roles), sum(role >= FIRST_EVIL for role in roles)
        made.roles = tuple(sorted(int(role) for role in roles))
        return made

    @cached_property
    def assignments(self) -> NDArray[np.int8]:
        """Every way to deal the roles, (assignments, players); 60, 2,520 or 151,200 at 5, 7 or 10 players."""
        return _deals(self.roles)

    @cached_property
    def evil(self) -> NDArray[np.int64]:
        """Mask of the evil seats of each assignment."""
        masks: NDArray[np.int64] = ((self.assignments >= FIRST_EVIL) << np.arange(self.num_players)).sum(1)
        return masks

    @cached_property
    def knowledge(self) -> NDArray[np.int64]:
        """What each player privately knows in each assignment, as one number: `role | seen << 4`."""
        deals, seats = self.assignments, np.arange(self.num_players)
        masks = {role: ((deals == role) << seats).sum(1) for role in (PERCIVAL, MERLIN, MORGANA, MORDRED, OBERON)}
        known = np.zeros(deals.shape, np.int64)
        for player in range(self.num_players):
            role = deals[:, player].astype(np.int64)
            me = 1 << player
            seen = np.where(role == MERLIN, self.evil & ~masks[MORDRED], 0)
            seen = np.where(role == PERCIVAL, masks[MERLIN] | masks[MORGANA], seen)
            seen = np.where((role >= FIRST_EVIL) & (role != OBERON), self.evil & ~masks[OBERON] & ~me, seen)
            known[:, player] = role | seen << 4
        return known


def seen_by(roles: Sequence[int], player: int) -> int:
    """Mask of the seats that a player sees: evil ones for Merlin and evil, Merlin and Morgana for Percival."""
    role = roles[player]
    if role == MERLIN:
        shown = {r for r in range(FIRST_EVIL, len(ROLES)) if r != MORDRED}
    elif role == PERCIVAL:
        shown = {MERLIN, MORGANA}
    elif role >= FIRST_EVIL and role != OBERON:
        shown = {r for r in range(FIRST_EVIL, len(ROLES)) if r != OBERON}
    else:
        shown = set()
    return sum(1 << seat for seat, r in enumerate(roles) if r in shown and seat != player)


@cache
def teams(num_players: int, size: int) -> tuple[int, ...]:
    """Masks of all teams of a size, ascending."""
    return tuple(sorted(sum(1 << seat for seat in team) for team in combinations(range(num_players), size)))


def seats_of(mask: int) -> list[int]:
    """Seats in a mask, ascending."""
    return [seat for seat in range(mask.bit_length()) if mask >> seat & 1]


def _deals(roles: tuple[int, ...]) -> NDArray[np.int8]:
    kinds = sorted(set(roles))
    deals = np.full((1, len(roles)), -1, np.int8)
    for role in kinds:
        free = np.argsort(deals >= 0, axis=1, kind="stable")  # free seats of each row first
        left = len(roles) - sum(r < role for r in roles)
        grown = []
        for places in combinations(range(left), roles.count(role)):
            dealt = deals.copy()
            np.put_along_axis(dealt, free[:, list(places)], np.int8(role), axis=1)
            grown.append(dealt)
        deals = np.concatenate(grown)
    return deals
