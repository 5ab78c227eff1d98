"""Passages one after the other: what is left of the first quarter, with and without replay, and under SFT.

python -m benchmarks.selfparam.sequential 0 --runs runs/selfparam      (killed, it goes on)

Each of the four invented passages is cut into `--parts`, and the seed draws their order. All arms see each fact equally
often when its passage is learnt; with replay a step has fewer new pairs, so there are more steps. After each passage
every question so far is scored: whether greedy decoding would give exactly its answer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks.results_file import record
from benchmarks.selfparam.facts import general, in_parts
from evolvent import SelfParam, SelfParamConfig
from evolvent.evaluation.significance import bootstrap_interval, mcnemar_exact, paired_bootstrap
from evolvent.methods.selfparam.report import first_ones, first_passages

ARMS = {
    "replay": "selfparam",
    "no replay": "no_replay",
    "sft": "sft_bare",
    "sft with text": "sft",
    "sft with text and replay": "sft_replay",
}


def learnt(seed: int, given: argparse.Namespace) -> SelfParam:
    """One run of the arms, replay being the method itself."""
    passages, train, test = in_parts(seed, given.parts)
    args = SelfParamConfig(
        output_dir=given.runs / f"sequential-{len(passages)}-{seed}",
        mode="sequential",
        seed=seed,
        exposures=given.exposures,
        learning_rate=given.rate,
        replay_share=given.replay,
        retention_rows=given.text,
        keep_checkpoints=1,
        baselines=tuple(ARMS[arm] for arm in given.arms if arm != "replay"),
        on_config_change="rerun",  # more arms may follow
    )

    def say(stage: str, done: int, total: int, note: str) -> None:
        if done == total:
            print(seed, stage, note, flush=True)

    method = SelfParam("embedded", passages, train, args=args, eval_dataset=test, retention=general(), on_progress=say)
    method.run()
    return method


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--parts", type=int, default=5, help="pieces of each of the four passages")
    parser.add_argument("--exposures", type=float, default=12)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--replay", type=float, default=0.5, help="share of each batch from earlier passages")
    parser.add_argument("--text", type=int, default=4, help="pieces of general text in each batch")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    given = parser.parse_args()
    methods = [learnt(seed, given) for seed in given.seeds]
    runs = [method.arms for method in methods]
    count = len(runs[0]["selfparam"])
    first = first_passages(count)

    def pooled(arm: str, passages: slice) -> list[float]:
        """At the end: every question about some passages, over all seeds."""
        ends = [run[ARMS[arm]][-1].retained or [] for run in runs]
        return [float(hit) for end in ends for hits in end[passages] for hit in hits]

    def fresh(arm: str) -> list[float]:
        """The questions about the first passages, right after each was learnt."""
        steps = [step.retained or [] for run in runs for step in run[ARMS[arm]][:first]]
        return [float(hit) for retained in steps for hit in retained[-1]]

    told = {
        "unit": "exact, %",
        "seeds": given.seeds,
        "passages": count,
        **{name: getattr(given, name) for name in ("exposures", "rate", "replay", "text")},
    }
    rows = []
    for arm in given.arms:
        kept, new = pooled(arm, slice(first)), fresh(arm)
        interval = bootstrap_interval(kept)
        curves = [[share for _, share in first_ones(run[ARMS[arm]])] for run in runs]
        rows.append(
            {
                "claim": f"sequential: {arm}, first {first} of {count} passages at the end",
                "value": 100 * interval.mean,
                "ci95": [100 * interval.low, 100 * interval.high],
                "comparator": "right after each injection",
                "comparator_value": 100 * float(np.mean(new)),
                "all_passages": 100 * float(np.mean(pooled(arm, slice(None)))),
                "curve": np.mean(curves, axis=0).tolist(),
                "drift": float(np.mean([method.drifts[ARMS[arm]].kl for method in methods])),
                "n": len(kept),
                **told,
            }
        )
    ours = [arm for arm in ("replay", "no replay") if arm in given.arms]
    for arm, other in ((arm, other) for arm in ours for other in given.arms if other not in (arm, "replay")):
        for which, passages in ((f"first {first} of {count} passages", slice(first)), (f"all {count}", slice(None))):
            theirs, kept = pooled(other, passages), pooled(arm, passages)
            test = paired_bootstrap(theirs, kept)
            rows.append(
                {
                    "claim": f"sequential: {arm} minus {other}, {which} at the end",
                    "value": 100 * test.difference,
                    "ci95": [100 * test.low, 100 * test.high],
                    "p_value": mcnemar_exact(theirs, kept),
                    "comparator": other,
                    "comparator_value": 100 * float(np.mean(theirs)),
                    "n": len(kept),
                    **told,
                }
            )
    settings = " ".join(f"--{k} {getattr(given, k):g}" for k in ("parts", "exposures", "rate", "replay", "text"))
    options = f"{settings} --arms {' '.join(map(repr, given.arms))}"
    seeds = " ".join(map(str, given.seeds))
    record("selfparam", rows, f"python -m benchmarks.selfparam.sequential {seeds} --runs RUNS {options}")


if __name__ == "__main__":
    main()
