"""What a search asks about a leaf: a batch of states in, a value for each player out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evolvent.errors import ConfigError
from evolvent.methods.strategist.games.protocol import Encoded, Game, Values

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
