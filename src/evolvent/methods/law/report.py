"""The page of a run: before and after for each group and relation, attacks, worst retained facts, spectra."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evolvent.methods.law.measurement import FORGET, GROUPS, Measurement
from evolvent.runs import plots
from evolvent.runs.report import Report

if TYPE_CHECKING:
    from evolvent.methods.law.law import Law

NAMES = {
    "base": "before",
    "law": "LAW",
    "ascent": "gradient ascent",
    "difference": "ascent + retained text",
    "npo": "NPO",
    "refusal": "learn to refuse",
}
WORST = 12
WANTED = {  # facts without which an attack is not tried
    "paraphrase": "paraphrases that brought them",
    "chat": "questions that brought them in a chat",
    "relearn": "two facts or more",
    "membership": "references that were never known",
    "few-shot": "known facts of the same relations",
}


def build_report(method: Law, metrics: Mapping[str, Any]) -> Report:
    """The page."""
    before, after = metrics[f"known/{FORGET}/base"], metrics[f"known/{FORGET}/law"]
    gone = after <= method.args.stop_accuracy
    said = f"{_percent(before)} % of the facts were known before, {_percent(after)} % after"
    kept = metrics.get("known/same-relation/law")
    said += f"; {_percent(kept)} % of other facts of the same relations are still known." if kept is not None else "."
    back = metrics.get("known/forget/law-relearn-other-half")
    if back is not None:
        said += f" Fine-tuning on half of the facts brings {_percent(back)} % of the other half back."
    report = Report("LAW", said, "good" if gone else "bad")
    report.facts(_facts(method, metrics))
    report.table("Before and after", *results_table(metrics), strong=1)
    if method.variants["base"].groups:
        report.table("By relation", *_relations(method))
    if method.audit_result is not None:
        report.table("Attacks", *_attacks(method))
    groups = [g for g in (FORGET, *GROUPS) if f"known/{g}/law" in metrics]
    bars = {
        g: {NAMES[v]: metrics[f"known/{g}/{v}"] for v in method.variants if f"known/{g}/{v}" in metrics} for g in groups
    }
    report.figure("Known facts", plots.grouped_bars(bars, label="known, %"), "Object is the most probable next token.")
    spectra = {
        f"block {e.layer}" + (f", round {n}" if len(method.edits) > 1 else ""): e.spectrum
        for n, edits in enumerate(method.edits, 1)
        for e in edits
    }
    if spectra:
        caption = "Eigenvalues γ of the forget keys, whitened by what must stay: a few directions carry most facts."
        report.figure("Spectra", plots.spectra(dict(list(spectra.items())[:6])), caption)
    seconds = {k: v for k, v in method.folder.seconds.items() if v >= 0.05}
    report.figure("Time of each stage", plots.stage_times(seconds), f"{sum(seconds.values()):.0f} seconds in all.")
    report.table("Edits", *_edits(method))
    lost = _worst(method)
    if lost:
        columns = ["group", "subject", "object", "probability before", "after"]
        report.table("Kept facts that lost most", columns, lost, "These were known before; look here first.")
    left = [k for k in method.variants["law"].groups[FORGET] if k.anywhere]
    if left:
        names = {f.id: f"{f.subject} → {f.object}" for f in method.known}
        rows = [
            [names[k.id], _mark(k.known), f"{sum(k.paraphrases)} of {len(k.paraphrases)}", k.answer[:60]] for k in left
        ]
        report.table("Not washed", ["fact", "by its prompt", "by paraphrases", "in the chat"], rows[:WORST])
    report.text("How to read this", NOTES)
    return report


NOTES = [
    "A fact counts as known when the first token of its object is the most probable one after its prompt. Paraphrases "
    "and chats count where the model answered them before. Perplexity alone says little: a method may leave it as it "
    "was and still take the whole relation away, so look at other facts of the same relations.",
    "The folder undo/ holds the difference to the original weights. Whoever has it has the facts: delete it, or keep "
    "it where the original model is kept.",
]


def results_table(metrics: Mapping[str, Any]) -> tuple[list[str], list[list[str]], str]:
    """Columns, rows and caption of before and after, out of what metrics.json holds."""
    prefix = "perplexity/general/"
    variants = [k.removeprefix(prefix) for k in metrics if k.startswith(prefix)]
    variants = [v for v in variants if v in NAMES]
    columns = ["variant", "forget", "paraphrases", "chat", *GROUPS, "same relation, chat", "perplexity"]
    keys = [f"known/{FORGET}", f"paraphrase/{FORGET}", f"chat/{FORGET}"]
    keys += [f"known/{g}" for g in GROUPS] + ["chat/same-relation"]
    rows = []
    for variant in variants:
        cells = [_percent(metrics.get(f"{key}/{variant}")) for key in keys]
        rows.append([NAMES[variant], *cells, f"{metrics[prefix + variant]:.1f}"])
    counts = ", ".join(f"{metrics[f'known/{g}/law/n']} {g}" for g in (FORGET, *GROUPS) if f"known/{g}/law/n" in metrics)
    caption = f"Facts known, %; {counts}."
    return columns, rows, caption + (" Gradient methods stopped when they had forgotten as much." if rows[2:] else "")


def _facts(method: Law, metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": method.model.name,
        "facts": f"{metrics['facts/known']} known of {metrics['facts/given']} given",
        "blocks": ", ".join(map(str, method.layers)),
        "solver": method.args.method,
        "target": method.args.target,
        "reference subjects": len(method.references),
        "rounds": metrics["rounds"],
        "perplexity": f"× {metrics['perplexity/ratio']:.3f}",
        "seed": method.args.seed,
    }


def _relations(method: Law) -> tuple[list[str], list[list[Any]], str]:
    rows = []
    relations = list(dict.fromkeys(f.relation for f in method.known))
    for relation in relations:
        row: list[Any] = [relation or "(none named)"]
        for group in (FORGET, "same-relation"):
            places = [i for i, f in enumerate(method.questions.facts(group)) if f.relation == relation]
            row.append(len(places))
            row += [_percent(_share(method.variants[v], group, places)) for v in ("base", "law")]
        rows.append(row)
    columns = ["relation", "facts", "before", "after", "held-out facts", "before", "after"]
    return columns, rows, "Known, %: facts to forget, and other facts of the same relation."


def _attacks(method: Law) -> tuple[list[str], list[list[Any]], str]:
    assert method.audit_result is not None
    audit = method.audit_result
    certificate = audit.certificate(method.known, method.folder.path("checkpoint"))
    tried = {name: c for name, c in certificate["attacks"].items() if c["tried"]}
    rows = [[name, c["tried"], c["recovered"], f"{c['at_most']:.1%}"] for name, c in tried.items()]
    said = ["At most: exact 95 % upper bound of the share of such facts that the attack brings back."]
    untried = [a for a in method.args.attacks if a not in tried]
    if "membership_auroc/forget/law" in audit.metrics:
        untried.remove("membership")
    if untried:
        said.append(f"Not tried, for want of facts: {', '.join(f'{a} ({WANTED[a]})' for a in untried)}.")
    if "membership_auroc/forget/law" in audit.metrics:
        was, now = (audit.metrics[f"membership_auroc/forget/{v}"] for v in ("base", "law"))
        said.append(f"Membership: AUROC {was:.2f} before, {now:.2f} after (0.5: washed facts look like unknown ones).")
    if "known/forget/law-relearn-other-half" in audit.metrics:
        share = audit.metrics["known/forget/law-relearn-other-half"]
        said.append(
            f"Relearning: {method.args.relearn_steps} steps on half of the facts; {_percent(share)} % of the other "
            f"half came back, {_percent(audit.metrics['known/forget/law-relearn-taught'])} % of the taught half."
        )
    for name, title in (("few-shot", "After five demonstrations"), ("lens", "In some block's state")):
        was, now, never = (
            audit.metrics.get(f"known/{key}-{name}") for key in ("forget/base", "forget/law", "never-known/law")
        )
        if was is not None and now is not None:
            guessed = "" if never is None else f", and {_percent(never)} % of facts that the model never knew"
            said.append(f"{title}: {_percent(was)} % of the facts before, {_percent(now)} % after{guessed}.")
    return ["attack", "facts tried", "came back", "at most"], rows, " ".join(said)


def _edits(method: Law) -> tuple[list[str], list[list[Any]], str]:
    rows = [
        [
            n,
            e.layer,
            e.facts,
            f"{e.lam:.3g}",
            f"{e.t:g}",
            f"{e.beta:.4f}",
            f"{e.norm:.3f}",
            e.rank,
            _percent(e.still_known),
        ]
        for n, edits in enumerate(method.edits, 1)
        for e in edits
    ]
    columns = ["round", "block", "facts", "λ", "t", "β", "‖Δ‖ / ‖W‖", "rank", "still known, %"]
    return columns, rows, "β: output energy that the edit adds on general text, as a share of the block's own."


def _worst(method: Law) -> list[list[Any]]:
    found = []
    for group in GROUPS:
        for fact, b, k in zip(
            method.questions.facts(group),
            method.variants["base"].groups[group],
            method.variants["law"].groups[group],
            strict=True,
        ):
            if b.known:
                found.append((k.probability / max(b.probability, 1e-9), group, fact, b.probability, k.probability))
    found.sort(key=lambda row: row[0])
    return [[g, f.subject, f.object, f"{p:.3f}", f"{q:.3f}"] for _, g, f, p, q in found[:WORST]]


def _share(found: Measurement, group: str, places: list[int]) -> float | None:
    rows = [found.groups[group][i].known for i in places]
    return sum(rows) / len(rows) if rows else None


def _percent(value: float | None) -> str:
    return "" if value is None or value != value else f"{100 * value:.1f}"


def _mark(yes: bool) -> str:
    return "yes" if yes else "no"
