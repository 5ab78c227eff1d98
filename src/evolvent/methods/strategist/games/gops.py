"""GOPS, the Game of Pure Strategy (goofspiel): the readable reference engine.

Two hands and a deck of prizes hold 1..N. A prize is drawn, both players bid a card at once, the higher bid takes the
prize and whatever ties left before; what a tie in the last round leaves is lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evolvent.errors import ConfigError
from evolvent.methods.strategist.games import compiled
from evolvent.methods.strategist.games.protocol import CHANCE, Action, Encoded, check_actions, check_whole

Ties = Literal["carry", "discard"]
DRAW, BID, OVER = 0, 1, 2
PHASES = ("draw", "bid", "over")


class GopsState(NamedTuple):
    """All that matters about the past. Everything is public.

    Attributes:
        hand0: cards of player 0, ascending.
        hand1: cards of player 1, ascending.
        deck: prizes not yet drawn, ascending.
        prize: the prize bid for; 0 while one is to be drawn.
        carry: points that ties left on the table.
        score0: points of player 0.
        score1: points of player 1.
    """

    hand0: tuple[int, ...]
    hand1: tuple[int, ...]
    deck: tuple[int, ...]
    prize: int
    carry: int
    score0: int
    score1: int


class Gops:
    """GOPS for two players; see :class:`~evolvent.methods.strategist.games.protocol.Game`.

    Args:
        num_cards: N, 2 to 16 (the card game: 13).
        ties: "carry" adds a tied prize to the next one (paper); "discard" loses it (OpenSpiel's goofspiel).
        win_loss: returns are 1, 0, -1 instead of the difference of points.

    Raises:
        ConfigError: a setting is out of bounds.
    """

    name = "gops"
    num_players = 2
    encoding: tuple[str, ...] = ("hand0", "hand1", "deck", "prize", "carry", "score0", "score1", "phase")
    feature_names: tuple[str, ...] = (
        "score_difference",
        "hand_sum_difference",
        "remaining_by_hand_share",
        "highest_card_difference",
        "pot_to_higher_top",
        "remaining_by_dominance",
        "pot_by_dominance",
        "high_card_count_difference",
        "sorted_match",
        "carry_to_stronger_hand",
        "score_difference_by_rounds",
        "clinched",
    )
    antisymmetric = True

    def __init__(self, num_cards: int = 13, ties: Ties = "carry", win_loss: bool = False) -> None:
        check_whole("gops: num_cards", num_cards)
        if not 2 <= num_cards <= 16:
            raise ConfigError(f"gops: num_cards must be 2 to 16, got {num_cards}")
        if ties not in ("carry", "discard"):
            raise ConfigError(f"gops: ties must be 'carry' or 'discard', got {ties!r}")
        if not isinstance(win_loss, bool):
            raise ConfigError(f"gops: win_loss must be true or false, got {win_loss!r}")
        self.num_cards, self.ties, self.win_loss = num_cards, ties, win_loss
        self.settings: Mapping[str, Any] = {"num_cards": num_cards, "ties": ties, "win_loss": win_loss}

    def kernels(self) -> Any | None:
        """The compiled rules, if numba is there."""
        return compiled.load("games.gops_kernels")

    def initial(self, seed: int = 0) -> GopsState:
        """Full hands and deck; nothing is dealt, so `seed` does not matter."""
        cards = tuple(range(1, self.num_cards + 1))
        return GopsState(cards, cards, cards, 0, 0, 0, 0)

    def actors(self, state: GopsState) -> tuple[int, ...]:
        """Chance draws a prize, then both bid."""
        return (0, 1) if state.prize else (CHANCE,) if state.deck else ()

    def phase(self, state: GopsState) -> str:
        """ "draw", "bid" or "over"."""
        return PHASES[self._phase(state)]

    def legal(self, state: GopsState, player: int) -> tuple[Action, ...]:
        """Cards in hand, or prizes in the deck."""
        if state.prize:
            return (state.hand0, state.hand1)[player] if player in (0, 1) else ()
        return state.deck if player == CHANCE else ()

    def chance(self, state: GopsState) -> tuple[tuple[Action, float], ...]:
        """Every prize of the deck is equally likely."""
        return () if state.prize else tuple((prize, 1 / len(state.deck)) for prize in state.deck)

    def step(self, state: GopsState, actions: Mapping[int, Action]) -> GopsState:
        """Draw a prize, or settle a round."""
        check_actions(self, state, actions)
        if not state.prize:
            prize = actions[CHANCE]
            return state._replace(deck=_without(state.deck, prize), prize=prize)
        bid0, bid1 = actions[0], actions[1]
        pot = state.prize + state.carry
        tie = bid0 == bid1
        return GopsState(
            hand0=_without(state.hand0, bid0),
            hand1=_without(state.hand1, bid1),
            deck=state.deck,
            prize=0,
            carry=pot if tie and self.ties == "carry" else 0,
            score0=state.score0 + pot * (bid0 > bid1),
            score1=state.score1 + pot * (bid1 > bid0),
        )

    def returns(self, state: GopsState) -> NDArray[np.float64]:
        """Point difference (or its sign) for each player at the end."""
        if self._phase(state) != OVER:
            return np.zeros(2)
        margin = float(state.score0 - state.score1)
        if self.win_loss:
            margin = float(np.sign(margin))
        return np.array([margin, -margin])

    def teams(self, state: GopsState) -> tuple[int, ...]:
        """Each for himself."""
        return (0, 1)

    def info(self, state: GopsState, player: int) -> GopsState:
        """Everything is public."""
        return state

    def assignments(self, info: GopsState) -> Sequence[None]:
        """Nothing is hidden."""
        return (None,)

    def complete(self, info: GopsState, assignment: None) -> GopsState:
        """The state itself."""
        return info

    def speakers(self, state: GopsState) -> tuple[int, ...]:
        """Nobody talks."""
        return ()

    def encode(self, states: Sequence[GopsState]) -> Encoded:
        """Hands and deck as bit masks (card c is bit c - 1), the rest as numbers."""
        rows = [
            (_mask(s.hand0), _mask(s.hand1), _mask(s.deck), s.prize, s.carry, s.score0, s.score1, self._phase(s))
            for s in states
        ]
        return np.array(rows, np.uint16).reshape(len(rows), len(self.encoding)).view(np.int16)

    def decode(self, row: Sequence[int]) -> GopsState:
        """The state of an encoded row."""
        hand0, hand1, deck = (_cards(int(mask) & 0xFFFF) for mask in row[:3])
        return GopsState(hand0, hand1, deck, *(int(x) for x in row[3:7]))

    def view(self, row: Sequence[int]) -> dict[str, Any]:
        """The dict of `evaluate_state`: past prizes and bids come ascending, their order is not in a row."""
        hand0, hand1, deck, prize, carry, score0, score1, _ = (int(x) for x in row)
        everything = (1 << self.num_cards) - 1
        drawn = everything & ~(deck | (1 << prize >> 1))
        return {
            "prizes": [*_cards(drawn), prize] if prize else list(_cards(drawn)),
            "bids0": list(_cards(everything & ~hand0)),
            "bids1": list(_cards(everything & ~hand1)),
            "to_play": prize,
            "carry": carry,
            "score0": score0,
            "score1": score1,
            "deck": list(_cards(deck & everything)),
            "hand0": list(_cards(hand0 & everything)),
            "hand1": list(_cards(hand1 & everything)),
        }

    def features(self, encoded: Encoded) -> NDArray[np.float32]:
        """Twelve quantities, mostly in points, that change sign when the players swap; (states, 12)."""
        if kernels := self.kernels():
            found: NDArray[np.float32] = kernels.features(np.ascontiguousarray(encoded), self.num_cards)
            return found
        rows = [self._features(self.decode(row)) for row in encoded]
        return np.array(rows, np.float32).reshape(len(rows), len(self.feature_names))

    def stage(self, encoded: Encoded) -> NDArray[np.int16]:
        """Rounds left: cards in a hand."""
        return np.bitwise_count(encoded[:, 0].view(np.uint16)).astype(np.int16)

    def sides(self, encoded: Encoded) -> NDArray[np.float64]:
        """Player 0 is team 0."""
        return np.tile([1.0, -1.0], (len(encoded), 1))

    def render(self, state: GopsState, viewer: int | None = None) -> str:
        """The table as text."""
        prize = f"prize {state.prize}" if state.prize else "no prize on the table"
        carried = f" (+{state.carry} carried)" if state.carry else ""
        lines = [f"{prize}{carried}, to come: {_listed(state.deck)}"]
        for player, hand, score in ((0, state.hand0, state.score0), (1, state.hand1, state.score1)):
            you = " (you)" if player == viewer else ""
            lines.append(f"player {player}{you}: {score} points, hand {_listed(hand)}")
        return "\n".join(lines)

    def _phase(self, state: GopsState) -> int:
        return BID if state.prize else DRAW if state.deck else OVER

    def _features(self, state: GopsState) -> list[float]:
        hand0, hand1 = state.hand0, state.hand1
        prizes = sorted((*state.deck, state.prize)) if state.prize else list(state.deck)
        sum0, sum1 = sum(hand0), sum(hand1)
        top = (hand0[-1] - hand1[-1]) if hand0 else 0
        pot = state.prize + state.carry if state.prize else state.carry
        remaining = sum(prizes) + state.carry
        share = (sum0 - sum1) / (sum0 + sum1) if hand0 else 0.0
        wins = sum((a > b) - (a < b) for a in hand0 for b in hand1)
        dominance = wins / (len(hand0) * len(hand1)) if hand0 else 0.0
        high = sum(2 * c > self.num_cards for c in hand0) - sum(2 * c > self.num_cards for c in hand1)
        matched = sum(p * ((a > b) - (a < b)) for p, a, b in zip(prizes, hand0, hand1, strict=False))
        lead = state.score0 - state.score1
        return [
            lead,
            sum0 - sum1,
            remaining * share,
            top,
            pot * _sign(top),
            remaining * dominance,
            pot * dominance,
            high,
            matched,
            state.carry * _sign(sum0 - sum1),
            lead * len(hand0),
            lead if abs(lead) > remaining else 0,
        ]


def _without(cards: tuple[int, ...], card: int) -> tuple[int, ...]:
    return tuple(c for c in cards if c != card)


def _sign(x: int) -> int:
    return (x > 0) - (x < 0)


def _mask(cards: tuple[int, ...]) -> int:
    return sum(1 << (c - 1) for c in cards)


@cache
def _cards(mask: int) -> tuple[int, ...]:
    return tuple(c for c in range(1, 17) if mask >> (c - 1) & 1)


def _listed(cards: Sequence[int]) -> str:
    return " ".join(map(str, cards)) or "none"
