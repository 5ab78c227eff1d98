"""What a search asks about a leaf: a batch of states in, a value for each player out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evolvent.errors import ConfigError
from evolvent.methods.strategist.games.protocol import CHANCE, Encoded, Game, State, Values, draw_outcome
from evolvent.methods.strategist.games.rng import Stream

ALWAYS = (0, 99)  # a gate that is open at every stage


class Term(NamedTuple):
    """`weight · f[feature] · |f[times]|`, counted where `gate[0] <= stage <= gate[1]`; `times` -1 is no factor.

    The absolute value keeps a product of two antisymmetric features antisymmetric.
    """

    weight: float
    feature: int
    times: int = -1
    gate: tuple[int, int] = ALWAYS


@dataclass(frozen=True)
class LinearProgram:
    """A weighted sum of feature expressions that runs inside the compiled search.

    Its value is that of player 0's team; the other team gets its negative.

    Attributes:
        terms: see :class:`Term`.
        bias: added where the game is not antisymmetric.
        bound: the value is clipped to ±bound.
    """

    terms: tuple[Term, ...]
    bias: float = 0.0
    bound: float = float("inf")

    def arrays(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Weights (terms + 2,), the last two being bias and bound, and columns feature, times, low, high (terms, 4)."""
        weights = np.array([*(t.weight for t in self.terms), self.bias, self.bound], np.float64)
        columns = [(t.feature, t.times, *t.gate) for t in self.terms]
        return weights, np.array(columns, np.int64).reshape(len(columns), 4)


@dataclass(frozen=True)
class Rollouts:
    """The mean result of `count` games played at random to the end."""

    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"rollouts: count must be at least 1, got {self.count}")


@dataclass(frozen=True)
class Zero:
    """Knows nothing: every leaf is worth 0. What search alone can do."""


# Anything else that maps (B, fields) encoded states to (B, players) values, e.g. a sandboxed code skill or a net.
Batch = Callable[[Encoded], Values]
Evaluator = LinearProgram | Rollouts | Zero | Batch


def program(game: Game, weights: Sequence[float] | dict[str, float], bound: float = float("inf")) -> LinearProgram:
    """A linear program from one weight per feature, in order or by name.

    Raises:
        ConfigError: a name that the game has no feature of, or a wrong number of weights.
    """
    names = game.feature_names
    if isinstance(weights, dict):
        if unknown := set(weights) - set(names):
            raise ConfigError(f"{game.name} has no feature {sorted(unknown)}; it has {', '.join(names)}")
        weights = [weights.get(name, 0.0) for name in names]
    if len(weights) != len(names):
        raise ConfigError(f"{game.name} has {len(names)} features, got {len(weights)} weights")
    return LinearProgram(tuple(Term(float(w), i) for i, w in enumerate(weights) if w), bound=bound)


def leaf_values(game: Game, evaluator: Evaluator, state: State, stream: Stream) -> list[float]:
    """Value of one state that is not terminal, for each player."""
    if isinstance(evaluator, Zero):
        return [0.0] * game.num_players
    if isinstance(evaluator, Rollouts):
        total = [0.0] * game.num_players
        for _ in range(evaluator.count):
            total = [t + float(v) for t, v in zip(total, playout(game, state, stream), strict=True)]
        return [t / evaluator.count for t in total]
    return [float(v) for v in batch_values(game, evaluator, game.encode([state]))[0]]


def batch_values(game: Game, evaluator: LinearProgram | Zero | Batch, encoded: Encoded) -> Values:
    """Values of encoded states, (states, players).

    Raises:
        ConfigError: an evaluator of another shape, or with values that are not finite.
    """
    if isinstance(evaluator, Zero):
        return np.zeros((len(encoded), game.num_players))
    if isinstance(evaluator, LinearProgram):
        return _run_program(game, evaluator, encoded)
    values = np.asarray(evaluator(encoded), np.float64)
    if values.shape != (len(encoded), game.num_players) or not np.isfinite(values).all():
        raise ConfigError(
            f"a leaf evaluator must return finite values of shape ({len(encoded)}, {game.num_players}), "
            f"got {values.shape}"
        )
    return values


def playout(game: Game, state: State, stream: Stream) -> Values:
    """Returns after everyone acts at random to the end."""
    while actors := game.actors(state):
        if actors[0] == CHANCE:
            state = game.step(state, {CHANCE: draw_outcome(game, state, stream)})
            continue
        options = {player: game.legal(state, player) for player in actors}
        state = game.step(state, {player: legal[stream.below(len(legal))] for player, legal in options.items()})
    return game.returns(state)


def _run_program(game: Game, evaluator: LinearProgram, encoded: Encoded) -> Values:
    features, stage = game.features(encoded), game.stage(encoded)
    total = np.full(len(encoded), 0.0 if game.antisymmetric else evaluator.bias)
    for term in evaluator.terms:  # in the order of the compiled form, so that sums round alike
        value = term.weight * features[:, term.feature].astype(np.float64)
        if term.times >= 0:
            value = value * np.abs(features[:, term.times].astype(np.float64))
        total = np.where((stage >= term.gate[0]) & (stage <= term.gate[1]), total + value, total)
    total = np.clip(total, -evaluator.bound, evaluator.bound)
    return by_player(game, encoded, total)


def by_player(game: Game, encoded: Encoded, value: NDArray[np.float64]) -> Values:
    """The value of team 0 as a value of each player: the other team gets its negative."""
    sides = game.sides(encoded)
    return value[:, None] * sides
