"""Commands that look at what was learnt: show, ideas, replay, exploit, export, import-openspiel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from evolvent.cli.console import console, shortened
from evolvent.cli.strategist.options import (
    Budget,
    GameName,
    GameSettings,
    Player,
    RunFolder,
    Seed,
    agent_from,
    game_from,
)
from evolvent.errors import ConfigError, DataError


def show(
    folder: RunFolder,
    skill: Annotated[str | None, typer.Argument(help="id such as s12; the best one if left out")] = None,
) -> None:
    """A skill in full, how it came about, and how it becomes moves."""
    from evolvent.methods.strategist.agent import read_agent
    from evolvent.methods.strategist.search.settings import SearchSettings
    from evolvent.methods.strategist.skills import skill_from

    if skill is None:
        agent = read_agent(folder)
        console.print(str(skill_from(agent.skill)), highlight=False, markup=False)
        table = Table("skill", "rating", "by", "idea")
        for step in agent.lineage:
            table.add_row(step["id"], f"{step['score']:+.2f}", step["proposer"], step["idea"] or "given")
        console.print(table)
        if agent.skill["kind"] in ("guide", "acts"):
            console.print("It says how to talk; moves are taken by search over the seed skill.", highlight=False)
            return
        search = SearchSettings(**agent.search)
        budget, selection = search.budget, search.resolved(agent.game == "avalon")
        console.print(
            f"A move: {budget} simulations of tree search ({selection}) ask this skill about every leaf; the move is "
            f"then taken by {search.move}. The game: {agent.game} {agent.settings}.",
            highlight=False,
        )
        return
    node = _read(folder / "skills" / f"{skill}.json", f"no skill {skill} in {folder}")
    if node["skill"] is not None:
        console.print(str(skill_from(node["skill"])), highlight=False, markup=False)
    for name in ("parent", "idea", "evolution", "proposer", "score", "error", "failed", "notes"):
        console.print(f"{name}: {node[name]}", highlight=False, markup=False)


def ideas(folder: RunFolder, k: Annotated[int, typer.Option("-k", help="how many")] = 20) -> None:
    """The idea queue by credit."""
    from evolvent.data.files import read_jsonl

    if not (folder / "ideas.jsonl").is_file():
        raise DataError(f"{folder}: no ideas.jsonl; this is not a finished run")
    rows = sorted((row for _, row in read_jsonl(folder / "ideas.jsonl")), key=lambda d: (-d["score"], -d["tries"]))
    table = Table("idea", "credit", "tries", "from", "text")
    for row in rows[:k]:
        table.add_row(row["id"], f"{row['score']:+.2f}", str(row["tries"]), row["source"], shortened(row["text"], 110))
    console.print(table)


def replay(folder: RunFolder) -> None:
    """Play the final games of a run again from their seeds: are its figures true?"""
    import numpy as np
    import yaml

    from evolvent.methods.strategist.config import StrategistConfig
    from evolvent.methods.strategist.games.rng import key_of
    from evolvent.methods.strategist.matches import play_pairs
    from evolvent.methods.strategist.strategist import FINAL
    from evolvent.methods.strategist.tournament import Player as Seated
    from evolvent.methods.strategist.tournament import seat_of

    agent = agent_from(str(folder), None, None)
    assert agent.file is not None
    if agent.guides:
        raise ConfigError(f"{folder}: replay is for skills that move; run the guide's command again in a new folder")
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    args = StrategistConfig.model_validate({k: v for k, v in stored.items() if k != "method"})
    path = next(iter(sorted((folder / "stages").glob("*-final/margins.json"))), folder / "margins.json")
    recorded = _read(path, f"{folder}: the run has not finished")
    seed = _read(folder / "skills" / "s0.json", f"{folder}: no seed skill")["skill"]
    players = {"best": json.dumps(agent.file.skill, sort_keys=True), "seed": json.dumps(seed, sort_keys=True),
               "rollout": "rollout", "random": "random"}  # fmt: skip
    different = 0
    for name, margins in recorded.items():
        who, _, whom = name.partition("-vs-")
        ours, theirs = [seat_of(agent.game, Seated(p, players[p]), args.search, args.limits) for p in (who, whom)]
        again = play_pairs(agent.game, ours, theirs, args.final_games, key_of(args.seed, FINAL) >> 1)
        same = np.array_equal(again, np.array(margins))
        different += not same
        console.print(f"{name}: {again.mean():+.3f} {'as' if same else 'NOT as'} recorded", highlight=False)
    if different:
        raise DataError(f"{folder}: {different} of {len(recorded)} matches differ from what was recorded")


def exploit(
    player: Player, game: GameName = "gops", game_settings: GameSettings = None, budget: Budget = None, seed: Seed = 0
) -> None:
    """Exact exploitability in GOPS of up to 5 cards; a skill that learnt more cards is put to the game given."""
    from evolvent.methods.strategist.agent import StrategistAgent, read_agent
    from evolvent.methods.strategist.exploitability import exploitability
    from evolvent.methods.strategist.search.settings import SearchSettings

    played = game_from(game, game_settings or (["num_cards=4"] if game == "gops" else None))
    skill = player
    if player not in ("rollout", "random"):
        file = read_agent(player)
        if file.game != played.name:
            raise ConfigError(f"{player} learnt {file.game}, which tells nothing about {played.name}")
        skill = json.dumps(file.skill, sort_keys=True)
    agent = StrategistAgent(played, skill, SearchSettings(budget=budget or 100))
    with console.status("best responses at every state"):
        found = exploitability(played, agent.seat, seed=seed)  # type: ignore[arg-type]
    console.print(
        f"a perfect opponent wins {found.value:.3f} points a game (as second {found.against_first:.3f}, as first "
        f"{found.against_second:.3f}; {found.states} states)",
        highlight=False,
    )


def export(
    folder: RunFolder,
    out: Annotated[Path, typer.Option("--out", help="file to write")],
) -> None:
    """The best skill as one file: code as Python where its name ends in .py, else JSON that an agent is loaded from."""
    from evolvent.data.files import write_text
    from evolvent.methods.strategist.agent import read_agent
    from evolvent.methods.strategist.skills import CodeSkill, skill_from

    agent = read_agent(folder)
    skill, python = skill_from(agent.skill), out.suffix == ".py"
    if python and not isinstance(skill, CodeSkill):
        raise ConfigError(
            f"{out}: only code is exported as Python, and this skill is a {skill.kind}; give a .json file"
        )
    content = f"{skill}\n" if python else agent.model_dump_json(indent=1) + "\n"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, content)
    console.print(f"{out}", soft_wrap=True, highlight=False)


def import_openspiel(
    name: Annotated[str, typer.Argument(help='a game string of OpenSpiel, such as "goofspiel(num_cards=4)"')],
) -> None:
    """What one of OpenSpiel's games is like here, and whether it can be played."""
    from evolvent.methods.strategist.games.openspiel import describe

    for key, value in describe(name).items():
        console.print(f"{key}: {value}", highlight=False, markup=False)
    console.print(
        f'play it with: evolvent strategist play rollout --game "openspiel:{name}"', soft_wrap=True, highlight=False
    )


def _read(path: Path, missing: str) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(missing)
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); the run that wrote it can write it again") from error
    return found
