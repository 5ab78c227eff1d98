"""F1 against drift along each update: the weights before plus a multiple of what training changed.

python -m benchmarks.selfparam.frontier 0 --runs runs/selfparam

A multiple below 1 takes part of a training back, one above 1 carries it further; so two trainings can be compared where
they have drifted equally far, without a run for each rate. It wants the runs of `benchmarks.selfparam.quality`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.results_file import record
from benchmarks.selfparam.quality import MAIN, TESTED, method
from evolvent.evaluation.significance import bootstrap_interval
from evolvent.methods.selfparam.measure import Answers, drift
from evolvent.models.local import LocalModel
from evolvent.models.resolve import load_local

SCALES = (0.8, 1.0, 1.25, 1.5)


def scaled(model: LocalModel, before: dict[str, torch.Tensor], trained: str, scale: float) -> None:
    """Set a model's weights to `before` plus `scale` times what the training changed."""
    after = load_local(trained, dtype="float32").module.state_dict()
    with torch.no_grad():
        for name, weight in model.module.state_dict().items():
            weight.copy_(before[name] + scale * (after[name] - before[name]))


def along(recipe: str | None, seed: int, runs: Path, scales: list[float]) -> list[tuple[Answers, float]]:
    """Answers and drift at each scale of SELF-PARAM under a recipe, or of SFT (None)."""
    of = method(recipe or MAIN, seed, TESTED, runs)
    with of:
        for stage in (of.prepare, of.probe, of.teach, of.inject, of.train_baselines):
            stage()
    trained = (of.injections if recipe else of.trained["sft"])[-1].checkpoint
    model = load_local(of.reference, dtype=of.args.dtype)
    before = {k: v.clone() for k, v in load_local(of.reference, dtype="float32").module.state_dict().items()}
    points = []
    for scale in scales:
        scaled(model, before, trained, scale)
        points.append((of.asked_alone(model), drift(model, of.held, of.original).kl))
        print(recipe or "SFT", seed, scale, np.mean(points[-1][0].f1), points[-1][1], flush=True)
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--recipes", nargs="+", default=[MAIN], help="of benchmarks.selfparam.quality")
    parser.add_argument("--scales", type=float, nargs="+", default=list(SCALES))
    given = parser.parse_args()
    shown: dict[str, str | None] = {f"SELF-PARAM, {recipe}": recipe for recipe in given.recipes} | {"SFT": None}
    rows: list[dict[str, Any]] = []
    for name, recipe in shown.items():
        found = [along(recipe, seed, given.runs, given.scales) for seed in given.seeds]
        for scale, points in zip(given.scales, zip(*found, strict=True), strict=True):
            f1 = np.array([answers.f1 for answers, _ in points])
            interval = bootstrap_interval(f1)
            rows.append(
                {
                    "claim": f"scaled: {name}, times {scale:g}",
                    "value": 100 * interval.mean,
                    "ci95": [100 * interval.low, 100 * interval.high],
                    "unit": "F1, %",
                    "drift": float(np.mean([moved for _, moved in points])),
                    "n": f1.shape[1],
                    "seeds": given.seeds,
                }
            )
    seeds, scales = " ".join(map(str, given.seeds)), " ".join(f"{scale:g}" for scale in given.scales)
    recipes = " ".join(map(repr, given.recipes))
    command = f"python -m benchmarks.selfparam.frontier {seeds} --runs RUNS --recipes {recipes} --scales {scales}"
    record("selfparam", rows, command)


if __name__ == "__main__":
    main()
