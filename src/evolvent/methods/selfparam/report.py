"""What a SELF-PARAM run says about itself: metrics.json and the HTML report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evolvent.data.parsing import squash
from evolvent.evaluation.significance import bootstrap_interval, mcnemar_exact, paired_bootstrap
from evolvent.methods.selfparam.training import Trained
from evolvent.runs import plots
from evolvent.runs.report import Report
from evolvent.training.finetune import FineTuneResult

if TYPE_CHECKING:
    from evolvent.methods.selfparam.selfparam import SelfParam

COLLAPSED = (
    "General text has become more than 1 nat per token harder to predict: the model has collapsed. Roll back, and "
    "lower the learning rate or exposures, or give more general text."
)
_ORDERS = re.compile(
    r"\b(?:ignore|disregard|forget)\s+(?:all\s+|any\s+|the\s+|your\s+)*(?:previous|prior|above|earlier|preceding)\b"
    r"|\byou are now\b|\bsystem prompt\b|\bnew instructions\s*:",
    re.IGNORECASE,
)
NAMES = {
    "base": "model, no passage",
    "in_context": "passage in the prompt",
    "retrieval": "passage found by BM25",
    "dense": "passage found by MiniLM",
    "ft_context": "fine-tuned on the passages",
    "sft": "SFT on the pairs",
    "sft_bare": "SFT, no general text",
    "sft_replay": "SFT with replay",
    "no_replay": "SELF-PARAM without replay",
    "selfparam": "SELF-PARAM",
}


def build_metrics(method: SelfParam) -> dict[str, Any]:
    """Flat keys `what/split/variant`; F1 and shares in [0, 1], drift in nats per token."""
    metrics: dict[str, Any] = {}
    split = "test" if method.test else "train"
    final = method.answers["selfparam"]
    for name, answers in method.answers.items():
        interval = bootstrap_interval(answers.f1)
        metrics[f"f1/{split}/{name}"] = interval.mean
        metrics[f"f1/{split}/{name}/ci95"] = [interval.low, interval.high]
        metrics[f"exact/{split}/{name}"] = float(np.mean(answers.exact))
        metrics[f"contains/{split}/{name}"] = float(np.mean(answers.contains))
        if name != "selfparam":
            test = paired_bootstrap(answers.f1, final.f1)
            metrics[f"gain/{split}/selfparam-vs-{name}"] = test.difference
            metrics[f"gain/{split}/selfparam-vs-{name}/ci95"] = [test.low, test.high]
            metrics[f"p_value/{split}/selfparam-vs-{name}"] = test.p_value
            metrics[f"p_value/exact/selfparam-vs-{name}"] = mcnemar_exact(answers.exact, final.exact)
    for name, drift in method.drifts.items():
        metrics[f"perplexity/general/{name}"] = drift.perplexity
        metrics[f"drift/general/{name}"] = drift.kl
        metrics[f"perplexity_change/general/{name}"] = drift.perplexity / method.drifts["base"].perplexity - 1
    for row in method.probed:
        metrics[f"probe/{row.prompt}"] = row.gold
    for name, steps in method.arms.items():
        for number, step in enumerate(steps, start=1):
            if step.retained is not None:
                metrics[f"exact/after/{name}/{number}"] = [
                    float(np.mean(hits)) if hits else None for hits in step.retained
                ]
    metrics["pairs/learnt"] = len(method.learnt)
    metrics |= {f"pairs/{reason}": count for reason, count in {**method.dropped, **method.rejected}.items()}
    metrics["pairs/conflicts"] = len(method.conflicts)
    metrics["teacher/temperature"] = method.temperature
    metrics["teacher/tail"] = float(np.mean([row.tail for row in method.predictions]))
    metrics["storage/training_bytes"] = method.stored_bytes
    metrics["steps"] = sum(step.steps for step in method.injections)
    metrics["rows/test"] = len(method.asked)
    trained = {squash(pair.question) for pair in method.learnt}
    metrics["rows/test_trained"] = sum(squash(pair.question) in trained for pair in method.asked)
    return metrics


def build_report(method: SelfParam, metrics: dict[str, Any]) -> Report:
    """The page: what is known now, against the baselines; what it cost elsewhere; how the teacher read."""
    split = "test" if method.test else "train"
    report = Report("SELF-PARAM", _headline(method, metrics, split), "good" if _better(metrics, split) else "neutral")
    report.facts(
        {
            "model": method.reference,
            "passages": len(method.passages),
            "pairs learnt": len(method.learnt),
            "questions asked": f"{len(method.asked)}" + ("" if method.test else ", in wordings it was trained on"),
            "teacher": ", ".join(map(str, method.prompts.values())) + f", temperature {method.temperature:g}",
            "steps": metrics["steps"],
            "trained": "all weights" if method.peft == "full" else f"LoRA, rank {method.args.lora_r}, merged",
            "kept at inference": f"{metrics['storage/inference_bytes']} bytes beside the model",
            "stored for training": f"{metrics['storage/training_bytes'] / 1e6:.2f} MB of predictions",
            "seed": method.args.seed,
        }
    )
    report.table("Answers without the passage", *results_table(metrics), strong=len(method.answers) - 1)
    bars = {NAMES[n]: (metrics[f"f1/{split}/{n}"], *metrics[f"f1/{split}/{n}/ci95"]) for n in method.answers}
    report.figure(
        "F1 of the answers",
        plots.accuracy_bars(bars, label="F1, %, with 95 % interval"),
        f"{len(method.asked)} questions.",
    )
    moved = {NAMES[n]: (d.kl, metrics[f"f1/{split}/{n}"]) for n, d in method.drifts.items() if n in method.answers}
    report.figure(
        "What was learnt, and what it cost",
        plots.frontier(moved, x="drift on general text, nats per token", y="F1, %"),
        "Up is more of the passages known, left is less of everything else changed.",
    )
    curves = {NAMES[n]: _losses(steps) for n, steps in method.arms.items()}
    if method.args.mode == "batch":
        report.figure(
            "Learning curves",
            plots.learning_curves(curves),
            "SELF-PARAM's is a divergence, the others are likelihoods.",
        )
    else:
        report.figure(
            "What is left of the first passages",
            plots.lines(
                {NAMES[n]: first_ones(steps) for n, steps in method.arms.items()},
                x="passages learnt",
                y="exact, %",
            ),
            f"Questions about the first {first_passages(len(method.injections))} of {len(method.injections)} passages, "
            "as far as they were learnt, that are answered exactly.",
        )
    seconds: dict[str, float] = {}
    for stage, spent in method.folder.seconds.items():
        kind = re.sub(r"-\d{3}$", "", stage)  # the trainings of one arm together
        seconds[kind] = seconds.get(kind, 0.0) + spent
    seconds = {k: v for k, v in seconds.items() if v >= 0.05}
    report.figure("Time of each stage", plots.stage_times(seconds), f"{sum(seconds.values()):.0f} seconds in all.")
    report.table(
        "How the teacher reads",
        [
            "prompt",
            "nats per token",
            "tokens, %",
            "first tokens, %",
            "entropy, nats",
            "not stored, %",
        ],
        [
            [str(r.prompt), f"{r.gold:.2f}", f"{r.greedy:.0%}", f"{r.first:.0%}", f"{r.entropy:.2f}", f"{r.tail:.1%}"]
            for r in method.probed
        ],
        "On training pairs: log-probability of the given answers, share of their tokens that the teacher would choose, "
        "and probability outside the stored tokens. A teacher that reads below -1 nats per token has little to teach.",
        strong=next((i for i, r in enumerate(method.probed) if r.prompt in method.prompts.values()), -1),
    )
    shown = [
        [p.question or p.begin[:60] + " …", p.answer, method.answers["selfparam"].texts[i]]
        for i, p in enumerate(method.asked[:12])
    ]
    report.table("Some answers", ["question", "expected", "answer"], shown)
    notes = [f"{said[:1].upper()}{said[1:]}." for said in method.conflicts]
    if method.test and metrics["rows/test_trained"]:
        notes.append(f"{metrics['rows/test_trained']} of the questions asked were trained in the same wording.")
    if method.collapsed:
        notes.insert(0, COLLAPSED)
    ordering = [p.id for p in method.passages if _ORDERS.search(p.text)]
    if ordering:
        notes.append(f"Text that reads like orders to a model, learnt as it stands: {', '.join(ordering)}.")
    notes += [f"{count} pairs left out: {reason}." for reason, count in method.dropped.items() if count]
    notes += [f"The teacher ({row.prompt}) reads badly: {row.gold:.2f} nats per token." for row in method.unread]
    if method.args.retention_rows and method.args.retention_weight and not method.text:
        notes.append("The general text is too short to be mixed in: all of it was measured on.")
    if method.retention is None:
        notes.append("No general text was given: retention and drift use texts that the model itself wrote.")
    report.text("What to know", notes or ["Nothing was left out."])
    return report


def results_table(metrics: Mapping[str, Any]) -> tuple[list[str], list[list[str]], str]:
    """Columns, rows and caption of the results, out of what metrics.json holds."""
    split = "test" if any(key.startswith("f1/test/") for key in metrics) else "train"
    names = [n for n in NAMES if f"f1/{split}/{n}" in metrics]
    columns = [
        "variant",
        "F1, %",
        "exact, %",
        "gain over it",
        "p",
        "drift, nats",
        "perplexity",
    ]
    rows = []
    for name in names:
        low, high = metrics[f"f1/{split}/{name}/ci95"]
        row = [NAMES[name], f"{metrics[f'f1/{split}/{name}'] * 100:.1f} ({low * 100:.1f} – {high * 100:.1f})"]
        row.append(f"{metrics[f'exact/{split}/{name}'] * 100:.1f}")
        key = f"gain/{split}/selfparam-vs-{name}"
        if key in metrics:
            low, high = metrics[f"{key}/ci95"]
            row.append(f"{metrics[key] * 100:+.1f} ({low * 100:+.1f} – {high * 100:+.1f})")
            row.append(f"{metrics[f'p_value/{split}/selfparam-vs-{name}']:.2g}")
        else:
            row += ["", ""]
        moved = metrics.get(f"drift/general/{name}")
        change = metrics.get(f"perplexity_change/general/{name}")
        row += ["" if moved is None else f"{moved:.3f}", "" if change is None else f"{change:+.1%}"]
        rows.append(row)
    caption = (
        "With 95 % intervals over 10,000 draws. Gains are those of SELF-PARAM, on the same questions. Drift is "
        "KL(before || after) on general text, perplexity its change there."
    )
    return columns, rows, caption


def _headline(method: SelfParam, metrics: dict[str, Any], split: str) -> str:
    said = f"F1 {metrics[f'f1/{split}/selfparam'] * 100:.1f} without the passages"
    if f"f1/{split}/base" in metrics:
        said += f", {metrics[f'f1/{split}/base'] * 100:.1f} before"
    return f"{said}; perplexity of general text {metrics['perplexity_change/general/selfparam']:+.1%}."


def _better(metrics: dict[str, Any], split: str) -> bool:
    return float(metrics.get(f"gain/{split}/selfparam-vs-base/ci95", [0])[0]) > 0


def _losses(steps: Any) -> list[tuple[int, float]]:
    return [point for step in steps for point in FineTuneResult.load(step.folder).losses]


def first_ones(steps: Sequence[Trained]) -> list[tuple[int, float]]:
    """(passages learnt, share of the questions about the first ones that are answered exactly) after each of them."""
    first = first_passages(len(steps))
    return [
        (number, float(np.mean([hit for hits in step.retained[:first] for hit in hits])))
        for number, step in enumerate(steps, start=1)
        if step.retained and any(step.retained[:first])
    ]


def first_passages(count: int) -> int:
    """How many of `count` passages count as the first ones: a quarter."""
    return max(1, count // 4)
