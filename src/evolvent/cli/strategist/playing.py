"""Commands that play: arena, play, serve."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from evolvent.cli.console import console
from evolvent.cli.strategist.options import (
    Beliefs,
    Budget,
    GameSettings,
    Player,
    Seed,
    agent_from,
    game_from,
    tables_from,
)
from evolvent.errors import ConfigError

if TYPE_CHECKING:
    from evolvent.methods.strategist.proposers.llm import Writer
    from evolvent.methods.strategist.table import Table as GameTable

Talk = Annotated[str | None, typer.Option("--talk", help="a model that speaks and listens for the agents (Avalon)")]
Save = Annotated[Path | None, typer.Option("--save", help="file of the game; one that is there goes on")]


def arena(
    players: Annotated[list[str], typer.Argument(help='two or more of: a run folder, "rollout", "random"')],
    game: Annotated[str | None, typer.Option("--game", help="if no folder says which")] = None,
    game_settings: GameSettings = None,
    budget: Budget = None,
    pairs: Annotated[int, typer.Option(min=1, help="game pairs of each match")] = 200,
    seed: Seed = 0,
) -> None:
    """A round robin with seats swapped and common deals: margins with intervals, and ratings."""
    import numpy as np

    from evolvent.evaluation.significance import bootstrap_interval
    from evolvent.methods.strategist.matches import play_pairs
    from evolvent.methods.strategist.ratings import Match, margin_ratings

    if len(set(players)) < 2 or len(set(players)) != len(players):
        raise ConfigError("arena: give at least two players, each once")
    played = game_from(game, game_settings) if game is not None else None
    if played is None:
        folders = [p for p in players if p not in ("rollout", "random")]
        if not folders:
            raise ConfigError("arena: say with --game what is played")
        played = agent_from(folders[0], None, budget).game
    seats = {p: agent_from(p, played, budget).seat for p in players}
    matches, table = [], Table("first", "second", "margin a game", "95 % interval")
    for first, second in itertools.combinations(players, 2):
        with console.status(f"{first} against {second}"):
            by_side = play_pairs(played, seats[first], seats[second], pairs, seed)
        matches.append(Match(first, second, by_side.mean(1), np.asarray(by_side)))
        found = bootstrap_interval(by_side.mean(1))
        table.add_row(first, second, f"{found.mean:+.2f}", f"{found.low:+.2f} – {found.high:+.2f}")
    console.print(table)
    rated = margin_ratings(matches, players)
    for player in sorted(players, key=lambda p: -rated[p]):
        console.print(
            f"{rated[player]:+.2f} ± {1.96 * rated.error(player):.2f}  {player}", highlight=False, soft_wrap=True
        )


def play(
    player: Player = "rollout",
    seat: Annotated[list[int] | None, typer.Option("--seat", help="your seat; more of them for more people")] = None,
    game: Annotated[str | None, typer.Option("--game", help="if the folder does not say which")] = None,
    game_settings: GameSettings = None,
    budget: Budget = None,
    beliefs: Beliefs = None,
    seed: Seed = 0,
    save: Save = None,
    talk: Talk = None,
) -> None:
    """Sit down at any seat, in the terminal; Ctrl-C leaves, and with --save the same command goes on."""
    from evolvent.methods.strategist import human

    table = _table(
        player, frozenset(seat if seat is not None else [0]), game, game_settings, budget, beliefs, seed, save, talk
    )
    console.print(f"{human.HELP}", highlight=False)
    human.play(table, input, lambda text: console.print(text, highlight=False, markup=False))


def serve(
    player: Player = "rollout",
    seat: Annotated[int | None, typer.Option("--seat", help="your seat; left out: watch")] = None,
    game: Annotated[str | None, typer.Option("--game", help="if the folder does not say which")] = None,
    game_settings: GameSettings = None,
    budget: Budget = None,
    beliefs: Beliefs = None,
    seed: Seed = 0,
    save: Save = None,
    talk: Talk = None,
    port: Annotated[int, typer.Option(help="on 127.0.0.1; 0 takes a free one")] = 8422,
) -> None:
    """The same table as a web page, to play or to watch."""
    from evolvent.methods.strategist.web_table import make_server

    people = frozenset([seat]) if seat is not None else frozenset()
    server = make_server(_table(player, people, game, game_settings, budget, beliefs, seed, save, talk), seat, port)
    console.print(f"http://127.0.0.1:{server.server_address[1]}/   (Ctrl-C ends)", highlight=False)
    try:
        server.serve_forever()
    finally:
        server.server_close()


def _table(
    player: str, people: frozenset[int], game: str | None, settings: list[str] | None, budget: int | None,
    beliefs: Path | None, seed: int, save: Path | None, talk: str | None,
) -> GameTable:  # fmt: skip
    from evolvent.methods.strategist.table import Table as GameTable

    tables = tables_from(beliefs)
    if game is None and player in ("rollout", "random"):
        game = "gops"
    agent = agent_from(player, game_from(game, settings) if game is not None else None, budget, tables)
    table = GameTable(agent.game, agent, people, seed=seed, save=save, tables=tables, writer=_writer(talk))
    if save is not None and save.is_file():
        table.resume(save)
    return table


def _writer(model: str | None) -> Writer | None:
    from evolvent import StrategistConfig, load
    from evolvent.methods.strategist.proposers.llm import Budget as Spent
    from evolvent.methods.strategist.proposers.llm import Writer

    return Writer(load(model), StrategistConfig(output_dir=Path()), Spent(None)) if model is not None else None
