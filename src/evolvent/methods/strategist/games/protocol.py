"""What a game is. Search, self-play, skills, belief and the human seat know games only through this."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from evolvent.errors import ConfigError, EvolventError
from evolvent.methods.strategist.games.rng import Stream

CHANCE = -1  # the "player" who draws cards

# A state is an immutable tuple that hashes and compares by value. Actions are ints whose meaning is the game's.
State = Any
Action = int
Encoded = NDArray[np.int16]  # (states, encoding fields)
Values = NDArray[np.float64]  # (states, players), in units of `returns`


class IllegalActionError(EvolventError):
    """A player who may not act acted, or the action is not among the legal ones. The state is unchanged."""

    def __init__(self, player: int, action: Any, phase: str, legal: Sequence[Action]) -> None:
        self.player, self.action, self.phase, self.legal = player, action, phase, tuple(legal)
        who = "chance" if player == CHANCE else f"player {player}"
        if legal:
            shown = ", ".join(map(str, self.legal[:20])) + (", …" if len(self.legal) > 20 else "")
            told = f"{who} may not play {action} in phase {phase!r}; legal: {shown}"
        else:
            told = f"{who} may not act in phase {phase!r}"
        super().__init__(told)


class Game(Protocol):
    """Rules of one game with its settings fixed; holds no state of its own.

    Attributes:
        name: as :func:`~evolvent.methods.strategist.games.registry.make_game` knows it.
        settings: what `make_game(name, **settings)` builds the same game from.
        num_players: seats, numbered from 0.
        encoding: names of the columns of `encode`.
        feature_names: names of the columns of `features`.
        antisymmetric: whether features are from seat 0's view and change sign when the two seats swap (then a linear
            value of seat 1 is minus that of seat 0); otherwise features are from the view of team 0.
    """

    name: str
    settings: Mapping[str, Any]
    num_players: int
    encoding: tuple[str, ...]
    feature_names: tuple[str, ...]
    antisymmetric: bool

    def initial(self, seed: int) -> State:
        """The first state; `seed` decides what is dealt before anyone acts."""
        ...

    def actors(self, state: State) -> tuple[int, ...]:
        """Who acts now, all at once; `(CHANCE,)` when something is drawn, empty when the game is over."""
        ...

    def legal(self, state: State, player: int) -> tuple[Action, ...]:
        """What `player` may play now, ascending; empty for one who is not an actor."""
        ...

    def chance(self, state: State) -> tuple[tuple[Action, float], ...]:
        """What may be drawn now, with probabilities; empty unless chance acts."""
        ...

    def step(self, state: State, actions: Mapping[int, Action]) -> State:
        """The next state after every actor has acted.

        Raises:
            IllegalActionError: an actor is missing, someone else acts, or an action is not legal.
        """
        ...

    def returns(self, state: State) -> NDArray[np.float64]:
        """Result for each player, (players,); zeros before the end."""
        ...

    def teams(self, state: State) -> tuple[int, ...]:
        """Team of each player; players of one team get the same return."""
        ...

    def info(self, state: State, player: int) -> Hashable:
        """All that `player` knows, public history included."""
        ...

    def assignments(self, info: Any) -> Sequence[Any]:
        """Hidden assignments that the private knowledge and the rules allow; `(None,)` if nothing is hidden."""
        ...

    def complete(self, info: Any, assignment: Any) -> State:
        """The full state in which `assignment` is what `info` does not tell."""
        ...

    def speakers(self, state: State) -> tuple[int, ...]:
        """Who still speaks before the next action, in order."""
        ...

    def phase(self, state: State) -> str:
        """Name of what happens now."""
        ...

    def encode(self, states: Sequence[State]) -> Encoded:
        """States as int16 rows, (states, len(encoding)): what leaf evaluators see."""
        ...

    def view(self, row: Sequence[int]) -> dict[str, Any]:
        """An encoded state as the plain dict that `evaluate_state(state)` of a code skill gets."""
        ...

    def features(self, encoded: Encoded) -> NDArray[np.float32]:
        """The feature library at encoded states, (states, len(feature_names))."""
        ...

    def stage(self, encoded: Encoded) -> NDArray[np.int16]:
        """How far from the end each state is, (states,): rounds or quests left. Programs are gated by it."""
        ...

    def sides(self, encoded: Encoded) -> NDArray[np.float64]:
        """+1 for players of team 0 and -1 for the others at encoded states, (states, players)."""
        ...

    def render(self, state: State, viewer: int | None) -> str:
        """The state as text, as `viewer` sees it; None sees everything."""
        ...


def check_whole(name: str, value: Any) -> None:
    """Raise ConfigError unless a setting is a whole number."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ConfigError(f"{name} must be a whole number, got {value!r}")


def check_actions(game: Game, state: State, actions: Mapping[int, Action]) -> None:
    """Raise IllegalActionError unless exactly the actors act, each legally."""
    actors = game.actors(state)
    phase = game.phase(state)
    for player in actions:
        if player not in actors:
            raise IllegalActionError(player, actions[player], phase, ())
    for player in actors:
        legal = game.legal(state, player)
        if player not in actions or actions[player] not in legal:
            raise IllegalActionError(player, actions.get(player), phase, legal)


def draw_outcome(game: Game, state: State, stream: Stream) -> Action:
    """An outcome of chance; equally likely ones take one integer draw."""
    outcomes = game.chance(state)
    if all(p == outcomes[0][1] for _, p in outcomes):
        return outcomes[stream.below(len(outcomes))][0]
    left = stream.uniform()
    for outcome, p in outcomes:
        left -= p
        if left < 0:
            return outcome
    return outcomes[-1][0]
