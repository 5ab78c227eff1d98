"""Arguments that several commands of `evolvent strategist` share, and what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from evolvent.errors import ConfigError

if TYPE_CHECKING:
    from evolvent.methods.strategist.agent import StrategistAgent
    from evolvent.methods.strategist.belief_tables import BeliefTables
    from evolvent.methods.strategist.games.protocol import Game

GameName = Annotated[str, typer.Option("--game", help='"gops", "avalon" or "openspiel:NAME"')]
GameSettings = Annotated[
    list[str] | None, typer.Option("--game-set", help="KEY=VALUE of the game, such as num_cards=6")
]
Budget = Annotated[int | None, typer.Option("--budget", min=1, help="simulations for a move")]
Beliefs = Annotated[Path | None, typer.Option("--beliefs", help="tables that fit-beliefs wrote")]
Player = Annotated[str, typer.Argument(help='a run folder, its best/, "rollout" or "random"')]
RunFolder = Annotated[Path, typer.Argument(help="folder of a run")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="of deals, chance and searches")]


def game_from(name: str, settings: list[str] | None) -> Game:
    """The game of a command line."""
    from evolvent.methods.strategist.games.registry import make_game

    values: dict[str, Any] = {}
    for pair in settings or ():
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--game-set {pair}: expected KEY=VALUE, for example num_cards=6")
        values[key] = yaml.safe_load(value)
    return make_game(name, **values)


def tables_from(path: Path | None) -> BeliefTables | None:
    """Fitted tables of the belief."""
    from evolvent.methods.strategist.belief_tables import BeliefTables

    return BeliefTables.load(path) if path is not None else None


def agent_from(
    player: str, game: Game | None, budget: int | None, tables: BeliefTables | None = None
) -> StrategistAgent:
    """A player of a command line; a folder brings its own game.

    Raises:
        ConfigError: the folder's game is not the one that is played.
    """
    from evolvent.methods.strategist.agent import StrategistAgent
    from evolvent.methods.strategist.search.settings import SearchSettings

    if player in ("rollout", "random"):
        if game is None:
            raise ConfigError(f"{player} plays any game: say which one with --game")
        return StrategistAgent(game, player, SearchSettings(budget=budget or 32, move="visits"), tables=tables)
    agent = StrategistAgent.from_pretrained(player, budget=budget, tables=tables)
    if game is not None and (game.name, dict(game.settings)) != (agent.game.name, dict(agent.game.settings)):
        raise ConfigError(
            f"{player} learnt {agent.game.name} {dict(agent.game.settings)}, not {game.name} {dict(game.settings)}"
        )
    return agent
