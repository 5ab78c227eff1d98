"""Wash 96 known facts out of the embedded model, beside gradient methods that forget as much.

python -m benchmarks.law.acceptance run --seed 0 --out runs/law-0 [--baselines ascent] [--set KEY=VALUE ...]
python -m benchmarks.law.acceptance record runs/law-0 runs/law-1 runs/law-2
python -m benchmarks.law.acceptance timed runs/law-0
python -m benchmarks.law.acceptance attempt runs/other-0 --label "what was different"

A run is a run folder: killed, it goes on. `record` pools the seeds, whose facts differ, into results/law.json.
"""

from __future__ import annotations

import argparse
import json
import resource
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.law.protocol import Protocol, protocol
from benchmarks.results_file import record
from evolvent import Law, LawConfig
from evolvent.evaluation.significance import bootstrap_interval, mcnemar_exact, paired_bootstrap
from evolvent.methods.law.measurement import FORGET, GROUPS, Measurement

NAMES = {
    "base": "before",
    "law": "LAW",
    "ascent": "ascent",
    "difference": "difference",
    "npo": "NPO",
    "refusal": "refusal",
}
QUESTIONS = (
    (FORGET, "prompt"),
    (FORGET, "paraphrase"),
    (FORGET, "chat"),
    *((g, "prompt") for g in GROUPS),
    ("same-relation", "chat"),
)


def wash(facts: Protocol, args: LawConfig) -> None:
    """One run."""
    method = Law(
        "embedded",
        facts.forget,
        keep=[*facts.same_relation, *facts.same_subject, *facts.other],
        references=facts.references,
        corpus=[*facts.held_out, *facts.corpus],
        args=args,
        on_progress=lambda *said: print(*said, flush=True),
    )
    result = method.run()
    used = resource.getrusage(resource.RUSAGE_SELF)
    (args.output_dir / "cpu.json").write_text(json.dumps({"cpu_seconds": used.ru_utime + used.ru_stime}))
    shown = {k: v for k, v in result.metrics.items() if not k.endswith(("ci95", "/n"))}
    print(json.dumps(shown, indent=1))


def collect(folders: list[Path], label: str) -> list[dict[str, Any]]:
    """Rows over seeds: every question of every variant, and LAW against each gradient method."""
    runs = [_variants(folder) for folder in folders]
    seeds = [json.loads((f / "checkpoint" / "evolvent.json").read_text())["seed"] for f in folders]
    rows: list[dict[str, Any]] = []
    for variant in runs[0]:
        for group, kind in QUESTIONS:
            hits = np.concatenate([_hits(r, variant, group, kind) for r in runs])
            before = np.concatenate([_hits(r, "base", group, kind) for r in runs])
            if not len(hits):
                continue
            interval = bootstrap_interval(hits)
            row = {
                "claim": f"{label}: {group} known by {kind}, {NAMES[variant]}",
                "value": 100 * interval.mean,
                "unit": "%",
                "comparator": "before",
                "comparator_value": 100 * float(before.mean()),
                "ci95": [100 * interval.low, 100 * interval.high],
                "p_value": mcnemar_exact(before, hits),
                "n": len(hits),
                "seeds": seeds,
                "each": [round(100 * float(_hits(r, variant, group, kind).mean()), 1) for r in runs],
            }
            rows.append(row)
        ratios = [r[variant].perplexity / r["base"].perplexity for r in runs]
        rows.append(
            {
                "claim": f"{label}: perplexity over the original's, {NAMES[variant]}",
                "value": float(np.mean(ratios)),
                "unit": "x",
                "ci95": [min(ratios), max(ratios)],
                "seeds": seeds,
                "each": [round(x, 4) for x in ratios],
            }
        )
    for variant in runs[0]:
        if variant in ("base", "law"):
            continue
        ours = np.concatenate([_hits(r, "law", "same-relation", "prompt") for r in runs])
        theirs = np.concatenate([_hits(r, variant, "same-relation", "prompt") for r in runs])
        test = paired_bootstrap(theirs, ours)
        rows.append(
            {
                "claim": f"{label}: same relation, LAW minus {NAMES[variant]} at matched forgetting",
                "value": 100 * test.difference,
                "unit": "points",
                "comparator": NAMES[variant],
                "comparator_value": 100 * float(theirs.mean()),
                "ci95": [100 * test.low, 100 * test.high],
                "p_value": mcnemar_exact(theirs, ours),
                "n": len(ours),
                "seeds": seeds,
            }
        )
    return rows + _attacks(folders, seeds, label)


def attempt(folder: Path, label: str) -> dict[str, Any]:
    """One row of a run with other settings."""
    found = _variants(folder)
    base, law = found["base"], found["law"]

    def share(group: str, kind: str = "prompt") -> float:
        return 100 * float(np.mean(law.hits(group, kind, base)))

    seed = yaml.safe_load((folder / "config.yaml").read_text())["seed"]
    return {
        "claim": f"attempt: {label}, seed {seed}",
        "what": label,
        "value": share("same-relation"),
        "unit": "%",
        "comparator": "before",
        "comparator_value": 100 * float(np.mean(base.hits("same-relation", "prompt"))),
        "forget": share(FORGET),
        "paraphrases": share(FORGET, "paraphrase"),
        "chat": share(FORGET, "chat"),
        **{group: share(group) for group in GROUPS},
        "perplexity": law.perplexity / base.perplexity,
        "n": len(law.groups["same-relation"]),
        "seeds": [seed],
    }


