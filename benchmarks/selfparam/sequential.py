"""Twenty short passages one after the other: what is left of each at the end, with and without replay, and under SFT.

python -m benchmarks.selfparam.sequential 0 --runs runs/selfparam      (killed, it goes on)
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results_file import record
from benchmarks.selfparam.facts import general, in_parts
from evolvent import SelfParam, SelfParamConfig
from evolvent.evaluation.significance import paired_bootstrap
from evolvent.methods.selfparam.selfparam import SelfParamResult

VARIANTS: dict[str, dict[str, Any]] = {
    "replay": {"replay_share": 0.25, "baselines": ("sft",)},
    "no replay": {"replay_share": 0.0, "baselines": ()},
}
FIRST = 5  # passages that count as the first ones


def run(variant: str, seed: int, runs: Path) -> tuple[SelfParam, SelfParamResult]:
    passages, train, test = in_parts()
    args = SelfParamConfig(
        output_dir=runs / f"sequential-{variant.replace(' ', '-')}-{seed}",
        mode="sequential",
        seed=seed,
        retention_rows=0,
        keep_checkpoints=1,
        **VARIANTS[variant],
    )
    method = SelfParam("embedded", passages, train, args=args, eval_dataset=test, retention=general())
    return method, method.run()


def first_ones(method: SelfParam, name: str) -> list[float]:
    """F1 at the end of every question about the first passages."""
    first = {passage.id for passage in method.passages[:FIRST]}
    scores = method.answers[name].f1
    return [f1 for f1, pair in zip(scores, method.asked, strict=True) if pair.passage in first]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--runs", type=Path, required=True)
    given = parser.parse_args()
    kept: dict[str, list[list[float]]] = {"replay": [], "no replay": [], "sft": []}
    curves: dict[str, list[list[float]]] = {"replay": [], "no replay": [], "sft": []}
    after: list[float] = []
    for seed in given.seeds:
        for variant in VARIANTS:
            method, result = run(variant, seed, given.runs)
            for name, column in ((variant, "selfparam"), *((("sft", "sft"),) if variant == "replay" else ())):
                kept[name].append(first_ones(method, column))
                count = len(method.injections)
                curves[name].append([result.metrics[f"f1/end/{column}/{i}"] for i in range(1, count + 1)])
            if variant == "replay":
                after += [result.metrics[f"f1/after/selfparam/{i}"] for i in range(1, FIRST + 1)]
    common = {"unit": "F1, %", "seeds": given.seeds, "n": len(kept["sft"][0])}
    rows = []
    for variant, other in (("replay", "sft"), ("replay", "no replay"), ("no replay", "sft")):
        test = paired_bootstrap(kept[other], kept[variant])
        rows.append(
            {
                "claim": f"sequential: {variant} minus {other}, first {FIRST} of 20 passages at the end",
                "value": 100 * test.difference,
                "ci95": [100 * test.low, 100 * test.high],
                "p_value": test.p_value,
                "comparator": other,
                "comparator_value": 100 * float(np.mean(kept[other])),
                "curve": np.mean(curves[variant], axis=0).tolist(),
                "comparator_curve": np.mean(curves[other], axis=0).tolist(),
                **common,
            }
        )
    rows.append(
        {
            "claim": f"sequential: replay, first {FIRST} of 20 passages at the end",
            "value": 100 * float(np.mean(kept["replay"])),
            "comparator": "right after each injection",
            "comparator_value": 100 * float(np.mean(after)),
            "ratio": float(np.mean(kept["replay"]) / max(1e-9, np.mean(after))),
            **common,
        }
    )
    seeds = " ".join(map(str, given.seeds))
    record("selfparam", rows, f"python -m benchmarks.selfparam.sequential {seeds} --runs RUNS")


if __name__ == "__main__":
    main()
