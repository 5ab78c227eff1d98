"""Typed acts: what can be said without a language model. Templates render them, and are parsed back exactly.

A report that used them says "templates, no LLM".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evolvent.methods.strategist.games.avalon import Avalon, AvalonState
from evolvent.methods.strategist.games.avalon_rules import FIRST_EVIL, ROLES, seats_of

Kind = Literal["claim", "accuse", "vouch", "propose", "reject", "pass"]
TEMPLATES: dict[str, str] = {
    "claim": "I am a loyal servant of Arthur.",
    "accuse": "I think player {} is evil.",
    "vouch": "I trust player {}.",
    "propose": "The team should be {}.",
    "reject": "I am against {}.",
    "pass": "I have nothing to add.",
}
WEIGHT = {"accuse": 2.0, "vouch": -2.0, "propose": -1.0, "reject": 1.0}  # e_p of a speaker who is believed fully


class Act(NamedTuple):
    """Something said; `seats` is the mask of the players it is about."""

    kind: Kind
    seats: int = 0

    def __str__(self) -> str:
        return TEMPLATES[self.kind].format(", ".join(map(str, seats_of(self.seats))))


def parse_act(text: str) -> Act | None:
    """The act that a sentence renders; None for free speech."""
    for kind, template in TEMPLATES.items():
        pattern = re.escape(template).replace(r"\{\}", r"(\d+(?:, \d+)*)")
        if found := re.fullmatch(pattern, text.strip()):
            seats = sum(1 << int(seat) for seat in found[1].split(", ")) if found.groups() else 0
            return Act(kind, seats)  # type: ignore[arg-type]
    return None


@dataclass(frozen=True)
class ActPolicy:
    """How typed acts are chosen.

    Attributes:
        accuse_from: P(evil) from which a good player accuses.
        vouch_below: P(evil) up to which a good player vouches.
        caution: how much surer Merlin, who knows, waits to look before he accuses: his knowledge is mixed with this
            share of what an onlooker believes.
        evil_accuses: chance that an evil player accuses the good player who looks worst; otherwise he vouches for
            another evil player, or claims to be good.
    """

    accuse_from: float = 0.7
    vouch_below: float = 0.15
    caution: float = 0.5
    evil_accuses: float = 0.6

    def choose(
        self, game: Avalon, state: AvalonState, player: int, private: NDArray[np.float64], public: NDArray[np.float64],
        uniform: float,
    ) -> Act:  # fmt: skip
        """What a player says.

        Args:
            game: the rules.
            state: the table; only this player's role is looked at, and what it sees.
            player: who speaks.
            private: P(evil) of each player as the speaker knows it.
            public: P(evil) of each player for an onlooker.
            uniform: a random number in [0, 1).
        """
        role, others = state.roles[player], np.arange(game.num_players) != player
        if role >= FIRST_EVIL:
            good = others & (private < 0.5)
            if uniform < self.evil_accuses:
                return Act("accuse", 1 << int(np.argmax(np.where(good, public, -1.0))))
            partners = others & (private > 0.99)
            return Act("vouch", 1 << int(np.argmax(partners))) if partners.any() and uniform < 0.8 else Act("claim")
        if ROLES[role] == "merlin":
            private = (1 - self.caution) * private + self.caution * public
        suspect = int(np.argmax(np.where(others, private, -1.0)))
        trusted = int(np.argmin(np.where(others, private, 2.0)))
        if private[suspect] >= self.accuse_from:
            return Act("accuse", 1 << suspect)
        return Act("vouch", 1 << trusted) if private[trusted] <= self.vouch_below else Act("claim")


def act_score(
    act: Act, speaker: int, roles: Sequence[int], before: NDArray[np.float64], after: NDArray[np.float64]
) -> float:
    """z ∈ [−2, 2] of an act, by what it did to an onlooker's P(evil), (players,) before and after.

    Good: twice the mean rise of the evil players' P(evil); evil: twice its fall. Merlin, where he gives himself
    away: no more than minus twice the distance by which a right accusation is ahead of what a servant accuses from.
    """
    evil = np.array(roles) >= FIRST_EVIL
    gain = 2.0 * float((after - before)[evil].mean())
    if evil[speaker]:
        return -gain
    ahead = [ActPolicy.accuse_from - float(before[seat]) for seat in seats_of(act.seats) if evil[seat]]
    if ROLES[roles[speaker]] == "merlin" and act.kind == "accuse" and max(ahead, default=0.0) > 0:
        return min(gain, -2.0 * max(ahead))
    return gain


def heard(act: Act, speaker: int, public: NDArray[np.float64]) -> Mapping[int, float]:
    """e_p of a public listener: the words of a speaker count by how good he looks (1 - 2 P(evil), never below 0)."""
    trust = max(0.0, 1.0 - 2.0 * float(public[speaker]))
    weight = WEIGHT.get(act.kind, 0.0) * trust
    return {seat: weight for seat in seats_of(act.seats) if seat != speaker} if weight else {}
