"""Does SemiEvol beat fine-tuning on the labels alone, with the same compute? On two corpora, and as in the demo.

python -m benchmarks.semievol.quality run bbc 0 1 2 3 4 --runs FOLDER     (resumes; one process a core is best)
python -m benchmarks.semievol.quality run bbc 0 1 --set theta=1.0 --runs FOLDER    (another recipe, from the same votes)
python -m benchmarks.semievol.quality record --runs FOLDER                (writes benchmarks/results/semievol.json)
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.results_file import record
from benchmarks.semievol.corpora import CORPORA
from evolvent import SemiEvol, SemiEvolConfig
from evolvent.evaluation.evaluate import Evaluation
from evolvent.evaluation.significance import bootstrap_interval, paired_bootstrap

RECIPE: dict[str, Any] = {"peft": "top_layers"}  # chosen by the warm-up of seed 0, see docs/semievol.md
RECIPES = {"bbc": RECIPE, "bbc600": {**RECIPE, "n_configs": 3}, "fpb": RECIPE}  # bbc600 is the demo's
BASELINES = ("zero-shot", "few-shot", "sft", "sft-same-compute")


def run(corpus: str, seeds: list[int], runs: Path, changes: dict[str, Any]) -> None:
    for seed in seeds:
        splits = CORPORA[corpus](seed)
        name = "-".join([corpus, str(seed), *(f"{k}={v}" for k, v in changes.items())])
        if changes and not (runs / name).exists():
            unfinished = shutil.ignore_patterns("metrics.json")  # stages that do not change are not repeated
            shutil.copytree(runs / f"{corpus}-{seed}", runs / name, ignore=unfinished)
        settings = {**RECIPES[corpus], **changes, "on_config_change": "rerun"}
        args = SemiEvolConfig(output_dir=runs / name, seed=seed, **settings)
        method = SemiEvol(
            "embedded", splits.labeled, splits.unlabeled, task=splits.task, eval_dataset=splits.test, args=args
        )
        metrics = method.run().metrics
        shown = {k.removeprefix("accuracy/test/"): v for k, v in metrics.items() if k.startswith("accuracy/test/")}
        accuracies = " ".join(f"{k} {v:.3f}" for k, v in shown.items() if not k.endswith("ci95"))
        pseudo = f"{metrics['pseudo_accuracy/all']:.3f} selected {metrics['pseudo_accuracy/selected']:.3f}"
        print(f"{name}: {accuracies} | pseudo-labels {pseudo}", flush=True)


def results(corpus: str, runs: Path) -> list[dict[str, Any]]:
    """Rows for the results file, over all seeds that have finished."""
    folders = sorted(p for p in runs.glob(f"{corpus}-[0-9]") if (p / "metrics.json").is_file())
    seeds = [int(p.name.rpartition("-")[2]) for p in folders]
    metrics = [json.loads((p / "metrics.json").read_text()) for p in folders]
    correct = {
        name: np.array([_evaluation(p, name).correct for p in folders], dtype=float)
        for name in (*BASELINES, "semievol")
    }
    rows = []
    for name in BASELINES:
        test = paired_bootstrap(correct[name], correct["semievol"])
        rows.append(
            {
                "claim": f"{corpus}: SemiEvol minus {name}, test accuracy",
                "value": 100 * test.difference,
                "unit": "points",
                "comparator": name,
                "comparator_value": 100 * correct[name].mean(),
                "ci95": [100 * test.low, 100 * test.high],
                "p_value": test.p_value,
                "n": correct[name].shape[1],
                "seeds": seeds,
                "per_seed": [round(float(100 * x), 2) for x in (correct["semievol"] - correct[name]).mean(1)],
            }
        )
    interval = bootstrap_interval(correct["semievol"])
    rows.append(
        {
            "claim": f"{corpus}: SemiEvol test accuracy",
            "value": 100 * interval.mean,
            "unit": "%",
            "ci95": [100 * interval.low, 100 * interval.high],
            "n": correct["semievol"].shape[1],
            "seeds": seeds,
            "per_seed": [round(float(100 * x), 2) for x in correct["semievol"].mean(1)],
        }
    )
    gaps = [100 * (m["pseudo_accuracy/selected"] - m["pseudo_accuracy/all"]) for m in metrics]
    rows.append(
        {
            "claim": f"{corpus}: selected pseudo-labels minus all of them, accuracy",
            "value": float(np.mean(gaps)),
            "unit": "points",
            "comparator": "all pseudo-labels",
            "comparator_value": 100 * float(np.mean([m["pseudo_accuracy/all"] for m in metrics])),
            "seeds": seeds,
            "per_seed": [round(g, 2) for g in gaps],
            "selected": [m["pseudo/selected"] for m in metrics],
            "overruled": [m["pseudo/corrections"] for m in metrics],
        }
    )
    return rows


ATTEMPTS = {
    "theta=1.0": "no selection: all pseudo-labels",
    "theta=1.0-soft_targets=True": "no selection, but soft targets",
    "soft_targets=True": "soft targets on the selected",
    "balance=global": "the surest half of all, not of each class",
    "prior_correction=none": "no repair of the class prior",
    "evolve_from=warm": "last training from the warmed-up model, a third of the rate",
    "rounds=2": "a second round",
    "n_configs=1": "one voter: the warmed-up model alone",
    "correction_weight=3.0": "rows that the vote corrects weigh three times",
    "theta=0.7": "the surest 70 % of each class",
    "peft=lora": "LoRA r16 on all layers in both trainings",
}


def attempts(corpus: str, runs: Path) -> list[dict[str, Any]]:
    """Rows for the recipes that were tried, each beside the same seeds of the recipe that was taken."""
    rows = []
    for suffix, what in ATTEMPTS.items():
        folders = sorted(runs.glob(f"{corpus}-[0-9]-{suffix}/metrics.json"))
        if not folders:
            continue
        seeds = [int(p.parent.name.split("-")[1]) for p in folders]
        tried = [json.loads(p.read_text()) for p in folders]
        pair = [[_evaluation(p.parent, name).correct for p in folders] for name in ("sft-same-compute", "semievol")]
        test = paired_bootstrap(*(np.array(correct, dtype=float) for correct in pair))
        taken = [json.loads((runs / f"{corpus}-{seed}" / "metrics.json").read_text()) for seed in seeds]
        rows.append(
            {
                "claim": f"attempt: {corpus}, {what}",
                "what": what,
                "corpus": corpus.upper(),
                "value": 100 * float(np.mean([m["accuracy/test/semievol"] for m in tried])),
                "unit": "%",
                "comparator": "the recipe, same seeds",
                "comparator_value": 100 * float(np.mean([m["accuracy/test/semievol"] for m in taken])),
                "gain": 100 * test.difference,
                "gain_ci95": [100 * test.low, 100 * test.high],
                "p_value": test.p_value,
                "selected": 100 * float(np.mean([m["pseudo_accuracy/selected"] for m in tried])),
                "pseudo_labels": 100 * float(np.mean([m["pseudo_accuracy/all"] for m in tried])),
                "comparator_pseudo_labels": 100 * float(np.mean([m["pseudo_accuracy/all"] for m in taken])),
                "seeds": seeds,
                "per_seed": [round(100 * m["accuracy/test/semievol"], 2) for m in tried],
            }
        )
    return rows


def _evaluation(folder: Path, name: str) -> Evaluation:
    return Evaluation.load(max(folder.glob(f"stages/*-test-{name}")) / "evaluation.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "record"])
    parser.add_argument("corpora", nargs="*", help="for run: a corpus, then seeds; for record: corpora, default all")
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="other settings, for ablations")
    given = parser.parse_args()
    if given.what == "run":
        corpus, *seeds = given.corpora
        changes = {k: yaml.safe_load(v) for k, v in (pair.split("=", 1) for pair in given.set)}
        run(corpus, [int(s) for s in seeds], given.runs, changes)
    else:
        corpora = given.corpora or CORPORA
        rows = [row for of in (results, attempts) for corpus in corpora for row in of(corpus, given.runs)]
        record("semievol", rows, "python -m benchmarks.semievol.quality run CORPUS 0 1 2 3 4, then record")


if __name__ == "__main__":
    main()
