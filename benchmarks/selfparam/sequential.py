"""Twenty short passages one after the other: what is left of the first ones, with and without replay, and under SFT.

python -m benchmarks.selfparam.sequential 0 --runs runs/selfparam      (killed, it goes on)

All three train the same pairs for the same steps in the same order, which the seed draws. After each passage every
question so far is scored: whether greedy decoding would give exactly its answer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks.results_file import record
from benchmarks.selfparam.facts import general, in_parts
from evolvent import SelfParam, SelfParamConfig
from evolvent.evaluation.significance import bootstrap_interval, mcnemar_exact, paired_bootstrap
from evolvent.methods.selfparam.report import FIRST, first_ones

ARMS = {"replay": "selfparam", "no replay": "no_replay", "sft": "sft"}


def learnt(seed: int, runs: Path, arms: list[str]) -> SelfParam:
    """One run of the arms, replay being the method itself."""
    passages, train, test = in_parts(seed)
    args = SelfParamConfig(
        output_dir=runs / f"sequential-{seed}",
        mode="sequential",
        seed=seed,
        retention_rows=0,
        keep_checkpoints=1,
        baselines=tuple(ARMS[arm] for arm in arms if arm != "replay"),
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
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    given = parser.parse_args()
    runs = [learnt(seed, given.runs, given.arms).arms for seed in given.seeds]

    def pooled(arm: str, passages: slice) -> list[float]:
        """At the end: every question about some passages, over all seeds."""
        ends = [run[ARMS[arm]][-1].retained or [] for run in runs]
        return [float(hit) for end in ends for hits in end[passages] for hit in hits]

    def fresh(arm: str) -> list[float]:
        """The questions about the first passages, right after each was learnt."""
        steps = [step.retained or [] for run in runs for step in run[ARMS[arm]][:FIRST]]
        return [float(hit) for retained in steps for hit in retained[-1]]

    rows = []
    for arm, name in ARMS.items():
        if arm not in given.arms:
            continue
        kept, new = pooled(arm, slice(FIRST)), fresh(arm)
        interval = bootstrap_interval(kept)
        rows.append(
            {
                "claim": f"sequential: {arm}, first {FIRST} of 20 passages at the end",
                "value": 100 * interval.mean,
                "ci95": [100 * interval.low, 100 * interval.high],
                "unit": "exact, %",
                "comparator": "right after each injection",
                "comparator_value": 100 * float(np.mean(new)),
                "all_passages": 100 * float(np.mean(pooled(arm, slice(None)))),
                "curve": np.mean([[share for _, share in first_ones(run[name])] for run in runs], axis=0).tolist(),
                "n": len(kept),
                "seeds": given.seeds,
            }
        )
    for arm, other in (("replay", "sft"), ("replay", "no replay"), ("no replay", "sft")):
        if not {arm, other} <= set(given.arms):
            continue
        for which, passages in ((f"first {FIRST} of 20 passages", slice(FIRST)), ("all 20 passages", slice(None))):
            theirs, ours = pooled(other, passages), pooled(arm, passages)
            test = paired_bootstrap(theirs, ours)
            rows.append(
                {
                    "claim": f"sequential: {arm} minus {other}, {which} at the end",
                    "value": 100 * test.difference,
                    "ci95": [100 * test.low, 100 * test.high],
                    "p_value": mcnemar_exact(theirs, ours),
                    "unit": "exact, %",
                    "comparator": other,
                    "comparator_value": 100 * float(np.mean(theirs)),
                    "n": len(ours),
                    "seeds": given.seeds,
                }
            )
    seeds = " ".join(map(str, given.seeds))
    arms = " ".join(f"'{arm}'" if " " in arm else arm for arm in given.arms)
    record("selfparam", rows, f"python -m benchmarks.selfparam.sequential {seeds} --runs RUNS --arms {arms}")


if __name__ == "__main__":
    main()
