"""Do dialogue guides get better? Avalon with 5 players, three seeds a role, typed acts; the embedded model as coach.

python -m benchmarks.strategist.guides            typed acts: no language model
python -m benchmarks.strategist.guides embedded   probe the embedded SmolLM2-135M, fall back by name, evolve
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results_file import record
from evolvent import Strategist, StrategistConfig, make_game
from evolvent.evaluation.significance import bootstrap_interval

ROLES = ("merlin", "good", "evil")
SEEDS = (0, 1, 2)


def learnt(folder: str, model: str | None, **settings: Any) -> Strategist:
    args = StrategistConfig(output_dir=Path(folder), skill_kind="guide", games_per_pair=16, final_games=200, **settings)
    method = Strategist(model, make_game("avalon", num_players=5), args=args)
    method.run()
    return method


def typed() -> list[dict[str, Any]]:
    rows = []
    for role in ROLES:
        margins: dict[str, list[np.ndarray]] = {}
        answers = []
        for seed in SEEDS:
            with tempfile.TemporaryDirectory() as folder:
                method = learnt(folder, None, guide_role=role, seed=seed, evolutions=4)
            answers.append(str(method.memory.tree.best.skill))
            for key in ("best-vs-seed", "best-vs-silence", "seed-vs-silence"):
                unchanged = [[0.0, 0.0]] * 200  # the seed stayed the best
                margins.setdefault(key, []).append(np.array(method.final.get(key, unchanged)).mean(1))
        for key, per_seed in margins.items():
            interval = bootstrap_interval(np.array(per_seed))
            rows.append({
                "claim": f"guides: {role}, {key}", "value": interval.mean, "unit": "z, from -2 to 2",
                "comparator": "the same scenes", "comparator_value": 0.0, "ci95": [interval.low, interval.high],
                "n": 200, "seeds": list(SEEDS), "per_seed": [float(m.mean()) for m in per_seed], "guides": answers,
            })  # fmt: skip
    return rows


def embedded() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        method = learnt(folder, "embedded", evolutions=1)
    probe = method.probe
    assert probe is not None
    by_model = sum(n.proposer.startswith("llm") for n in method.memory.tree.nodes.values())
    told = {"comparator": "gate", "proposer": method.proposer.name}
    return [
        {"claim": "guides: readable idea lists of the embedded model", "value": probe.ideas, "unit": "share", **told,
         "comparator_value": 0.8, "n": 5},
        {"claim": "guides: answers of the embedded model as a listener that can be read", "value": probe.listener_json,
         "unit": "share", **told, "comparator_value": 0.8, "n": 40},
        {"claim": "guides: right signs of the embedded model as a listener", "value": probe.listener_sign,
         "unit": "share", **told, "comparator_value": 0.65, "n": 40},
        {"claim": "guides: guides attributed to the embedded model", "value": by_model,
         "unit": f"of {len(method.memory.tree)}", **told, "comparator_value": 0},
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="typed", choices=["typed", "embedded"])
    what = parser.parse_args().what
    command = f"python -m benchmarks.strategist.guides {what}"
    record("strategist", typed() if what == "typed" else embedded(), command)


if __name__ == "__main__":
    main()
