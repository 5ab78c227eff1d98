"""A4: the belief on 11,412 human games of Avalon, fitted on the first 70 % by date and tested on 1,500 later ones.

The games come from the public repository avalonlogs, which states no licence: the file is not part of this project.

python -m benchmarks.strategist.humans
"""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Sequence
from math import comb
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results_file import ROOT, record
from evolvent.evaluation.significance import bootstrap_interval, mcnemar_exact, paired_bootstrap
from evolvent.methods.strategist.belief import Belief
from evolvent.methods.strategist.belief_tables import BeliefTables, GameRecord, fit_tables, read_logs
from evolvent.methods.strategist.games.avalon import QuestResult
from evolvent.methods.strategist.games.avalon_rules import FIRST_EVIL, MERLIN, RoleSet

LOGS = ROOT.parent / "shared" / "data" / "strategist" / "avalon_human_games.jsonl.gz"
TESTED = 1500


def human_games(logs: Path = LOGS) -> list[GameRecord]:
    """All games, in the order of their dates."""
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "games.jsonl"
        plain.write_bytes(gzip.decompress(logs.read_bytes()))
        return list(read_logs(plain))


class OnPeople:
    """What a belief says about games whose roles are known.

    Attributes:
        loss: -ln P(the true set of evil players) at the end of each game, (games,).
        named: whether that set was the likeliest, (games,).
        by_quest: list of (P(evil), was evil) of each player after each quest.
        merlin: whether the likeliest Merlin was Merlin, for one who knows the evil, where an Assassin named somebody.
        people: whether that Assassin was right.
        chance: one in the number of good players.
    """

    def __init__(self, games: Sequence[GameRecord], tables: BeliefTables | None) -> None:
        sets: dict[tuple[int, ...], RoleSet] = {}
        loss, named, merlin, people, chance = [], [], [], [], []
        self.by_quest: list[list[tuple[float, bool]]] = [[] for _ in range(5)]
        for game in games:
            key = tuple(sorted(game.roles))
            belief = Belief(sets.setdefault(key, RoleSet.dealt(key)), tables)
            is_evil = [role >= FIRST_EVIL for role in game.roles]
            done = 0
            for i, event in enumerate(game.events, start=1):
                if isinstance(event, QuestResult):
                    belief.observe(game.events[:i])
                    self.by_quest[done] += list(zip(belief.evil_probability(), is_evil, strict=True))
                    done += 1
            belief.observe(game.events)
            truth = sum(1 << seat for seat, evil in enumerate(is_evil) if evil)
            found = belief.evil_sets()
            loss.append(-np.log(found[truth]))
            named.append(max(found, key=lambda mask: found[mask]) == truth)
            if game.target >= 0 and MERLIN in game.roles:
                merlin.append(game.roles[int(belief.merlin_given_evil(truth).argmax())] == MERLIN)
                people.append(game.roles[game.target] == MERLIN)
                chance.append(1 / is_evil.count(False))
        self.loss, self.named = np.array(loss), np.array(named)
        self.merlin, self.people, self.chance = np.array(merlin), np.array(people), np.array(chance)


def only_fails(tables: BeliefTables) -> BeliefTables:
    """The same tables with votes that say nothing."""
    return BeliefTables(tables.by, tables.fails, np.full_like(tables.approve, 0.5), tables.games)


def rows_of(games: Sequence[GameRecord]) -> list[dict[str, Any]]:
    """All rows of A4."""
    split = int(0.7 * len(games))
    past, later = games[:split], games[split : split + TESTED]
    tables = fit_tables(past)
    found = {
        "hard logic": OnPeople(later, None),
        "and fails": OnPeople(later, only_fails(tables)),
        "and votes": OnPeople(later, tables),
    }
    counted = [(len(g.roles), sum(role >= FIRST_EVIL for role in g.roles)) for g in later]
    uniform = np.array([np.log(comb(n, evil)) for n, evil in counted])
    rows = []
    for name, ours in found.items():
        against = paired_bootstrap(uniform, ours.loss)
        interval = bootstrap_interval(ours.loss)
        told = {"comparator": "uniform over sets", "comparator_value": float(uniform.mean())}
        told |= {"ci95": [interval.low, interval.high], "p_value": against.p_value, "n": len(ours.loss)}
        rows.append({"claim": f"A4: log-loss of the evil set, {name}", "value": float(ours.loss.mean()), **told})
        exact = {"comparator": "hard logic", "comparator_value": float(found["hard logic"].named.mean())}
        exact |= {"p_value": mcnemar_exact(found["hard logic"].named, ours.named), "n": len(ours.named)}
        rows.append({"claim": f"A4: evil set named, {name}", "value": float(ours.named.mean()), **exact})
    ours = found["and votes"]
    rows.append(
        {
            "claim": "A4: Merlin named from votes alone",
            "value": float(ours.merlin.mean()),
            "comparator": "the human Assassins of these games",
            "comparator_value": float(ours.people.mean()),
            "p_value": mcnemar_exact(ours.people, ours.merlin),
            "n": len(ours.merlin),
            "chance": float(ours.chance.mean()),
        }
    )
    for quest, pairs in enumerate(ours.by_quest, start=1):
        p, truth = np.array([x for x, _ in pairs]), np.array([y for _, y in pairs], float)
        bins = np.minimum((p * 10).astype(int), 9)
        curve = [
            [float(p[bins == b].mean()), float(truth[bins == b].mean()), int((bins == b).sum())] for b in set(bins)
        ]
        gap = sum(n * abs(said - was) for said, was, n in curve) / len(p)
        rows.append(
            {
                "claim": f"A4: calibration error of P(evil) after quest {quest}",
                "value": gap,
                "n": len(p),
                "brier": float(((p - truth) ** 2).mean()),
                "curve": curve,
            }
        )
    return rows


def main() -> None:
    if not LOGS.is_file():
        raise SystemExit(f"{LOGS} is not there: fetch the logs of avalonlogs first (docs/strategist.md)")
    record("strategist", rows_of(human_games()), "python -m benchmarks.strategist.humans")


if __name__ == "__main__":
    main()
