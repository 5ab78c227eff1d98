"""What a SemiEvol run says about itself: metrics.json and the HTML report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evolvent.evaluation.evaluate import compare
from evolvent.evaluation.metrics import auroc, expected_calibration_error
from evolvent.methods.semievol.pool import PoolRow
from evolvent.runs import plots
from evolvent.runs.report import Report
from evolvent.training.finetune import FineTuneResult

if TYPE_CHECKING:
    from evolvent.methods.semievol.semievol import SemiEvol

NAMES = {
    "zero-shot": "zero-shot",
    "few-shot": "few-shot",
    "sft": "SFT",
    "sft-same-compute": "SFT, same compute",
    "semievol": "SemiEvol",
}


def build_metrics(method: SemiEvol) -> dict[str, Any]:
    """Flat keys `what/split/variant`; shares in [0, 1]."""
    metrics: dict[str, Any] = {}
    for name, evaluation in method.evaluations.items():
        interval = evaluation.interval
        metrics[f"accuracy/test/{name}"] = interval.mean
        metrics[f"accuracy/test/{name}/ci95"] = [interval.low, interval.high]
        for key in ("macro_f1", "f1", "ece", "auroc"):
            if key in evaluation.metrics:
                metrics[f"{key}/test/{name}"] = evaluation.metrics[key]
    final = method.evaluations.get("semievol")
    for name, evaluation in method.evaluations.items():
        if final is not None and name != "semievol":
            comparison = compare(evaluation, final)
            metrics[f"gain/test/semievol-vs-{name}"] = comparison.test.difference
            metrics[f"gain/test/semievol-vs-{name}/ci95"] = [comparison.test.low, comparison.test.high]
            metrics[f"p_value/test/semievol-vs-{name}"] = comparison.p_value
    metrics |= _pool_metrics(method.pool)
    metrics["pseudo/cut"] = _cut_rows(method)
    metrics["accepted"] = method.verdict.accepted
    metrics["rounds"] = method.round
    metrics["rows/labeled"] = len(method.labeled)
    metrics["rows/unlabeled"] = len(method.unlabeled)
    metrics["rows/test"] = len(method.test)
    return metrics


def _pool_metrics(pool: Sequence[PoolRow]) -> dict[str, Any]:
    kept = [row for row in pool if row.reason == "selected"]
    metrics: dict[str, Any] = {
        "pseudo/selected": len(kept),
        "pseudo/coverage": len(kept) / len(pool),
        "pseudo/agreed": float(np.mean([row.agreed for row in pool])),
        "pseudo/judged": sum(row.judged for row in pool),
        "pseudo/corrections": sum(row.correction for row in kept),
        "pseudo/unparsed": sum(row.reason == "unparsed" for row in pool),
    }
    known = [row for row in pool if row.correct is not None]
    if known:
        metrics["pseudo_accuracy/all"] = _share_correct(known)
        metrics["pseudo_accuracy/selected"] = _share_correct([r for r in known if r.reason == "selected"])
        metrics["pseudo_accuracy/not-selected"] = _share_correct([r for r in known if r.reason != "selected"])
        correct = [bool(row.correct) for row in known]
        metrics["pseudo_auroc"] = auroc([-row.uncertainty for row in known], correct)
        metrics["pseudo_ece"] = expected_calibration_error([row.probability for row in known], correct)
    return metrics


def _cut_rows(method: SemiEvol) -> int:
    """Unlabelled rows whose prompt was too long for the context for at least one voter."""
    return len({r.id for responses in method.responses.values() for r in responses if r.cut})


def build_report(method: SemiEvol, metrics: dict[str, Any]) -> Report:
    """The page: verdict, results, learning curves, pseudo-labels, time."""
    report = Report("SemiEvol", _headline(method, metrics), "good" if method.verdict.accepted else "bad")
    report.facts(_facts(method, metrics))
    if method.evaluations:
        report.table("Results on the test rows", *results_table(metrics), strong=len(method.evaluations) - 1)
    curves = _curves(method)
    if method.evaluations:
        variants = {
            NAMES.get(n, n): (metrics[f"accuracy/test/{n}"], *metrics[f"accuracy/test/{n}/ci95"])
            for n in method.evaluations
        }
        report.figure("Accuracy", plots.accuracy_bars(variants), f"{len(method.test)} test rows, greedy answers.")
    if curves:
        caption = "Unsmoothed training loss; label smoothing keeps it above 0."
        report.figure("Learning curves", plots.learning_curves(curves), caption)
    known = [row for row in method.pool if row.correct is not None]
    if known:
        correct = [bool(row.correct) for row in known]
        report.figure(
            "Confidence and correctness",
            plots.reliability([row.probability for row in known], correct),
            "Probability of the pseudo-label against how often it is right (hidden answers, never trained on).",
        )
        if method.task.kind == "choice":
            report.figure(
                "Pseudo-labels of each class",
                plots.grouped_bars(_class_quality(known), label="right, %"),
                "Share of right pseudo-labels by predicted class.",
            )
    kept = [row.uncertainty for row in method.pool if row.reason == "selected"]
    left = [row.uncertainty for row in method.pool if row.reason != "selected" and math.isfinite(row.uncertainty)]
    report.figure(
        "What was kept",
        plots.stacked_histogram({"selected": kept, "left out": left}, label="uncertainty (lower is surer)"),
        "The threshold is set inside each predicted class." if method.args.balance == "class" else "",
    )
    seconds = {k: v for k, v in method.stages.folder.seconds.items() if v >= 0.05}
    report.figure("Time of each stage", plots.stage_times(seconds), f"{sum(seconds.values()):.0f} seconds in all.")
    report.table("Pseudo-labels", *_pseudo_table(method, metrics))
    report.table("Voters", *_voter_table(method))
    if method.gate_report.warnings:
        report.text("What the data gate found", [f"{w[:1].upper()}{w[1:]}." for w in method.gate_report.warnings])
    report.text("How to read this", _notes(method))
    return report


def _headline(method: SemiEvol, metrics: dict[str, Any]) -> str:
    said = method.verdict.reason[:1].upper() + method.verdict.reason[1:]
    baseline = "sft-same-compute" if "sft-same-compute" in method.evaluations else "sft"
    key = f"gain/test/semievol-vs-{baseline}"
    if key in metrics:
        low, high = metrics[f"{key}/ci95"]
        gain = (
            f"On the test rows {metrics[key] * 100:+.1f} points over {NAMES[baseline]} "
            f"[{low * 100:+.1f}, {high * 100:+.1f}], p = {metrics[f'p_value/test/semievol-vs-{baseline}']:.2g}."
        )
        return f"{gain} {said}."
    return f"{said}."


def _facts(method: SemiEvol, metrics: dict[str, Any]) -> dict[str, Any]:
    trained = {
        "lora": f"LoRA, rank {method.args.lora_r}",
        "top_layers": f"the top {method.args.trainable_layers} blocks",
        "full": "all weights",
    }
    return {
        "model": method.stages.base,
        "labelled rows": f"{len(method.labeled)}" + (f" + {len(method.holdout)} held out" if method.holdout else ""),
        "unlabelled rows": len(method.unlabeled),
        "test rows": len(method.test),
        "learnt from": f"{metrics['pseudo/selected']} pseudo-labels ({metrics['pseudo/coverage']:.0%})",
        "rounds": method.round,
        "trained": trained[method.args.peft],
        "seed": method.args.seed,
    }


def results_table(metrics: Mapping[str, Any]) -> tuple[list[str], list[list[str]], str]:
    """Columns, rows and caption of the test results, out of what metrics.json holds."""
    names = [key.removeprefix("accuracy/test/") for key in metrics if key.startswith("accuracy/test/")]
    names = [name for name in names if not name.endswith("/ci95")]
    second, title = ("f1", "F1") if f"f1/test/{names[0]}" in metrics else ("macro_f1", "macro-F1")
    columns = ["variant", "accuracy, %", "95 % interval", title, "SemiEvol gains", "95 % interval", "p (McNemar)"]
    rows = []
    for name in names:
        low, high = metrics[f"accuracy/test/{name}/ci95"]
        row = [NAMES.get(name, name), f"{metrics[f'accuracy/test/{name}'] * 100:.1f}"]
        row += [f"{low * 100:.1f} – {high * 100:.1f}", f"{metrics.get(f'{second}/test/{name}', math.nan):.3f}"]
        key = f"gain/test/semievol-vs-{name}"
        if key in metrics:
            low, high = metrics[f"{key}/ci95"]
            row += [f"{metrics[key] * 100:+.1f}", f"{low * 100:+.1f} – {high * 100:+.1f}"]
            row.append(f"{metrics[f'p_value/test/semievol-vs-{name}']:.2g}")
        else:
            row += ["", "", ""]
        rows.append(row)
    caption = "Gains are paired, on the same rows: bootstrap interval over 10,000 draws, exact McNemar test."
    return columns, rows, caption


def _curves(method: SemiEvol) -> dict[str, list[tuple[int, float]]]:
    names = {method.warm: "SFT", method.controlled: "SFT, same compute", method.evolved: "SemiEvol"}
    curves = {}
    for reference, name in names.items():
        folder = Path(reference).parent if reference else None
        if folder is not None and (folder / "training.json").is_file():
            curves[name] = FineTuneResult.load(folder).losses
    return curves


def _class_quality(known: Sequence[PoolRow]) -> dict[str, dict[str, float]]:
    quality: dict[str, dict[str, float]] = {}
    for answer in sorted({row.pseudo_answer for row in known if row.pseudo_answer is not None}):
        rows = [row for row in known if row.pseudo_answer == answer]
        quality[answer] = {
            "all": _share_correct(rows),
            "selected": _share_correct([r for r in rows if r.reason == "selected"]),
        }
    return quality


def _pseudo_table(method: SemiEvol, metrics: dict[str, Any]) -> tuple[list[str], list[list[Any]], str]:
    columns = ["answer", "rows", "selected", "right of all, %", "right of selected, %"]
    counts = Counter(row.pseudo_answer for row in method.pool if row.pseudo_answer is not None)
    rows = []
    groups: list[tuple[str, list[PoolRow]]] = [("all", list(method.pool))]
    if method.task.kind == "choice" and len(counts) <= 20:
        groups += [(str(a), [r for r in method.pool if r.pseudo_answer == a]) for a in sorted(map(str, counts))]
    for name, members in groups:
        kept = [r for r in members if r.reason == "selected"]
        rows.append([name, len(members), len(kept), _percent(members), _percent(kept)])
    said = f"{metrics['pseudo/agreed']:.0%} of the rows had one answer from all voters"
    if metrics["pseudo/cut"]:
        said += f"; {metrics['pseudo/cut']} rows had to be shortened to fit the context"
    if method.judge_trial is not None:
        said += f"; {method.judge_trial}"
    if method.certified is not None:
        said += (
            f"; at least {method.args.target_precision:.0%} of the selected are right "
            f"with {method.args.certainty:.0%} certainty"
        )
    return columns, rows, said + "."


def _voter_table(method: SemiEvol) -> tuple[list[str], list[list[Any]], str]:
    rows = []
    total = sum(method.weights.weights)
    for voter, weight, accuracy in zip(method.voters, method.weights.weights, method.weights.accuracies, strict=True):
        shown = "" if math.isnan(accuracy) else f"{accuracy * 100:.1f}"
        rows.append([voter.name, voter.demonstrations, voter.wording, shown, f"{weight / total:.2f}"])
    caption = (
        f"Accuracy on {method.weights.rows} labelled rows that the asked model was not trained on."
        if method.weights.rows
        else "No held-out labelled rows: all voters weigh the same."
    )
    return ["voter", "demonstrations", "wording", "held-out accuracy, %", "weight"], rows, caption


def _notes(method: SemiEvol) -> list[str]:
    notes = [
        "SFT is trained on the labelled rows alone; “same compute” takes as many steps as SemiEvol's final training, "
        "from the same start and at the same learning rate. SemiEvol learns the labelled rows and the selected "
        "pseudo-labels. All variants answer the same test rows.",
    ]
    if not method.verdict.accepted:
        notes.append("The evolved model was worse than before on labelled rows, so the warmed-up model was kept.")
    return notes


def _share_correct(rows: Sequence[PoolRow]) -> float:
    return float(np.mean([bool(r.correct) for r in rows])) if rows else math.nan


def _percent(rows: Sequence[PoolRow]) -> str:
    known = [r for r in rows if r.correct is not None]
    return f"{_share_correct(known) * 100:.1f}" if known else ""
