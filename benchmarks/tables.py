"""Copy measured rows into the docs: python -m benchmarks.tables   (--check only tells whether they agree)

Between `<!-- table: NAME -->` and `<!-- end -->` in README.md and docs/ stands a table that a function here draws from
`results/*.json`. Nobody types a number twice.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.results_file import FOLDER, ROOT

Row = dict[str, Any]
MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
CORPORA = {"bbc": "BBC news, 20 labels, 800 raw rows", "fpb": "Financial PhraseBank, 32 labels, 1,359 raw rows"}
VARIANTS = {
    "zero-shot": "zero-shot",
    "few-shot": "few-shot, 3 nearest labels",
    "sft": "SFT on the labels",
    "sft-same-compute": "SFT, as many steps as SemiEvol",
}


def quality(rows: dict[str, Row]) -> str:
    """Accuracy of every variant, and what SemiEvol adds to it."""
    head = ["test accuracy, %"]
    for corpus, name in CORPORA.items():
        head += [f"{name} ({len(rows[f'{corpus}: SemiEvol test accuracy']['seeds'])} seeds)", "SemiEvol adds"]
    lines = [head]
    for variant, name in VARIANTS.items():
        line = [name]
        for corpus in CORPORA:
            row = rows[f"{corpus}: SemiEvol minus {variant}, test accuracy"]
            low, high = row["ci95"]
            gain = f"{row['value']:+.1f} [{low:+.1f}, {high:+.1f}], p {_p(row['p_value'])}"
            line += [f"{row['comparator_value']:.1f}", gain]
        lines.append(line)
    final, labelled, kept = ["**SemiEvol**"], ["its pseudo-labels, all"], ["its pseudo-labels, selected"]
    for corpus in CORPORA:
        row = rows[f"{corpus}: SemiEvol test accuracy"]
        gap = rows[f"{corpus}: selected pseudo-labels minus all of them, accuracy"]
        final += [f"**{row['value']:.1f}**", f"[{row['ci95'][0]:.1f}, {row['ci95'][1]:.1f}]"]
        labelled += [f"{gap['comparator_value']:.1f}", ""]
        kept += [f"{gap['comparator_value'] + gap['value']:.1f}", f"{gap['value']:+.1f}"]
    return _table([*lines, final, labelled, kept])


def demo(rows: dict[str, Row]) -> str:
    """The one run of `make demo`."""
    lines = [["600 raw rows, seed 0", "test accuracy, %", "SemiEvol adds"]]
    for variant, name in VARIANTS.items():
        row = rows[f"demo: SemiEvol minus {variant}, test accuracy"]
        (low, high), (least, most) = row["comparator_ci95"], row["ci95"]
        gain = f"{row['value']:+.1f} [{least:+.1f}, {most:+.1f}], p {_p(row['p_value'])}"
        lines.append([name, f"{row['comparator_value']:.1f} [{low:.1f}, {high:.1f}]", gain])
    final = rows["demo: SemiEvol test accuracy"]
    lines.append(["**SemiEvol**", f"**{final['value']:.1f}** [{final['ci95'][0]:.1f}, {final['ci95'][1]:.1f}]", ""])
    return _table(lines)


def labels(rows: dict[str, Row]) -> str:
    """What each way to count the votes makes of the same answers."""
    lines = [["right pseudo-labels, %: all / selected", *(name.split(",")[0] for name in CORPORA.values())]]
    counted = dict.fromkeys(row["what"] for claim, row in rows.items() if claim.startswith("labels: "))
    for what in counted:
        found = [rows[f"labels: {corpus}, {what}"] for corpus in CORPORA]
        lines.append([what, *(f"{row['all']:.1f} / {row['value']:.1f}" for row in found)])
    return _table(lines)


def attempts(rows: dict[str, Row]) -> str:
    """What each change of the recipe does."""
    lines = [["change", "corpus, seeds", "selected right", "SemiEvol", "the recipe", "over SFT, as many steps"]]
    for claim, row in rows.items():
        if claim.startswith("attempt: "):
            low, high = row["gain_ci95"]
            lines.append(
                [
                    row["what"],
                    f"{row['corpus']}, {', '.join(map(str, row['seeds']))}",
                    f"{row['selected']:.1f}",
                    f"{row['value']:.1f}",
                    f"{row['comparator_value']:.1f}",
                    f"{row['gain']:+.1f} [{low:+.1f}, {high:+.1f}], p {_p(row['p_value'])}",
                ]
            )
    return _table(lines)


def speed(rows: dict[str, Row]) -> str:
    """Ratios to named comparators."""
    lines = [["", "against", "ratio"]]
    for row in rows.values():
        if "ratio" in row:
            lines.append([row["claim"].partition(", against ")[0], row["comparator"], f"{row['ratio']:.2f}×"])
    return _table(lines)


ENGINES = {
    "grep": "`grep` for all the words (what the list itself offers)",
    "title BM25": "BM25 over titles",
    "lexical without synonyms": "BM25 over cards",
    "lexical": "**lexical**: BM25 over cards with synonyms",
    "page": "MiniSearch in the page",
    "dense cards": "MiniLM over cards",
    "dense facets": "MiniLM, best facet",
    "hybrid": "**hybrid** (default)",
}


def atlas_search(rows: dict[str, Row]) -> str:
    """nDCG@10 of each engine on the half that chose nothing, and on all queries."""
    kinds = [(half, kind) for half in ("odd", "all") for kind in ("paraphrase", "keyword")]
    lines = [["nDCG@10", *(f"{kind}, {'other half' if half == 'odd' else 'all'}" for half, kind in kinds)]]
    for engine, name in ENGINES.items():
        found = [rows[f"atlas/search/ndcg@10/{kind}/{half}/{engine}"] for half, kind in kinds]
        lines.append([name, *(f"{row['value']:.3f}" for row in found)])
    return _table(lines)


def atlas_speed(rows: dict[str, Row]) -> str:
    """Times and sizes beside their comparators."""
    lines = [["", "measured", "against", "that is", "ratio"]]
    for claim, row in rows.items():
        if claim.startswith("atlas/speed/"):
            value, other = (f"{row[key]:.3g} {row['unit']}" for key in ("value", "comparator_value"))
            lines.append([claim.removeprefix("atlas/speed/"), value, row["comparator"], other, f"{row['ratio']:.3g}×"])
    return _table(lines)


def atlas_recommend(rows: dict[str, Row]) -> str:
    """The order of recommend beside that of search."""
    lines = [["nDCG@10 on the other half, rows with hub weights", "recommend", "hybrid search"]]
    for kind in ("paraphrase", "keyword"):
        row = rows[f"atlas/recommend/ndcg@10/{kind}/odd"]
        lines.append([kind, f"{row['value']:.3f}", f"{row['comparator_value']:.3f}"])
    return _table(lines)


def strategist_guidance(rows: dict[str, Row]) -> str:
    """A2: heuristics at the leaves against one playout."""
    budgets = (16, 32, 100, 400)
    lines = [["win rate against one playout a leaf", *(f"{budget} simulations" for budget in budgets)]]
    for name in ("ridge", "sorted match", "hand-sum share", "score only"):
        found = [rows[f"A2: {name} against one playout, {budget} simulations"] for budget in budgets]
        cells = [f"{row['value']:.3f} [{row['ci95'][0]:.3f}, {row['ci95'][1]:.3f}]" for row in found]
        lines.append([name, *cells])
    return _table(lines)


def strategist_exploitability(rows: dict[str, Row]) -> str:
    """A3: what a best response wins."""
    cells = (("duct", 100, 4), ("duct", 1000, 4), ("rm", 1000, 4), ("duct", 100, 5), ("duct", 300, 5), ("rm", 300, 5))
    lines = [["points a game", *(f"{cards} cards, {budget}, {kind}" for kind, budget, cards in cells)]]
    for name in ("score only", "playouts", "ridge", "evolved"):
        found = [rows.get(f"A3: {name}, {kind}, {budget} simulations, {cards} cards") for kind, budget, cards in cells]
        lines.append([name, *(f"{row['value']:.2f}" if row else "" for row in found)])
    return _table(lines)


def strategist_humans(rows: dict[str, Row]) -> str:
    """A4: the belief on human games."""
    lines = [["1,500 later games", "log-loss of the evil set, nats", "set named exactly"]]
    uniform = rows["A4: log-loss of the evil set, and votes"]["comparator_value"]
    lines.append(["uniform", f"{uniform:.2f}", ""])
    for name in ("hard logic", "and fails", "and votes"):
        loss, named = (rows[f"A4: {what}, {name}"]["value"] for what in ("log-loss of the evil set", "evil set named"))
        lines.append([name, f"{loss:.2f}", f"{100 * named:.1f} %"])
    return _table(lines)


def strategist_table(rows: dict[str, Row]) -> str:
    """A5: good teams against scripted evil."""
    lines = [["good team of Avalon-5", "wins the quests, %", "wins the game, %"]]
    for name in ("memoryless", "hard logic", "belief without votes", "exact belief"):
        found = [rows[f"A5: {what} won by good, {name}"] for what in ("quests", "game")]
        cells = [f"{100 * r['value']:.1f} [{100 * r['ci95'][0]:.1f}, {100 * r['ci95'][1]:.1f}]" for r in found]
        lines.append([name, *cells])
    return _table(lines)


def strategist_speed(rows: dict[str, Row]) -> str:
    """Rates beside their comparators."""
    lines = [["", "a second", "against", "a second", "ratio"]]
    for claim, row in rows.items():
        if claim.startswith("speed: "):
            value, other = (f"{row[key]:,.0f}" for key in ("value", "comparator_value"))
            lines.append([claim.removeprefix("speed: "), value, row["comparator"], other, f"{row['ratio']:.1f}×"])
    return _table(lines)


def strategist_evolve(rows: dict[str, Row]) -> str:
    """What evolved skills win against the seed and against one playout a leaf."""
    lines = [["points a game", "against the seed", "against one playout a leaf", "seeds", "games a run"]]
    names = dict.fromkeys(re.findall(r"^A1: (.+), evolved against seed$", "\n".join(rows), re.MULTILINE))
    for name in names:
        first, second = (rows[f"A1: {name}, evolved against {other}"] for other in ("seed", "rollout"))
        lines.append(
            [name, _with_interval(first), _with_interval(second), str(len(first["seeds"])), f"{first['games']:,.0f}"]
        )
    base = rows["A1: residual, evolved against rollout"]["comparator_value"]
    return _table([*lines, ["the seed: score so far", "", f"{base:+.2f}", "", ""]])


def strategist_control(rows: dict[str, Row]) -> str:
    """Paired differences between proposers."""
    others = {"seed": "against the seed", "rollout": "against one playout a leaf", "each other": "at one table"}
    lines = [["points a game", "minus", *others.values(), "seeds ahead, in this order"]]
    for claim in rows:
        if found := re.fullmatch(r"A1: (.+) minus (.+), against seed", claim):
            pair = [rows[f"A1: {found[1]} minus {found[2]}, against {other}"] for other in others]
            ahead = " / ".join(f"{row['seeds_ahead']} of {len(row['seeds'])}" for row in pair)
            tests = (f", p {_p(row['p_value'])}" if "p_value" in row else "" for row in pair)
            shown = (_with_interval(row) + test for row, test in zip(pair, tests, strict=True))
            lines.append([found[1], found[2], *shown, ahead])
    return _table(lines)


def strategist_rl(rows: dict[str, Row]) -> str:
    """Learners of a value, and the evolved skill against each."""
    lines = [["320 episodes, 2 seeds; points a game", "against one playout a leaf", "the evolved skill against it"]]
    for claim, row in rows.items():
        if found := re.fullmatch(r"A1: evolved skill against (.+)", claim):
            alone = rows[f"A1: {found[1]}, against rollout"]
            lines.append([found[1].removesuffix(", 320 episodes"), _with_interval(alone), _with_interval(row)])
    return _table(lines)


def strategist_gates(rows: dict[str, Row]) -> str:
    """The sandbox."""
    lines = [["", "measured", "gate"]]
    for claim, row in rows.items():
        if claim.startswith("A6: ") and row["comparator"] == "gate":
            lines.append([claim[4:], f"{row['value']:.3g} {row['unit']}", f"{row['comparator_value']:g}"])
    return _table(lines)


def strategist_probe(rows: dict[str, Row]) -> str:
    """What the embedded model can do, and what it would have to."""
    lines = [["embedded SmolLM2-135M", "measured", "needed"]]
    for claim, row in rows.items():
        if claim.startswith(("A7: ", "guides: ")) and row["comparator"] == "gate":
            needed = f"{row['comparator_value']:g}" if row["comparator_value"] else "0 (it may not write)"
            what = claim.partition(": ")[2]
            lines.append([what, f"{row['value']:.3g} {row['unit']}", needed])
    return _table(lines)


def strategist_guides(rows: dict[str, Row]) -> str:
    """Guides of typed acts against silence and against what they grew from."""
    measured = {"seed-vs-silence": "the seed", "best-vs-silence": "learnt", "best-vs-seed": "learnt minus the seed"}
    lines = [["z, from −2 to 2; saying nothing is 0", *measured.values(), "of one seed"]]
    for role in ("merlin", "good", "evil"):
        found = [rows[f"guides: {role}, {key}"] for key in measured]
        cells = (f"{r['value']:+.3f} [{r['ci95'][0]:+.3f}, {r['ci95'][1]:+.3f}]" for r in found)
        lines.append([role, *cells, found[-1]["guides"][0].replace("\n", "<br>")])
    return _table(lines)


def _with_interval(row: Row) -> str:
    return f"{row['value']:+.2f} [{row['ci95'][0]:+.2f}, {row['ci95'][1]:+.2f}]"


LAW_QUESTIONS = {
    "forget known by prompt": "forget",
    "forget known by paraphrase": "paraphrases",
    "forget known by chat": "chat",
    "same-relation known by prompt": "same relation",
    "same-relation known by chat": "same relation, chat",
    "same-subject known by prompt": "same subject",
    "other known by prompt": "other",
}
LAW_VARIANTS = {
    "before": "96 facts: {}, before",
    "**LAW**": "96 facts: {}, LAW",
    "LAW, the recipe before": "96 facts, the recipe before: {}, LAW",
    "gradient ascent": "96 facts: {}, ascent",
    "gradient difference": "96 facts: {}, difference",
    "NPO": "96 facts: {}, NPO",
    "learning to refuse": "96 facts: {}, refusal",
}


def law(rows: dict[str, Row]) -> str:
    """Known facts of every variant with 95 % intervals, seeds pooled."""
    lines = [["known, %", *LAW_QUESTIONS.values(), "perplexity"]]
    for variant, claim in LAW_VARIANTS.items():
        line = [variant]
        for question in LAW_QUESTIONS:
            row = rows.get(claim.format(question))
            line.append(f"{row['value']:.1f} [{row['ci95'][0]:.1f}, {row['ci95'][1]:.1f}]" if row else "")
        ratio = rows.get(claim.format("perplexity over the original's"))
        if ratio:
            lines.append([*line, f"×{ratio['value']:.3f}"])
    return _table(lines)


def law_stretch(rows: dict[str, Row]) -> str:
    """Known facts when many relations are washed at once."""
    many = next((claim.partition(":")[0] for claim, row in rows.items() if "relations" in row), "")
    lines = [["known, %", "n", "before", "LAW"]]
    for question, name in LAW_QUESTIONS.items():
        row = rows.get(f"{many}: {question}, LAW")
        if row and row["n"]:
            interval = f"{row['value']:.1f} [{row['ci95'][0]:.1f}, {row['ci95'][1]:.1f}]"
            lines.append([name, str(row["n"]), f"{row['comparator_value']:.1f}", interval])
    ratio = rows.get(f"{many}: perplexity over the original's, LAW")
    return _table([*lines, ["perplexity", "", "×1.000", f"×{ratio['value']:.3f}"]] if ratio else lines)


def law_audit(rows: dict[str, Row]) -> str:
    """What attacks brought back."""
    names = (
        "forget known after a 4-bit round trip",
        "the other half known after relearning half of the facts",
        "the taught half known after relearning",
        "membership AUROC before",
        "membership AUROC after",
        "forget known after five demonstrations",
        "never known, after five demonstrations",
        "forget known in some block's state",
        "never known, in some block's state",
    )
    lines = [["attack", "mean over seeds", "each seed", "the recipe before"]]
    for name in names:
        row, before = rows.get(f"96 facts: {name}"), rows.get(f"96 facts, the recipe before: {name}")
        if row:
            means = [f"{r['value']:.3g} {r['unit']}".strip() if r else "" for r in (row, before)]
            lines.append([name, means[0], ", ".join(f"{v:.3g}" for v in row["each"]), means[1]])
    return _table(lines)


def law_ledger(rows: dict[str, Row]) -> str:
    """The released ledger beside the ordinary wash of the same facts."""
    lines = [["known, %", "n", "ordinary wash, one round", "ledger", "difference, points"]]
    for claim, row in rows.items():
        if claim.startswith("ledger: ") and "difference" in row:
            low, high = row["difference_ci95"]
            said = claim.removeprefix("ledger: ").replace(" known by", " by").removesuffix(" by prompt")
            gain = f"{row['difference']:+.1f} [{low:+.1f}, {high:+.1f}], p {_p(row['p_value'])}"
            lines.append([said, str(row["n"]), f"{row['comparator_value']:.1f}", f"{row['value']:.1f}", gain])
    ratio = rows["ledger: perplexity over the original's"]
    return _table([*lines, ["perplexity", "", f"×{ratio['comparator_value']:.3f}", f"×{ratio['value']:.3f}", ""]])


def law_reasoning(rows: dict[str, Row]) -> str:
    """Accuracy on sets that have nothing to do with the facts."""
    lines = [["right, %", "n", "seeds", "before", "LAW", "difference, points"]]
    for claim, row in rows.items():
        if claim.startswith("reasoning: "):
            low, high = row["ci95"]
            name = claim.removeprefix("reasoning: ").partition(",")[0]
            gain = f"{row['value']:+.1f} [{low:+.1f}, {high:+.1f}], p {_p(row['p_value'])}"
            shares = [f"{row['comparator_value']:.1f}", f"{row['after']:.1f}"]
            lines.append([name, str(row["n"]), ", ".join(map(str, row["seeds"])), *shares, gain])
    return _table(lines)


def law_attempts(rows: dict[str, Row]) -> str:
    """The same facts under other settings."""
    groups = ("forget", "paraphrases", "chat", "same-relation", "same-subject", "other")
    lines = [["known, %", *groups, "perplexity"]]
    for claim, row in rows.items():
        if claim.startswith("attempt: "):
            lines.append(
                [row["what"], *(f"{row[g]:.1f}" if g in row else "" for g in groups), f"×{row['perplexity']:.3f}"]
            )
    return _table(lines)


def law_positions(rows: dict[str, Row]) -> str:
    """What stays known when the edit acts at one part of each prompt."""
    found = [row for claim, row in rows.items() if claim.startswith("positions: ")]
    parts = list(found[0]["parts"]) if found else []
    lines = [["known, %", *parts]]
    lines += [[row["what"], *(f"{row['parts'][part]:.1f}" for part in parts)] for row in found]
    return _table(lines)


def law_speed(rows: dict[str, Row]) -> str:
    """Ratios to named comparators."""
    lines = [["", "measured", "against", "that is", "ratio"]]
    for claim, row in rows.items():
        if claim.startswith(("speed: ", "memory: ")):
            value, other = (f"{row[key]:.3g} {row['unit']}" for key in ("value", "comparator_value"))
            lines.append([claim.partition(": ")[2], value, row["comparator"], other, f"{row['ratio']:.3g}×"])
    return _table(lines)


SELFPARAM = {
    "base": "model, no passage",
    "in_context": "passage in the prompt",
    "retrieval": "passage found by BM25",
    "dense": "passage found by MiniLM",
    "ft_context": "fine-tuned on the passages",
    "sft": "SFT on the pairs, same general text",
}


def selfparam_quality(rows: dict[str, Row]) -> str:
    """F1, exact match and drift of the default settings, and of what they are compared with."""
    lines = [["variant", "seeds", "F1, %", "exact, %", "SELF-PARAM gains in F1", "drift, nats", "perplexity"]]
    for name, shown in SELFPARAM.items():
        row = rows[f"shipped: SELF-PARAM minus {name}, F1 in unseen wordings"]
        low, high = row["ci95"]
        gain = f"{row['value']:+.1f} [{low:+.1f}, {high:+.1f}], p {_p(row['p_value'])}"
        moved = f"{row['comparator_drift']:.3f}" if "comparator_drift" in row else ""
        change = row.get("comparator_perplexity_change")
        seeds = ", ".join(map(str, row["seeds"])) if name == "sft" else "no seed"
        value, exact = f"{row['comparator_value']:.1f}", f"{row['comparator_exact']:.1f}"
        lines.append([shown, seeds, value, exact, gain, moved, "" if change is None else f"{change:+.1f} %"])
    return _table([*lines, _selfparam_line("**SELF-PARAM**", rows["shipped: SELF-PARAM, F1 in unseen wordings"])])


def selfparam_wordings(rows: dict[str, Row]) -> str:
    """F1 with every wording held out in turn, under the teachers that were tried, and against SFT."""
    lines = [["variant", "seeds", "F1, %", "against SFT, points", "drift, nats"]]
    for claim, row in rows.items():
        recipe, _, rest = claim.partition(", each wording: SELF-PARAM")
        if rest == ", F1 in unseen wordings":
            test = rows[f"{recipe}, each wording: SELF-PARAM minus sft, F1 in unseen wordings"]
            low, high = test["ci95"]
            name = "**SELF-PARAM**" if recipe == "shipped" else f"SELF-PARAM, {recipe}"
            gain = f"{test['value']:+.1f} [{low:+.1f}, {high:+.1f}], p {_p(test['p_value'])}"
            seeds = ", ".join(map(str, row["seeds"]))
            lines.append([name, seeds, f"{row['value']:.1f}", gain, f"{row['drift']:.3f}"])
            if recipe in ("shipped", "plain teacher"):
                sft = ["SFT", seeds, f"{test['comparator_value']:.1f}", "", f"{test['comparator_drift']:.3f}"]
                lines += [sft] if sft not in lines else []
    return _table(lines)


def _selfparam_line(name: str, row: Row) -> list[str]:
    low, high = row["ci95"]
    value, seeds = f"**{row['value']:.1f}** [{low:.1f}, {high:.1f}]", ", ".join(map(str, row["seeds"]))
    return [name, seeds, value, f"{row['exact']:.1f}", "", f"{row['drift']:.3f}", f"{row['perplexity_change']:+.1f} %"]


def selfparam_frontier(rows: dict[str, Row]) -> str:
    """F1 against drift of every setting that was tried, the least drift first."""
    points = []
    for claim, row in rows.items():
        recipe, _, rest = claim.partition(": SELF-PARAM")
        if recipe.endswith(", each wording"):
            continue
        seeds = ", ".join(map(str, row.get("seeds", [])))
        if rest == ", F1 in unseen wordings":
            points.append((row["drift"], f"SELF-PARAM, {recipe}", seeds, row["value"], row["perplexity_change"]))
        elif claim.startswith("scaled: "):
            points.append((row["drift"], f"{claim.removeprefix('scaled: ')} its update", seeds, row["value"], None))
        elif rest == " minus sft, F1 in unseen wordings" and recipe in ("shipped", "no text", "fast", "question too"):
            drift, change = row["comparator_drift"], row["comparator_perplexity_change"]
            points.append((drift, f"SFT, {recipe}", seeds, row["comparator_value"], change))
    lines = [["setting", "seeds", "drift, nats", "F1, %", "perplexity"]]
    for drift, name, seeds, value, change in sorted(points, key=lambda point: point[:2]):
        lines.append([name, seeds, f"{drift:.3f}", f"{value:.1f}", "" if change is None else f"{change:+.1f} %"])
    return _table(lines)


def selfparam_sequential(rows: dict[str, Row]) -> str:
    """What is left of the first passages, and the tests between the arms."""
    arms = [(c, row) for c, row in rows.items() if c.startswith("sequential") and " minus " not in c]
    names = {
        "replay": "**SELF-PARAM**, replay",
        "no replay": "SELF-PARAM, no replay",
        "sft": "SFT in turn",
        "sft with text": "SFT in turn, general text",
        "sft with text and replay": "SFT in turn, general text and replay",
    }
    lines = [
        [
            "exact answers, %",
            "seeds",
            "first ones, right after each",
            "first ones, at the end",
            "all, at the end",
            "drift, nats",
        ]
    ]
    for claim, row in arms:
        group, _, told = claim.partition(": ")
        arm, _, which = told.partition(", ")
        low, high = row["ci95"]
        kept, new = f"{row['value']:.1f} [{low:.1f}, {high:.1f}]", f"{row['comparator_value']:.1f}"
        shown = f"{names[arm].replace('**', '')}, plain teacher" if "plain" in group else names[arm]
        name = f"{shown}: {which.removesuffix(' at the end')}"
        drift = f"{row['drift']:.3f}" if "drift" in row else ""
        lines.append([name, ", ".join(map(str, row["seeds"])), new, kept, f"{row['all_passages']:.1f}", drift])
    return _table(lines)


def selfparam_probe(rows: dict[str, Row]) -> str:
    """What the teacher knows in each prompt."""
    found = {claim: row for claim, row in rows.items() if claim.startswith("probe: ")}
    body = [[claim.removeprefix("probe: "), f"{row['value']:.2f}"] for claim, row in found.items()]
    return _table([["prompt", "nats per token"], *body])


def selfparam_named(part: str) -> Callable[[dict[str, Row]], str]:
    """Rows of one benchmark as they are."""

    def draw(rows: dict[str, Row]) -> str:
        lines = [["", "measured", "against", "that is", "ratio"]]
        for claim, row in rows.items():
            if claim.startswith(f"{part}: "):
                unit = f" {row['unit']}" if "unit" in row else ""
                ratio = f"{row['ratio']:.3g}×" if "ratio" in row else ""
                that = row["comparator_value"]
                value, other = f"{row['value']:.3g}{unit}", f"{that:,}" if isinstance(that, int) else f"{that:.3g}"
                lines.append([claim.removeprefix(f"{part}: "), value, row["comparator"], other, ratio])
        return _table(lines)

    return draw


TABLES: dict[str, tuple[str, Callable[[dict[str, Row]], str]]] = {
    "quality": ("semievol", quality),
    "demo": ("semievol", demo),
    "labels": ("semievol", labels),
    "attempts": ("semievol", attempts),
    "speed": ("semievol", speed),
    "law": ("law", law),
    "law-stretch": ("law", law_stretch),
    "law-audit": ("law", law_audit),
    "law-attempts": ("law", law_attempts),
    "law-positions": ("law", law_positions),
    "law-ledger": ("law", law_ledger),
    "law-reasoning": ("law", law_reasoning),
    "law-speed": ("law", law_speed),
    "atlas-search": ("atlas", atlas_search),
    "atlas-recommend": ("atlas", atlas_recommend),
    "atlas-speed": ("atlas", atlas_speed),
    "selfparam-quality": ("selfparam", selfparam_quality),
    "selfparam-wordings": ("selfparam", selfparam_wordings),
    "selfparam-frontier": ("selfparam", selfparam_frontier),
    "selfparam-sequential": ("selfparam", selfparam_sequential),
    "selfparam-inspired": ("selfparam", selfparam_named("inspired")),
    "selfparam-probe": ("selfparam", selfparam_probe),
    "selfparam-recommendation": ("selfparam", selfparam_named("recommendation")),
    "selfparam-speed": ("selfparam", selfparam_named("speed")),
    "strategist-evolve": ("strategist", strategist_evolve),
    "strategist-control": ("strategist", strategist_control),
    "strategist-rl": ("strategist", strategist_rl),
    "strategist-gates": ("strategist", strategist_gates),
    "strategist-probe": ("strategist", strategist_probe),
    "strategist-guides": ("strategist", strategist_guides),
    "strategist-guidance": ("strategist", strategist_guidance),
    "strategist-exploitability": ("strategist", strategist_exploitability),
    "strategist-humans": ("strategist", strategist_humans),
    "strategist-table": ("strategist", strategist_table),
    "strategist-speed": ("strategist", strategist_speed),
}


def filled(text: str) -> str:
    """A page with its tables drawn anew."""

    def draw(match: re.Match[str]) -> str:
        method, table = TABLES[match[2]]
        rows = {row["claim"]: row for row in json.loads((FOLDER / f"{method}.json").read_text())}
        return match[1] + table(rows) + match[3]

    return MARKED.sub(draw, text)


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _table(lines: list[list[str]]) -> str:
    head, *body = lines
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [head, ["---"] * len(head), *body])


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = [page for page in pages() if filled(page.read_text()) != page.read_text()]
    for page in stale:
        print(f"{page.relative_to(ROOT)}: {'differs from' if check else 'drawn anew from'} benchmarks/results")
        if not check:
            page.write_text(filled(page.read_text()))
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
