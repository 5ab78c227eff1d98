"""Any game of OpenSpiel as a game of this library (`pip install open_spiel`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolvent.errors import ConfigError
from evolvent.methods.strategist.games.protocol import CHANCE, Action, Encoded, check_actions

PASS = 0  # what OpenSpiel takes from a player who does not act while others do


def spiel_module() -> Any:
    """The module.

    Raises:
        ConfigError: OpenSpiel is not installed.
    """
    try:
        import pyspiel as module
    except ImportError as error:
        raise ConfigError("games of OpenSpiel need its wheel: pip install open_spiel") from error
    return module


class SpielState:
    """A state of OpenSpiel that is never changed; equal to another with the same history."""

    __slots__ = ("history", "spiel")

    def __init__(self, spiel: Any) -> None:
        self.spiel = spiel
        self.history: tuple[int, ...] = tuple(spiel.history())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SpielState) and self.history == other.history

    def __hash__(self) -> int:
        return hash(self.history)


class SpielGame:
    """A game of OpenSpiel; see :class:`~evolvent.methods.strategist.games.protocol.Game`.

    Every game can be played. Search needs perfect information, because OpenSpiel does not tell which hidden states an
    information state allows. An encoded state is its history of actions, -1 after the last.

    Args:
        spiel_name: a game string such as "goofspiel(num_cards=5)".

    Raises:
        ConfigError: OpenSpiel is missing, does not know the game, or samples chance without telling probabilities.
    """

    feature_names: tuple[str, ...] = ()
    antisymmetric = False

    def __init__(self, spiel_name: str) -> None:
        module = spiel_module()
        try:
            self.spiel = module.load_game(spiel_name)
        except module.SpielError as error:
            raise ConfigError(f"openspiel:{spiel_name}: {str(error).splitlines()[0]}") from error
        kind = self.spiel.get_type()
        if kind.chance_mode == module.GameType.ChanceMode.SAMPLED_STOCHASTIC:
            raise ConfigError(f"openspiel:{spiel_name}: it samples chance by itself, so games would not be repeatable")
        self.hidden = kind.information != module.GameType.Information.PERFECT_INFORMATION
        self.name = f"openspiel:{spiel_name}"
        self.settings: Mapping[str, Any] = {}
        self.num_players = int(self.spiel.num_players())
        self.encoding = tuple(f"action{i}" for i in range(self.spiel.max_history_length()))

    def initial(self, seed: int = 0) -> SpielState:
        """OpenSpiel deals by chance nodes, so `seed` does not matter."""
        return SpielState(self.spiel.new_initial_state())

    def actors(self, state: SpielState) -> tuple[int, ...]:
        """Chance, the one to move, or all who have a choice at once."""
        spiel = state.spiel
        if spiel.is_terminal():
            return ()
        if spiel.is_chance_node():
            return (CHANCE,)
        if spiel.is_simultaneous_node():
            return tuple(player for player in range(self.num_players) if spiel.legal_actions(player))
        return (int(spiel.current_player()),)

    def phase(self, state: SpielState) -> str:
        """ "chance", "move" or "over"."""
        actors = self.actors(state)
        return "over" if not actors else "chance" if actors[0] == CHANCE else "move"

    def legal(self, state: SpielState, player: int) -> tuple[Action, ...]:
        """OpenSpiel's action numbers."""
        if player not in self.actors(state):
            return ()
        if player == CHANCE:
            return tuple(outcome for outcome, _ in state.spiel.chance_outcomes())
        return tuple(sorted(state.spiel.legal_actions(player)))

    def chance(self, state: SpielState) -> tuple[tuple[Action, float], ...]:
        """Outcomes with their probabilities."""
        return tuple(state.spiel.chance_outcomes()) if state.spiel.is_chance_node() else ()

    def step(self, state: SpielState, actions: Mapping[int, Action]) -> SpielState:
        """A copy of the state with the actions applied."""
        check_actions(self, state, actions)
        after = state.spiel.clone()
        if state.spiel.is_simultaneous_node():
            after.apply_actions([actions.get(player, PASS) for player in range(self.num_players)])
        else:
            after.apply_action(next(iter(actions.values())))
        return SpielState(after)

    def returns(self, state: SpielState) -> NDArray[np.float64]:
        """OpenSpiel's returns at the end."""
        done = state.spiel.is_terminal()
        return np.array(state.spiel.returns() if done else [0.0] * self.num_players)

    def teams(self, state: SpielState) -> tuple[int, ...]:
        """Each for himself."""
        return tuple(range(self.num_players))

    def info(self, state: SpielState, player: int) -> Any:
        """The state, or OpenSpiel's information state where something is hidden."""
        return (player, state.spiel.information_state_string(player)) if self.hidden else state

    def assignments(self, info: Any) -> Sequence[None]:
        """Nothing, where nothing is hidden.

        Raises:
            ConfigError: something is.
        """
        if self.hidden:
            raise ConfigError(f"{self.name} hides information, and OpenSpiel cannot list what is hidden")
        return (None,)

    def complete(self, info: Any, assignment: None) -> SpielState:
        """The state itself, where nothing is hidden."""
        self.assignments(info)
        state: SpielState = info
        return state

    def speakers(self, state: SpielState) -> tuple[int, ...]:
        """Nobody talks."""
        return ()

    def encode(self, states: Sequence[SpielState]) -> Encoded:
        """Histories, (states, longest history)."""
        rows = np.full((len(states), len(self.encoding)), -1, np.int16)
        for row, state in zip(rows, states, strict=True):
            row[: len(state.history)] = state.history
        return rows

    def view(self, row: Sequence[int]) -> dict[str, Any]:
        """The history and OpenSpiel's text of the state."""
        history = [int(action) for action in row if action >= 0]
        spiel = self.spiel.new_initial_state()
        while len(spiel.history()) < len(history):
            left = history[len(spiel.history()) :]
            if spiel.is_simultaneous_node():
                spiel.apply_actions(left[: self.num_players])
            else:
                spiel.apply_action(left[0])
        return {"history": history, "text": str(spiel)}

    def features(self, encoded: Encoded) -> NDArray[np.float32]:
        """There is no feature library for games of others."""
        return np.zeros((len(encoded), 0), np.float32)

    def stage(self, encoded: Encoded) -> NDArray[np.int16]:
        """Actions that the longest game would still have."""
        left: NDArray[np.int16] = (len(self.encoding) - (encoded >= 0).sum(1)).astype(np.int16)
        return left

    def sides(self, encoded: Encoded) -> NDArray[np.float64]:
        """Player 0 against the others."""
        return np.tile([1.0, *[-1.0] * (self.num_players - 1)], (len(encoded), 1))

    def render(self, state: SpielState, viewer: int | None = None) -> str:
        """OpenSpiel's text: all of it, or what the viewer may know."""
        if viewer is None or not self.hidden:
            return str(state.spiel)
        return str(state.spiel.information_state_string(viewer))


def describe(spiel_name: str) -> dict[str, Any]:
    """What a game of OpenSpiel is, and whether it can be searched here."""
    game = SpielGame(spiel_name)
    kind = game.spiel.get_type()
    return {
        "game": game.name,
        "title": kind.long_name,
        "players": game.num_players,
        "dynamics": kind.dynamics.name.lower(),
        "information": kind.information.name.lower(),
        "longest_history": len(game.encoding),
        "returns": [game.spiel.min_utility(), game.spiel.max_utility()],
        "searchable": not game.hidden,
    }
