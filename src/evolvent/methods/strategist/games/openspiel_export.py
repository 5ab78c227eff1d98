"""The games of this library as Python games of OpenSpiel: `register()`, then `pyspiel.load_game("evolvent_gops")`."""

from __future__ import annotations

from functools import cache
from typing import Any

from evolvent.methods.strategist.games.avalon import Avalon, AvalonState
from evolvent.methods.strategist.games.gops import Gops
from evolvent.methods.strategist.games.openspiel import PASS, spiel_module
from evolvent.methods.strategist.games.protocol import CHANCE

GOPS_PARAMETERS: dict[str, Any] = {"num_cards": 13, "ties": "carry", "win_loss": False}
AVALON_PARAMETERS: dict[str, Any] = {
    "num_players": 5,
    "roles": "",
    "fifth": "evil_wins",
}  # roles: names with "+" between


@cache
def register() -> tuple[str, ...]:
    """Make `evolvent_gops` and `evolvent_avalon` known to OpenSpiel, once; returns their names.

    Avalon's deal is its first chance node (an assignment and a leader); a player who does not act while others do has
    the one action 0. Speech has no place there.
    """
    module = spiel_module()
    kind = module.GameType

    def game_type(name: str, title: str, hidden: bool, players: tuple[int, int], parameters: dict[str, Any]) -> Any:
        known = kind.Information.IMPERFECT_INFORMATION if hidden else kind.Information.PERFECT_INFORMATION
        return kind(
            short_name=name,
            long_name=title,
            dynamics=kind.Dynamics.SIMULTANEOUS,
            chance_mode=kind.ChanceMode.EXPLICIT_STOCHASTIC,
            information=known,
            utility=kind.Utility.GENERAL_SUM if hidden else kind.Utility.ZERO_SUM,
            reward_model=kind.RewardModel.TERMINAL,
            min_num_players=players[0],
            max_num_players=players[1],
            provides_information_state_string=True,
            provides_information_state_tensor=False,
            provides_observation_string=True,
            provides_observation_tensor=False,
            parameter_specification=parameters,
        )

    gops = game_type("evolvent_gops", "Evolvent GOPS", False, (2, 2), GOPS_PARAMETERS)
    avalon = game_type("evolvent_avalon", "Evolvent Avalon", True, (5, 10), AVALON_PARAMETERS)

    class State(module.State):  # type: ignore[misc,name-defined]
        """A state of one of our games, changed in place as OpenSpiel wants it."""

        def __init__(self, spiel: Any) -> None:
            super().__init__(spiel)
            self.ours = spiel.ours
            self.state: Any = None if isinstance(self.ours, Avalon) else self.ours.initial()

        def current_player(self) -> int:
            """Who moves."""
            if self.state is None:
                return int(module.PlayerId.CHANCE)
            actors = self.ours.actors(self.state)
            if not actors:
                return int(module.PlayerId.TERMINAL)
            if actors == (CHANCE,):
                return int(module.PlayerId.CHANCE)
            alone = len(actors) == 1 and isinstance(self.ours, Avalon)
            return int(actors[0]) if alone else int(module.PlayerId.SIMULTANEOUS)

        def _legal_actions(self, player: int) -> list[int]:
            return list(self.ours.legal(self.state, player)) or [PASS]

        def chance_outcomes(self) -> list[tuple[int, float]]:
            """Prizes, or all deals."""
            if self.state is None:
                deals = len(self.ours.role_set.assignments) * self.ours.num_players
                return [(deal, 1 / deals) for deal in range(deals)]
            return list(self.ours.chance(self.state))

        def _apply_action(self, action: int) -> None:
            if self.state is None:
                deal, leader = divmod(action, self.ours.num_players)
                roles = tuple(int(role) for role in self.ours.role_set.assignments[deal])
                self.state = AvalonState(roles, leader)
                return
            self.state = self.ours.step(self.state, {self.ours.actors(self.state)[0]: action})

        def _apply_actions(self, actions: list[int]) -> None:
            self.state = self.ours.step(self.state, {p: actions[p] for p in self.ours.actors(self.state)})

        def _action_to_string(self, player: int, action: int) -> str:
            return f"{'chance' if player < 0 else player}:{action}"

        def is_terminal(self) -> bool:
            """Whether the game is over."""
            return self.state is not None and not self.ours.actors(self.state)

        def returns(self) -> list[float]:
            """Results so far."""
            if self.state is None:
                return [0.0] * self.ours.num_players
            return [float(x) for x in self.ours.returns(self.state)]

        def information_state_string(self, player: int) -> str:
            """All that a player knows."""
            return "" if self.state is None else str(self.ours.info(self.state, player))

        def observation_string(self, player: int) -> str:
            """The table as a player sees it."""
            return "" if self.state is None else str(self.ours.render(self.state, player))

        def __str__(self) -> str:
            return "deal" if self.state is None else str(self.ours.render(self.state, None))

    def game_class(kind_of_game: Any, build: Any) -> Any:
        class Game(module.Game):  # type: ignore[misc,name-defined]
            """One of our games."""

            def __init__(self, parameters: dict[str, Any] | None = None) -> None:
                settings = {**kind_of_game.parameter_specification, **(parameters or {})}
                self.ours = build(settings)
                super().__init__(kind_of_game, _game_info(module, self.ours), parameters or {})

            def new_initial_state(self) -> Any:
                """The start."""
                return State(self)

        return Game

    module.register_game(gops, game_class(gops, lambda settings: Gops(**settings)))
    module.register_game(avalon, game_class(avalon, _avalon))
    return "evolvent_gops", "evolvent_avalon"


def _avalon(settings: dict[str, Any]) -> Avalon:
    roles = [role for role in settings["roles"].split("+") if role]
    return Avalon(settings["num_players"], roles, settings["fifth"], discussion_rounds=0)


def _game_info(module: Any, ours: Gops | Avalon) -> Any:
    if isinstance(ours, Gops):
        most = 1.0 if ours.win_loss else ours.num_cards * (ours.num_cards + 1) / 2
        return module.GameInfo(
            num_distinct_actions=ours.num_cards + 1,
            max_chance_outcomes=ours.num_cards + 1,
            num_players=2,
            min_utility=-most,
            max_utility=most,
            utility_sum=0.0,
            max_game_length=ours.num_cards,
        )
    return module.GameInfo(
        num_distinct_actions=1 << ours.num_players,
        max_chance_outcomes=len(ours.role_set.assignments) * ours.num_players,
        num_players=ours.num_players,
        min_utility=-1.0,
        max_utility=1.0,
        utility_sum=None,
        max_game_length=5 * (2 * 5 + 1) + 1,
    )
