"""What the embedded model knows of two invented passages after it learnt them, asked in wordings it has not seen.

python -m benchmarks.selfparam.quality run recipe 0 1 2 --runs runs/selfparam   (killed, it goes on)
python -m benchmarks.selfparam.quality record recipe 0 1 2 --runs runs/selfparam

With `--each-wording` every wording of a fact is held out in turn: four times the questions, for each seed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results_file import record
from benchmarks.selfparam.facts import general, invented
from evolvent import SelfParam, SelfParamConfig
from evolvent.evaluation.significance import bootstrap_interval, mcnemar_exact, paired_bootstrap
from evolvent.methods.selfparam.measure import Answers, Drift

SAME = ("base", "in_context", "retrieval", "dense", "ft_context")  # baselines that no seed changes
TESTED = 3  # the wording that is held out
MAIN = "shipped"  # the default settings; its runs hold the baselines
PLAIN: dict[str, Any] = {"contrast": 0.0, "teacher_errors": "keep"}  # the teacher's predictions as they are
PAPER = {**PLAIN, "hint": "off", "temperature": 1.0}
RECIPES: dict[str, dict[str, Any]] = {
    "shipped": {"baselines": (*SAME, "sft")},
    "plain teacher": PLAIN,
    "amplified": {"teacher_errors": "keep"},
    "errors swapped": {"contrast": 0.0},
    "errors swapped, sharp": {"contrast": 0.0, "temperature": 0.25},
    "soft": {**PLAIN, "temperature": 1.0},
    "sharp": {**PLAIN, "temperature": 0.25},
    "all wordings hinted": {**PLAIN, "hint": "wordings"},
    "cross-entropy": {**PLAIN, "cross_entropy_weight": 0.5},
    "question too": {**PLAIN, "target": "all", "baselines": ("sft",)},
    "slow": {**PLAIN, "learning_rate": 5e-5},
    "fast": {**PLAIN, "learning_rate": 2e-4, "baselines": ("sft",)},
    "cloze": {**PLAIN, "generator": "rules"},
    "cloze, amplified": {"generator": "rules"},
    "cloze, by gain": {"generator": "rules", "pair_weighting": "gain"},
    "cloze, twice as long": {"generator": "rules", "exposures": 32},
    "cloze, four times as long": {"generator": "rules", "exposures": 64},
    "own questions": {"generator": "self"},
    "split": {**PLAIN, "generator": "split"},
    "unhinted": PAPER,
    "no text": {**PLAIN, "retention_rows": 0, "baselines": ("sft",)},
    "no text, unhinted": {**PAPER, "retention_rows": 0},
}


def method(recipe: str, seed: int, wording: int, runs: Path) -> SelfParam:
    passages, train, test = invented(2, wording)
    settings = {"baselines": (), **RECIPES[recipe]}
    if recipe == MAIN and (seed or wording != TESTED):  # the others do not depend on the seed
        settings["baselines"] = ("sft",)
    folder = runs / _folder(recipe, seed, wording)
    args = SelfParamConfig(output_dir=folder, seed=seed, on_config_change="rerun", **settings)
    pairs = None if "generator" in settings else train

    def say(stage: str, done: int, total: int, note: str) -> None:
        if done in (0, total) or done % 12 == 0:
            print(recipe, seed, stage, done, total, note, flush=True)

    return SelfParam("embedded", passages, pairs, args=args, eval_dataset=test, retention=general(), on_progress=say)


def results(recipe: str, seeds: list[int], wordings: Sequence[int], runs: Path) -> list[dict[str, Any]]:
    done = []
    for seed, wording in product(seeds, wordings):
        made = method(recipe, seed, wording, runs)
        result = made.run()
        found = {"metrics": result.metrics, "answers": dict(made.answers), "drifts": dict(made.drifts)}
        if recipe != MAIN:
            _add_baselines(found, runs / _folder(MAIN, seed, wording))
        done.append(found)
    return done


def _add_baselines(found: dict[str, Any], folder: Path) -> None:
    """The baselines of the run that has them, on the same pairs, steps and seed; SELF-PARAM's there is "shipped"."""
    before = found["drifts"]["base"].perplexity
    for path in folder.glob("stages/*-test-*/answers.json"):
        name = path.parent.name.partition("-test-")[2].replace("selfparam", MAIN)
        found["answers"] = {name: Answers.load(path), **found["answers"]}
    for path in folder.glob("stages/*-drift-*/drift.json"):
        name = path.parent.name.partition("-drift-")[2].replace("selfparam", MAIN)
        if name not in found["drifts"]:
            found["drifts"][name] = Drift(*json.loads(path.read_text()))
            change = found["drifts"][name].perplexity / before - 1
            found["metrics"][f"perplexity_change/general/{name}"] = change


