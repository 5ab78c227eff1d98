"""A4: the belief on 11,412 human games of Avalon, fitted on the first 70 % by date and tested on 1,500 later ones.

The games come from the public repository avalonlogs, which states no licence: the file is not part of this project.

python -m benchmarks.strategist.humans
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Any

import numpy as np

from benchmarks.results_file import ROOT, record
from evolvent.evaluation.significance import bootstrap_interval, mcnemar_exact, paired_bootstrap
from evolvent.methods.strategist.belief_scores import score_belief
from evolvent.methods.strategist.belief_tables import BeliefTables, GameRecord, fit_tables, read_logs
from evolvent.methods.strategist.games.avalon_rules import FIRST_EVIL

LOGS = ROOT.parent / "shared" / "data" / "strategist" / "avalon_human_games.jsonl.gz"
TESTED = 1500


def only_fails(tables: BeliefTables) -> BeliefTables:
    """The same tables with votes that say nothing."""
    return BeliefTables(tables.by, tables.fails, np.full_like(tables.approve, 0.5), tables.games)


def rows_of(games: Sequence[GameRecord]) -> list[dict[str, Any]]:
    """All rows of A4."""
    split = int(0.7 * len(games))
    past, later = games[:split], games[split : split + TESTED]
    tables = fit_tables(past)
    found = {
        "hard logic": score_belief(later, None),
        "and fails": score_belief(later, only_fails(tables)),
        "and votes": score_belief(later, tables),
    }
    counted = [(len(g.roles), sum(role >= FIRST_EVIL for role in g.roles)) for g in later]
    uniform = np.array([np.log(comb(n, evil)) for n, evil in counted])
    rows = []
    for name, ours in found.items():
        against = paired_bootstrap(uniform, ours.loss)
        interval = bootstrap_interval(ours.loss)
        told: dict[str, Any] = {"comparator": "uniform over sets", "comparator_value": float(uniform.mean())}
        told |= {"ci95": [interval.low, interval.high], "p_value": against.p_value, "n": len(ours.loss)}
        rows.append({"claim": f"A4: log-loss of the evil set, {name}", "value": float(ours.loss.mean()), **told})
        exact: dict[str, Any] = {
            "comparator": "hard logic",
            "comparator_value": float(found["hard logic"].named.mean()),
        }
        if name != "hard logic":
            exact["p_value"] = mcnemar_exact(found["hard logic"].named, ours.named)
        exact["n"] = len(ours.named)
        rows.append({"claim": f"A4: evil set named, {name}", "value": float(ours.named.mean()), **exact})
    ours = found["and votes"]
    rows.append(
        {
            "claim": "A4: Merlin named from votes alone",
            "value": float(ours.merlin.mean()),
            "comparator": "the human Assassins of these games",
            "comparator_value": float(ours.assassins.mean()),
            "p_value": mcnemar_exact(ours.assassins, ours.merlin),
            "n": len(ours.merlin),
            "chance": float(np.mean([1 / sum(r < FIRST_EVIL for r in g.roles) for g in later if g.target >= 0])),
        }
    )
    metrics = ours.metrics()
    for (quest, curve), pairs in zip(ours.calibration().items(), ours.evil_by_quest, strict=True):
        rows.append(
            {
                "claim": f"A4: calibration error of P(evil) after {quest}",
                "value": metrics[f"calibration_error/{quest.replace(' ', '_')}"],
                "n": len(pairs),
                "brier": float(((pairs[:, 0] - pairs[:, 1]) ** 2).mean()),
                "curve": curve,
            }
        )
    return rows


def main() -> None:
    if not LOGS.is_file():
        raise SystemExit(f"{LOGS} is not there: fetch the logs of avalonlogs first (docs/strategist.md)")
    record("strategist", rows_of(list(read_logs(LOGS))), "python -m benchmarks.strategist.humans")


if __name__ == "__main__":
    main()
