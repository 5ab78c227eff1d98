"""Do skills get better, and than what? Acceptance A1 on GOPS with 6 cards, at equal simulations.

python -m benchmarks.strategist.evolve            five seeds of residual, its half-and-half target, and the control
python -m benchmarks.strategist.evolve rl         ridge and value nets on 320 episodes, two seeds, against the skills
python -m benchmarks.strategist.evolve remedies   what might put residual ahead: the same change to both proposers
python -m benchmarks.strategist.evolve duels      the skills that are known so far, each pair of a seed at one table
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results_file import record
from evolvent import Strategist, StrategistConfig, make_game
from evolvent.evaluation.significance import bootstrap_interval, paired_bootstrap
from evolvent.methods.strategist.baselines.learning import ridge
from evolvent.methods.strategist.matches import Seat, play_pairs
from evolvent.methods.strategist.search.evaluators import Rollouts
from evolvent.methods.strategist.skills.program import ProgramSkill, seed_program

GAME = make_game("gops", num_cards=6)
PAIRS = 1000  # fresh game pairs for each comparison
FRESH = 987654321  # seed of their deals
SKILLS = Path(tempfile.gettempdir()) / "evolvent-strategist-skills.json"
DEFAULT = "residual on ½ search + ½ outcome"
VARIANTS: dict[str, dict[str, Any]] = {
    "residual on ½ search + ½ outcome": {"proposer": "residual", "outcome_share": 0.5},
    "residual": {"proposer": "residual", "outcome_share": 1.0},
    "uniform": {"proposer": "uniform"},
}
HALF, CONTROL = VARIANTS[DEFAULT], VARIANTS["uniform"]
CHANGES: dict[str, dict[str, Any]] = {
    "seed not among the opponents": {"anchors": ("rollout", "champion")},
    "four times the self-play": {"feedback_games": 256},
    "structure and ridge": {"calibrate": True},
}


def config(folder: Path, seed: int, **settings: Any) -> StrategistConfig:
    given = {"calibrate": False, "selection": "duct", "search_budget": 32, "games_per_pair": 16, "final_games": 1}
    return StrategistConfig(output_dir=folder, seed=seed, **{**given, **settings})


def margins(first: Any, second: Any) -> np.ndarray:
    """Margin of each fresh game pair."""
    search = config(Path("unused"), 0).search
    return play_pairs(GAME, Seat(first, search), Seat(second, search), PAIRS, FRESH).mean(1)


def evolved(name: str, settings: dict[str, Any], seed: int) -> tuple[ProgramSkill, float]:
    """Best skill of a run, and the games it took; kept in SKILLS, which a change of the method makes stale."""
    known = json.loads(SKILLS.read_text()) if SKILLS.is_file() else {}
    key = f"{name}/{seed}/{json.dumps(settings)}"
    if key not in known:
        with tempfile.TemporaryDirectory() as folder:
            result = Strategist(None, GAME, args=config(Path(folder), seed, **settings)).run()
        games = result.metrics["games/tournament"] + result.metrics["games/self-play"]
        known[key] = {"skill": result.best.to_json(), "games": games}
        SKILLS.write_text(json.dumps(known))
    return ProgramSkill.from_json(known[key]["skill"]), known[key]["games"]


def improve(variants: dict[str, dict[str, Any]], seeds: int) -> list[dict[str, Any]]:
    """Each variant against the seed and against playouts; then variants with each other, paired by seed."""
    seed_value = seed_program(GAME).evaluator(GAME)
    base = margins(seed_value, Rollouts(1))
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    rows = []
    for name, settings in variants.items():
        runs = [evolved(name, settings, seed) for seed in range(seeds)]
        values = [skill.evaluator(GAME) for skill, _ in runs]
        found[name] = {
            "seed": [margins(v, seed_value) for v in values],
            "rollout": [margins(v, Rollouts(1)) for v in values],
        }
        for opponent, per_seed in found[name].items():
            rows.append({
                "claim": f"A1: {name}, evolved against {opponent}", **_summary(per_seed),
                "comparator": "the seed against the rollout" if opponent == "rollout" else "even play",
                "comparator_value": float(base.mean()) if opponent == "rollout" else 0.0,
                "games": float(np.mean([games for _, games in runs])),
            })  # fmt: skip
    for first, second in itertools.combinations(found, 2):
        for opponent in ("seed", "rollout"):
            ours, theirs = found[first][opponent], found[second][opponent]
            test = paired_bootstrap(np.array(theirs), np.array(ours))
            rows.append({
                "claim": f"A1: {first} minus {second}, against {opponent}", "value": test.difference,
                "unit": "points a game", "comparator": second, "comparator_value": float(np.mean(theirs)),
                "ci95": [test.low, test.high], "p_value": test.p_value, "n": PAIRS, "seeds": list(range(seeds)),
                "seeds_ahead": sum(bool(a.mean() >= b.mean()) for a, b in zip(ours, theirs, strict=True)),
            })  # fmt: skip
    return rows + duels(variants, seeds)


def duels(variants: dict[str, dict[str, Any]], seeds: int) -> list[dict[str, Any]]:
    """The skills of two variants from the same seed, at one table."""
    rows = []
    for first, second in itertools.combinations(variants, 2):
        skills = [
            [evolved(name, variants[name], seed)[0].evaluator(GAME) for seed in range(seeds)]
            for name in (first, second)
        ]
        per_seed = [margins(a, b) for a, b in zip(*skills, strict=True)]
        rows.append({
            "claim": f"A1: {first} minus {second}, against each other", **_summary(per_seed), "comparator": "even play",
            "comparator_value": 0.0, "seeds_ahead": sum(bool(m.mean() >= 0) for m in per_seed),
        })  # fmt: skip
    return rows


def _summary(per_seed: list[np.ndarray]) -> dict[str, Any]:
    interval = bootstrap_interval(np.array(per_seed))
    return {"value": interval.mean, "unit": "points a game", "ci95": [interval.low, interval.high], "n": PAIRS,
            "seeds": list(range(len(per_seed))), "per_seed": [float(m.mean()) for m in per_seed]}  # fmt: skip


def reinforcement(seeds: int) -> list[dict[str, Any]]:
    from evolvent.methods.strategist.baselines.value_net import value_net

    search = config(Path("unused"), 0).search
    learners = {
        "ridge, 320 episodes": lambda s: ridge(GAME, search, seed=s).evaluator(GAME),
        "value net, strong, 320 episodes": lambda s: value_net(GAME, search, setting="strong", seed=s),
        "value net, paper's setting, 320 episodes": lambda s: value_net(GAME, search, setting="paper", seed=s),
    }
    rows = []
    for name, learner in learners.items():
        learnt = [learner(seed) for seed in range(seeds)]
        skills = [evolved(DEFAULT, VARIANTS[DEFAULT], seed)[0].evaluator(GAME) for seed in range(seeds)]
        for claim, pairs in (
            (f"A1: {name}, against rollout", [(v, Rollouts(1)) for v in learnt]),
            (f"A1: evolved skill against {name}", list(zip(skills, learnt, strict=True))),
        ):
            per_seed = [margins(a, b) for a, b in pairs]
            rows.append({"claim": claim, **_summary(per_seed), "comparator": "even play", "comparator_value": 0.0})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="improve", choices=["improve", "rl", "remedies", "duels"])
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    command = f"python -m benchmarks.strategist.evolve {asked.what}"
    if asked.what == "rl":
        record("strategist", reinforcement(min(asked.seeds, 2)), command)
    elif asked.what == "remedies":
        for change, settings in CHANGES.items():  # recorded one by one: each takes ten runs
            pair = {f"residual, {change}": {**HALF, **settings}, f"uniform, {change}": {**CONTROL, **settings}}
            record("strategist", improve(pair, asked.seeds), command)
    elif asked.what == "duels":
        record("strategist", duels(VARIANTS, asked.seeds), command)
    else:
        record("strategist", improve(VARIANTS, asked.seeds), command)


if __name__ == "__main__":
    main()