def _folder(recipe: str, seed: int, wording: int) -> str:
    held_out = "" if wording == TESTED else f"-wording-{wording}"
    return f"{recipe.replace(', ', '-').replace(' ', '-')}-{seed}{held_out}"


def rows_of(recipe: str, seeds: list[int], done: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Value, interval, drift and perplexity of each variant, and paired tests of SELF-PARAM against it."""
    final = np.array([d["answers"]["selfparam"].f1 for d in done])
    exact = np.array([d["answers"]["selfparam"].exact for d in done])
    interval = bootstrap_interval(final)
    drift = [d["drifts"]["selfparam"].kl for d in done]
    change = [d["metrics"]["perplexity_change/general/selfparam"] for d in done]
    common = {"unit": "F1, %", "n": final.size // len(seeds), "seeds": seeds}
    made = [
        {
            "claim": f"{recipe}: SELF-PARAM, F1 in unseen wordings",
            "value": 100 * interval.mean,
            "ci95": [100 * interval.low, 100 * interval.high],
            "exact": 100 * float(exact.mean()),
            "drift": float(np.mean(drift)),
            "perplexity_change": 100 * float(np.mean(change)),
            **common,
        }
    ]
    for name in done[0]["answers"]:
        if name == "selfparam" or (name not in SAME and any(name not in d["answers"] for d in done)):
            continue
        pairs = [d["answers"].get(name, done[0]["answers"][name]) for d in done]
        other = np.array([a.f1 for a in pairs])
        test = paired_bootstrap(other, final)
        row = {
            "claim": f"{recipe}: SELF-PARAM minus {name}, F1 in unseen wordings",
            "value": 100 * test.difference,
            "ci95": [100 * test.low, 100 * test.high],
            "p_value": test.p_value,
            "p_exact": mcnemar_exact(np.concatenate([a.exact for a in pairs]), exact.ravel()),
            "comparator": name,
            "comparator_value": 100 * float(other.mean()),
            "comparator_exact": 100 * float(np.mean([a.exact for a in pairs])),
            **common,
        }
        if name in done[0]["drifts"] and name != "base":
            moved = [d for d in done if name in d["drifts"]]
            theirs = [d["drifts"][name].kl for d in moved]
            row["comparator_drift"] = float(np.mean(theirs))
            row["drift_ratio"] = float(np.mean(drift) / np.mean(theirs))
            row["comparator_perplexity_change"] = 100 * float(
                np.mean([d["metrics"][f"perplexity_change/general/{name}"] for d in moved])
            )
        made.append(row)
    if recipe == MAIN:
        made += [
            {"claim": f"probe: {key.removeprefix('probe/')}", "value": value, "unit": "nats per token", "n": 24}
            for key, value in done[0]["metrics"].items()
            if key.startswith("probe/")
        ]
        made.append(
            {
                "claim": "storage kept at inference",
                "value": done[0]["metrics"]["storage/inference_bytes"],
                "unit": "bytes",
                "comparator": "stored for training",
                "comparator_value": done[0]["metrics"]["storage/training_bytes"],
            }
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "record"))
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--each-wording", action="store_true", help="hold every wording out in turn")
    given = parser.parse_args()
    wordings = range(TESTED + 1) if given.each_wording else [TESTED]
    done = results(given.recipe, given.seeds, wordings, given.runs)
    if given.what == "record":
        seeds = " ".join(map(str, given.seeds))
        command = f"python -m benchmarks.selfparam.quality record {given.recipe!r} {seeds} --runs RUNS"
        recipe = given.recipe
        if given.each_wording:
            recipe, command = f"{recipe}, each wording", f"{command} --each-wording"
        record("selfparam", rows_of(recipe, given.seeds, done), command)


if __name__ == "__main__":
    main()
