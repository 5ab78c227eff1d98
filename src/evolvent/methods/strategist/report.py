"""What a Strategist run says about itself: metrics.json and the HTML report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from evolvent.methods.strategist.belief_scores import score_belief
from evolvent.methods.strategist.belief_tables import fit_tables
from evolvent.methods.strategist.ratings import Z95, side_ratings
from evolvent.methods.strategist.sandbox.workers import FORBIDDEN
from evolvent.runs import plots
from evolvent.runs.report import Report

if TYPE_CHECKING:
    from evolvent.methods.strategist.strategist import Strategist

Verdict = Literal["good", "bad", "neutral"]
LEAST_GAMES = 50  # below, calibration is noise
OPPONENTS = {
    "seed": "the seed",
    "rollout": "one playout a leaf, equal simulations",
    "random": "random play",
    "silence": "saying nothing",
}


def build_metrics(method: Strategist) -> dict[str, Any]:
    """Flat keys `margin/final/WHO-vs-WHOM` in points (or ±1) a game, with intervals over game pairs."""
    tree, queue = method.memory.tree, method.memory.queue
    failed = [n for n in tree.nodes.values() if n.failed is not None]
    metrics: dict[str, Any] = {}
    for key in method.final:
        mean, low, high = method.interval(key)
        metrics[f"margin/final/{key}"] = mean
        metrics[f"margin/final/{key}/ci95"] = [low, high]
    games = sum(2 * len(m.margins) for m in method.matches)
    metrics |= {
        "skills": len(tree), "skills/failed": len(failed), "ideas": len(queue),
        "ideas/tried": sum(d.tries > 0 for d in queue.ideas.values()), "games/tournament": games,
        "games/self-play": method.args.feedback_games * len(method.memory.replays),
        "llm/calls": method.budget.calls, "llm/tokens": method.budget.tokens,
        "rating/best": tree.best.score, "rating/seed": tree["s0"].score,
        "skills/by-llm": sum(n.proposer.startswith("llm") for n in tree.nodes.values()),
        "security": sum(FORBIDDEN in (n.failed or "") for n in failed),
    }  # fmt: skip
    return metrics


def build_report(method: Strategist, metrics: Mapping[str, Any]) -> Report:
    """The page: verdict, strength, the family tree, ideas with their credit, the skill itself."""
    tree = method.memory.tree
    best = tree.best
    report = Report(f"Strategist on {method.game.name}", *_headline(method, metrics))
    report.facts(_facts(method, metrics))
    report.table("Strength on fresh deals", *_strength_table(method), strong=0)
    points = {n.id: (n.evolution, n.score, Z95 * n.error, n.parent) for n in tree.nodes.values() if n.failed is None}
    on_path = [n.id for n in tree.lineage(best)]
    failed = metrics["skills/failed"]
    caption = (
        f"Every skill with its 95 % interval; lines lead from parent to child, {' → '.join(on_path)} is the way to the "
        f"best one.{f' Not drawn: {failed} that failed.' if failed else ''}"
    )
    report.figure("Rating over generations", plots.family_tree(points, on_path, label="rating, points a game"), caption)
    if len(method.games) >= LEAST_GAMES:
        report.figure("Calibration of beliefs by quest", *_calibration(method))
    seconds = {k: v for k, v in method.folder.seconds.items() if v >= 0.05}
    report.figure("Time of each stage", plots.stage_times(seconds), f"{sum(seconds.values()):.0f} seconds in all.")
    report.text(f"The skill {best.id}", str(best.skill).splitlines())
    report.table("How it came about", *_path_table(method))
    report.table("Ideas by credit", *_idea_table(method))
    if method.game.name == "avalon" and not method.rehearsal:
        report.table("Effects by side, log-odds", *_side_table(method))
    failures = [[n.id, n.parent or "", n.failed] for n in tree.nodes.values() if n.failed is not None]
    if failures:
        report.table("Skills that failed", ["skill", "parent", "why"], failures)
    report.text("How to read this", _notes(method))
    return report


def _headline(method: Strategist, metrics: Mapping[str, Any]) -> tuple[str, Verdict]:
    key = "margin/final/best-vs-seed"
    if key not in metrics:
        return "No skill is better than the seed.", "bad"
    low, high = metrics[f"{key}/ci95"]
    verdict: Verdict = "good" if low > 0 else "bad" if high < 0 else "neutral"
    unit = "of trust" if method.rehearsal else "points" if method.game.name == "gops" else "of a win"
    said = f"{metrics[key]:+.2f} {unit} a game over the seed [{low:+.2f}, {high:+.2f}] on deals that chose nothing."
    return f"{said} Ideas: {method.proposer.name}.", verdict


def _facts(method: Strategist, metrics: Mapping[str, Any]) -> dict[str, Any]:
    settings = ", ".join(f"{k} {v}" for k, v in method.game.settings.items() if v not in (False, [], ()))
    facts = {
        "game": settings or method.game.name,
        "proposer": method.proposer.name,
        "improvement": method.args.improvement,
        "skills": f"{metrics['skills']} ({metrics['skills/failed']} failed)",
        "ideas": f"{metrics['ideas']} ({metrics['ideas/tried']} tried)",
        "games": f"{metrics['games/tournament'] + metrics['games/self-play']:,}",
        "search": f"{method.args.search_budget} simulations, {method.selection}",
        "sandbox": method.args.sandbox,
        "seed": method.args.seed,
    }
    if metrics["llm/calls"]:
        facts["model"] = f"{metrics['llm/calls']} prompts, {metrics['llm/tokens']:,} tokens written"
    if method.probe is not None:
        facts["probe"] = method.probe.summary()
    return facts


def _strength_table(method: Strategist) -> tuple[list[str], list[list[str]], str]:
    rows = []
    for who in ("best", "seed"):
        for opponent, name in OPPONENTS.items():
            if f"{who}-vs-{opponent}" in method.final:
                mean, low, high = method.interval(f"{who}-vs-{opponent}")
                rows.append([f"{'the best skill' if who == 'best' else 'the seed'} against {name}", f"{mean:+.2f}",
                             f"{low:+.2f} – {high:+.2f}"])  # fmt: skip
    caption = f"{method.args.final_games} game pairs with seats swapped; bootstrap interval over pairs."
    return ["who", "margin a game", "95 % interval"], rows, caption


def _path_table(method: Strategist) -> tuple[list[str], list[list[str]], str]:
    ideas = method.memory.queue.ideas
    rows = []
    for node in method.memory.tree.lineage(method.memory.tree.best):
        idea = ideas[node.idea].text if node.idea else "given"
        rows.append([node.id, f"{node.score:+.2f}", _cut(idea), "; ".join(node.notes)])
    return (
        ["skill", "rating", "idea", "notes"],
        rows,
        f"Skills and ideas are by {method.proposer.name}; s0 is the seed.",
    )


def _calibration(method: Strategist) -> tuple[str, str]:
    """P(evil) by tables fitted on the first 70 % of the final games against who was evil in the others."""
    cut = int(0.7 * len(method.games))
    scored = score_belief(method.games[cut:], fit_tables(method.games[:cut]))
    svg = plots.calibration_curves(scored.calibration(), said="P(evil) said", was="share that was evil")
    caption = (
        f"Self-play of the best skill on new deals, seen from outside the table: fitted on {cut} games, shown on the "
        f"other {len(method.games) - cut}; log-loss of the evil set {scored.metrics()['log_loss/evil_set']:.2f}."
    )
    return svg, caption


def _idea_table(method: Strategist) -> tuple[list[str], list[list[str]], str]:
    tried = [d for d in method.memory.queue.ideas.values() if d.tries]
    tried.sort(key=lambda d: (-d.score, d.id))
    rows = [[d.id, f"{d.score:+.2f}", str(d.tries), _cut(d.text)] for d in tried[:15]]
    return (
        ["idea", "credit", "tries", "text"],
        rows,
        "Credit: mean rating gained over the parent, in spreads of a round.",
    )


def _side_table(method: Strategist) -> tuple[list[str], list[list[str]], str]:
    players = list(dict.fromkeys(n for m in method.matches for n in (m.first, m.second)))
    effects = side_ratings(method.matches, players, l2=method.args.rating_l2)
    rows = [[p, f"{good:+.2f}", f"{evil:+.2f}"] for p, (good, evil) in effects.items()]
    rows.sort(key=lambda row: -float(row[1]) - float(row[2]))
    return ["skill", "as good", "as evil"], rows[:15], "Logistic ridge over all tournament games."


def _notes(method: Strategist) -> list[str]:
    notes = [
        "Ratings come from all tournament games of the run at once, so that skills of different rounds compare; the "
        "table of strength is from new deals, because whatever was selected looks better than it is on the old ones.",
    ]
    if "no LLM" in method.proposer.name:
        notes.append("No language model had a part in these skills: ideas are regressions or random edits.")
    return notes


def _cut(text: str, length: int = 72) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
