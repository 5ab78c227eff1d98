"""Commands that learn: run, probe, rl, fit-beliefs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from evolvent.cli.console import console, progress
from evolvent.cli.options import ConfigFile, Out, Rerun, Resume, Settings, settings_from
from evolvent.cli.strategist.options import Budget, GameName, GameSettings, Seed, game_from

ModelOption = Annotated[
    str | None,
    typer.Option("--model", help='who writes skills: "embedded", folder, hub id, endpoint:NAME@URL; none: no LLM'),
]


class Learner(StrEnum):
    """Kinds of reinforcement learning."""

    ridge = "ridge"
    paper = "valuenet-paper"
    strong = "valuenet-strong"


def run(
    out: Out,
    game: GameName = "gops",
    game_settings: GameSettings = None,
    model: ModelOption = None,
    config: ConfigFile = None,
    settings: Settings = None,
    resume: Resume = True,
    rerun: Rerun = False,
) -> None:
    """Everything: choose who has ideas, seed, evolve, measure on fresh deals, report."""
    from evolvent import Strategist, StrategistConfig

    given: dict[str, Any] = {"output_dir": out, **({"on_config_change": "rerun"} if rerun else {})}
    args = settings_from(StrategistConfig, config, settings, given)
    with progress() as on_progress:
        method = Strategist(model, game_from(game, game_settings), args=args, on_progress=on_progress)
        result = method.run(resume=resume)
    table = Table(
        "on fresh deals", "margin a game", "95 % interval", caption=f"ideas by {result.proposer}", caption_style="dim"
    )
    for key in method.final:
        mean, low, high = method.interval(key)
        table.add_row(key.replace("-", " "), f"{mean:+.2f}", f"{low:+.2f} – {high:+.2f}")
    console.print(table)
    console.print(f"{result.node.id}\n{result.best}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"agent   {result.agent}\nreport  {result.report_path}", soft_wrap=True, highlight=False)


def probe(
    model: Annotated[str, typer.Argument(help='"embedded", folder, hub id, .gguf or endpoint:NAME@URL')],
    game: GameName = "gops",
    game_settings: GameSettings = None,
    settings: Settings = None,
) -> None:
    """What a model can do for this method: write code, have ideas, rank edits, listen."""
    from evolvent import StrategistConfig, load
    from evolvent.methods.strategist.probe import run_probe

    args = settings_from(StrategistConfig, None, settings, {"output_dir": Path()})
    with console.status(f"probing {model}"):
        found = run_probe(load(model), game_from(game, game_settings), args)
    console.print(found.summary(), soft_wrap=True, highlight=False)
    for reason in found.code_errors:
        console.print(f"  code refused: {reason}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"proposer with auto: {found.unlocks}", highlight=False)


def rl(
    learner: Annotated[Learner, typer.Argument(help="what learns")],
    game: GameName = "gops",
    game_settings: GameSettings = None,
    budget: Budget = None,
    episodes: Annotated[int, typer.Option(min=1, help="games of self-play")] = 320,
    pairs: Annotated[int, typer.Option(min=1, help="game pairs of the measurement")] = 500,
    seed: Seed = 0,
) -> None:
    """A baseline: learn a value by regression or a network, and measure it against one playout a leaf."""
    from evolvent.evaluation.significance import bootstrap_interval
    from evolvent.methods.strategist.baselines.learning import ridge
    from evolvent.methods.strategist.matches import Seat, play_pairs
    from evolvent.methods.strategist.search.evaluators import Evaluator, Rollouts
    from evolvent.methods.strategist.search.settings import SearchSettings

    played, search = game_from(game, game_settings), SearchSettings(budget=budget or 32, move="visits")
    with console.status(f"{learner.value}: {episodes} games"):
        value: Evaluator
        if learner is Learner.ridge:
            program = ridge(played, search, episodes=episodes, seed=seed)
            console.print(str(program), highlight=False)
            value = program.evaluator(played)
        else:
            from evolvent.methods.strategist.baselines.value_net import value_net

            setting: Any = learner.value.removeprefix("valuenet-")
            value = value_net(played, search, setting=setting, episodes=episodes, seed=seed)
        margins = play_pairs(played, Seat(value, search), Seat(Rollouts(1), search), pairs, seed + 1).mean(1)
    found = bootstrap_interval(margins)
    console.print(
        f"{learner.value} against one playout a leaf: {found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}] a game",
        highlight=False,
    )


def fit_beliefs(
    logs: Annotated[Path, typer.Argument(help="games of Avalon, JSONL, also gzipped")],
    out: Annotated[Path, typer.Option("--out", help="file for the tables")],
    by: Annotated[str, typer.Option(help="voters are told apart by: side or role")] = "role",
) -> None:
    """Fit how votes and fails depend on roles, from logs of games."""
    from evolvent.errors import ConfigError
    from evolvent.methods.strategist.belief_scores import score_belief
    from evolvent.methods.strategist.belief_tables import fit_tables, read_logs

    if by not in ("side", "role"):
        raise ConfigError(f"--by {by}: give side or role")
    records = list(read_logs(logs))
    cut = int(0.7 * len(records))
    if not 0 < cut < len(records):
        raise ConfigError(
            f"{logs}: {len(records)} games; at least 2 are needed, to fit on the first and to test on the last"
        )
    tables, rest = fit_tables(records[:cut], by=by), records[cut:]  # type: ignore[arg-type]
    out.parent.mkdir(parents=True, exist_ok=True)
    tables.save(out)
    table = Table(f"on the last {len(rest)} games", "fitted tables", "hard logic alone")
    plain = score_belief(rest, None).metrics()
    for name, value in score_belief(rest, tables).metrics().items():
        table.add_row(name, f"{value:.3f}", f"{plain[name]:.3f}")
    console.print(table)
    console.print(f"{cut} games fitted; tables  {out}", soft_wrap=True, highlight=False)
