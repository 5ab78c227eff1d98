"""Play games between seats: common random numbers, any seating, many games at once.

What happens in a game depends on its seed and who sits where, on nothing else: not on the other games of a call, so
calls may be split over processes at will, and not on whether the engine is compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evolvent.errors import ConfigError
from evolvent.methods.strategist.games.gops import Gops
from evolvent.methods.strategist.games.protocol import Encoded, Game, State, Values
from evolvent.methods.strategist.games.rng import keys_of
from evolvent.methods.strategist.search.evaluators import Evaluator, Rollouts, batch_values
from evolvent.methods.strategist.search.settings import SearchSettings

if TYPE_CHECKING:
    from evolvent.methods.strategist.belief_tables import BeliefTables

SEARCH, MOVE = 0, 1  # purposes of a seat's random streams


@dataclass(frozen=True, eq=False)
class Seat:
    """Someone who plays.

    Attributes:
        evaluator: of leaves; None plays at random.
        settings: of the search.
        tables: likelihoods of the belief, where something is hidden; None: hard logic only.
    """

    evaluator: Evaluator | None
    settings: SearchSettings = field(default_factory=SearchSettings)
    tables: BeliefTables | None = None


@dataclass(frozen=True)
class Replay:
    """States at which somebody chose between several actions, in the order of play.

    Attributes:
        game: index of the match, (rows,).
        states: encoded, (rows, fields); hidden parts are the true ones.
        search: what each player's search expected for that player, nan where he did not search, (rows, players).
        leaf: what his evaluator says about the state without search, nan for rollouts, (rows, players).
        actions: what was played, -1 for nothing, (rows, players).
    """

    game: NDArray[np.int64]
    states: Encoded
    search: Values
    leaf: Values
    actions: NDArray[np.int64]


@dataclass(frozen=True)
class Matches:
    """Results of games.

    Attributes:
        returns: (games, players).
        replay: states on the way, if they were recorded.
        finals: last state of each game with its whole history; empty for compiled GOPS.
    """

    returns: Values
    replay: Replay | None = None
    finals: tuple[State, ...] = ()


def play(
    game: Game,
    seats: Sequence[Seat],
    seating: NDArray[np.int64],
    seeds: NDArray[np.uint64],
    *,
    record: bool = False,
) -> Matches:
    """Play games to the end.

    Args:
        game: the rules.
        seats: who plays.
        seating: index into `seats` of each player, (games, players). One seat at several places searches once for all
            of them where everything is public.
        seeds: of each game's deal, chance and searches, (games,).
        record: keep the states.

    Raises:
        ConfigError: seating does not fit the game or the seats.
    """
    seating, seeds = np.asarray(seating, np.int64), np.asarray(seeds, np.uint64)
    if seating.shape != (len(seeds), game.num_players):
        raise ConfigError(f"seating must have shape ({len(seeds)}, {game.num_players}), got {seating.shape}")
    if len(seating) and not (seating.min() >= 0 and seating.max() < len(seats)):
        raise ConfigError(f"seating must hold indices of the {len(seats)} seats")
    if isinstance(game, Gops) and game.kernels():
        from evolvent.methods.strategist.search.gops_play import play_compiled

        return play_compiled(game, seats, seating, seeds, record)
    from evolvent.methods.strategist.search.in_step import play_in_step

    return play_in_step(game, seats, seating, seeds, record)


def play_pairs(game: Game, first: Seat, second: Seat, pairs: int, seed: int) -> Values:
    """Margins of `first` over `second` in pairs of games that differ only in who sits where, (pairs, 2).

    Column 0: `first` is all of team 0 (player 0 in GOPS, good in Avalon); column 1: all of team 1. Both games of a pair
    have the same deal and the same chance.
    """
    seeds = pair_seeds(seed, pairs)
    team = np.array([game.teams(game.initial(int(s))) for s in seeds]).reshape(pairs, game.num_players)
    seating = np.concatenate([(team != 0).astype(np.int64), (team == 0).astype(np.int64)])
    returns = play(game, [first, second], seating, np.concatenate([seeds, seeds])).returns
    ours = np.argmin(seating, axis=1)  # a player of `first`
    margins: Values = returns[np.arange(len(seating)), ours].reshape(2, pairs).T
    return margins


def pair_seeds(seed: int, pairs: int) -> NDArray[np.uint64]:
    """Seeds of the deals of `play_pairs`."""
    return keys_of(np.arange(pairs, dtype=np.uint64), seed)


def draw_move(policy: NDArray[np.float64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index of the action that a uniform number falls on, (...,) from policies (..., actions)."""
    behind = (np.cumsum(policy, -1) <= np.asarray(uniform)[..., None]).sum(-1)
    last = policy.shape[-1] - 1 - np.argmax(policy[..., ::-1] > 0, -1)  # rounding may leave the sum below 1
    drawn: NDArray[np.int64] = np.minimum(behind, last)
    return drawn


class Recorder:
    """Collects the rows of a replay."""

    def __init__(self, game: Game) -> None:
        self.width = (len(game.encoding), game.num_players)
        self.rows: list[tuple[Any, ...]] = []

    def add(self, game: Any, states: Encoded, search: Values, leaf: Values, actions: NDArray[np.int64]) -> None:
        """One or more rows; `game` holds their matches."""
        self.rows.append((np.atleast_1d(game), states, search, leaf, actions))

    def replay(self) -> Replay:
        """All rows, by match and then in the order of play."""
        fields, players = self.width
        empty = (np.zeros(0, np.int64), np.zeros((0, fields), np.int16), *[np.zeros((0, players))] * 2)
        columns = zip(*[(*empty, np.zeros((0, players), np.int64)), *self.rows], strict=True)
        joined = [np.concatenate(column) for column in columns]
        order = np.argsort(joined[0], kind="stable")
        return Replay(*(column[order] for column in joined))


def leaf_column(game: Game, seat: Seat, encoded: Encoded) -> Values:
    """What a seat's evaluator says about states, nan where only playouts would tell, (states, players)."""
    if seat.evaluator is None or isinstance(seat.evaluator, Rollouts):
        return np.full((len(encoded), game.num_players), np.nan)
    return batch_values(game, seat.evaluator, encoded)