def timed(folder: Path) -> dict[str, Any]:
    """Minutes of a run that had the machine for itself, from its opening to its last stage."""
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    times = [datetime.fromisoformat(e["time"]) for e in events]
    stages = {e["stage"]: e["seconds"] for e in events if e["event"] == "stage-finished"}
    washing = sum(s for name, s in stages.items() if not name.startswith(("audit", "baseline")))
    return {
        "claim": "96 facts: minutes of a whole run",
        "value": (times[-1] - times[0]).total_seconds() / 60,
        "unit": "min",
        "without_audit_and_baselines": washing / 60,
        "stages": stages,
        "note": "two threads, nothing else on the machine",
        "n": 1,
    }


def _attacks(folders: list[Path], seeds: list[int], label: str) -> list[dict[str, Any]]:
    metrics = [json.loads((f / "metrics.json").read_text()) for f in folders]
    rows = []
    for key, said, unit, scale in (
        ("known/forget/law-4bit", "forget known after a 4-bit round trip", "%", 100),
        ("known/forget/law-relearn-other-half", "the other half known after relearning half of the facts", "%", 100),
        ("known/forget/law-relearn-taught", "the taught half known after relearning", "%", 100),
        ("known/forget/law-few-shot", "forget known after five demonstrations", "%", 100),
        ("known/never-known/law-few-shot", "never known, after five demonstrations", "%", 100),
        ("known/forget/law-lens", "forget known in some block's state", "%", 100),
        ("known/never-known/law-lens", "never known, in some block's state", "%", 100),
        ("membership_auroc/forget/base", "membership AUROC before", "", 1),
        ("membership_auroc/forget/law", "membership AUROC after", "", 1),
        ("rounds", "rounds", "", 1),
    ):
        values = [scale * m[key] for m in metrics if key in m]
        if values:
            rows.append(
                {
                    "claim": f"{label}: {said}",
                    "value": float(np.mean(values)),
                    "unit": unit,
                    "ci95": [min(values), max(values)],
                    "each": [round(v, 3) for v in values],
                    "seeds": seeds,
                }
            )
    return rows


def _variants(folder: Path) -> dict[str, Measurement]:
    found = {}
    for name in NAMES:
        stage = "measure" if name in ("base", "law") else "baseline"
        files = list(folder.glob(f"stages/[0-9][0-9]-{stage}-{name}/measurement.json"))
        if files:
            found[name] = Measurement.load(files[0])
    return found


def _hits(run: dict[str, Measurement], variant: str, group: str, kind: str) -> np.ndarray:
    return np.array(run[variant].hits(group, kind, run["base"]), dtype=bool)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    running = verbs.add_parser("run")
    running.add_argument("--seed", type=int, default=0)
    running.add_argument("--out", type=Path, required=True)
    running.add_argument("--baselines", default="ascent")
    running.add_argument("--threads", type=int, default=1)
    running.add_argument("--set", action="append", default=[])
    recording = verbs.add_parser("record")
    recording.add_argument("folders", type=Path, nargs="+")
    recording.add_argument("--label", default="96 facts")
    recording.add_argument("--settings", default="", help="the --set options of the runs, for the record")
    timing = verbs.add_parser("timed")
    timing.add_argument("folder", type=Path)
    trying = verbs.add_parser("attempt")
    trying.add_argument("folder", type=Path)
    trying.add_argument("--label", required=True)
    trying.add_argument("--settings", default="", help="the --set options of the run, for the record")
    trying.add_argument("--code", default="", help="the commit that had the code, where it is gone again")
    arguments = parser.parse_args()
    if arguments.verb == "attempt":
        command = f"python -m benchmarks.law.acceptance run --seed SEED --out FOLDER {arguments.settings}".strip()
        command += f"  # at commit {arguments.code}" if arguments.code else ""
        record("law", [attempt(arguments.folder, arguments.label)], command)
    elif arguments.verb == "timed":
        command = "python -m benchmarks.law.acceptance run --seed 0 --out FOLDER --baselines ascent --threads 2"
        record("law", [timed(arguments.folder)], command)
    elif arguments.verb == "run":
        changes = {k: yaml.safe_load(v) for k, _, v in (pair.partition("=") for pair in arguments.set)}
        torch.set_num_threads(arguments.threads)
        kinds = tuple(k for k in arguments.baselines.split(",") if k)
        seed, out = arguments.seed, arguments.out
        wash(
            protocol(seed),
            LawConfig(output_dir=out, seed=seed, baselines=kinds, on_config_change="rerun", **changes),
        )
    else:
        command = f"python -m benchmarks.law.acceptance run --seed SEED --out FOLDER {arguments.settings}".strip()
        record("law", collect(arguments.folders, arguments.label), command)


if __name__ == "__main__":
    main()
