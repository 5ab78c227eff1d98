"""The evaluator against the published figures and against the published way to match names.

python -m benchmarks.selfparam.recommendation
"""

from __future__ import annotations

import csv
import json
import time
from typing import Any

import editdistance  # the published script's own distance: pip install editdistance
import numpy as np

from benchmarks.results_file import record
from benchmarks.selfparam.facts import DATA
from evolvent.data.files import read_jsonl
from evolvent.evaluation.significance import mcnemar_exact
from evolvent.methods.selfparam.recommendation import (
    CUT_OFFS,
    evaluate_recommendations,
    read_catalogue,
    read_turns,
    recommended_names,
)
from evolvent.methods.selfparam.titles import TitleIndex

RUNS = {"base": ("mistral_base_inspired", "mistral"), "SELF-PARAM": ("mistral_selfparam_inspired", "mistral-finetuned")}
CONDITIONS = ("recommendation", "discussion", "all")
TIMED = 40  # names


def published(name: str, titles: list[str]) -> str:
    """The published way: a set of all titles for each name, each compared in Python."""
    items = list(set(titles))
    distances = [editdistance.eval(name.lower(), item.lower()) for item in items]
    return items[int(np.argmin(distances))]


def timed(names: list[str], known: list[str]) -> dict[str, Any]:
    """Processor time for each name, of the published way on some names and of the index on all of them."""
    order = np.random.default_rng(0).permutation(len(names))[:TIMED]
    started = time.process_time()
    for i in order:
        published(names[i], known)
    theirs = (time.process_time() - started) / TIMED
    started = time.process_time()
    TitleIndex(known).match(names)
    ours = (time.process_time() - started) / len(names)
    return {
        "claim": f"recommendation: time to map a name to the nearest of {len(known):,} titles",
        "value": ours * 1000,
        "unit": "ms",
        "comparator": "the published way, name by name",
        "comparator_value": theirs * 1000,
        "ratio": theirs / ours,
        "n": len(names),
    }


def whole_numbers() -> tuple[int, int, int]:
    """How many published recalls of ReDial, times the gold items of our group, are whole numbers; of how many; items.

    No answers to ReDial are published, so that this is what its figures can be held against: the same turns, the same
    gold items, and the same of them seen before.
    """
    catalogue = read_catalogue(DATA / "redial" / "entity2id.json")
    turns = read_turns(DATA / "redial" / "test.jsonl", catalogue)
    empty = evaluate_recommendations([""] * len(turns), turns, TitleIndex(catalogue.values()))
    whole, of = 0, 0
    for path in sorted((DATA / "reference_results").glob("*/redial/*/summary.csv")):
        for row in csv.DictReader(path.open()):
            for k in CUT_OFFS:
                items = float(row[f"recall@{k}_mean"]) * len(empty.values("recall", k, row["condition"]))
                whole, of = whole + (abs(items - round(items)) < 1e-6), of + 1
    return whole, of, len(empty.ranks)


def main() -> None:
    catalogue = read_catalogue(DATA / "inspired" / "entity2id.json")
    turns = read_turns(DATA / "inspired" / "test.jsonl", catalogue)
    compared, equal, most = 0, 0, 0.0
    top = {}
    for who, (answers_name, results) in RUNS.items():
        rows = read_jsonl(DATA / "reference_generations" / f"{answers_name}.jsonl")
        answers = [row["resp"]["choices"][0]["message"]["content"] for _, row in rows]
        titles = TitleIndex(catalogue.values())
        for filtered in (True, False):
            for exclude_seen in (True, False):
                hits = evaluate_recommendations(answers, turns, titles, filtered=filtered, exclude_seen=exclude_seen)
                setting = f"filtered_{filtered}_exclude_seen_{exclude_seen}"
                path = DATA / "reference_results" / results / "inspired" / setting / "summary.csv"
                stored = {row["condition"]: row for row in csv.DictReader(path.open())}
                for condition in CONDITIONS:
                    for k in CUT_OFFS:
                        values = hits.values("recall", k, condition)
                        items = abs(sum(values) - float(stored[condition][f"recall@{k}_mean"]) * len(values))
                        compared, equal, most = compared + 1, equal + (items < 0.5), max(most, items)
                if not filtered and not exclude_seen:
                    top[who] = hits.values("recall", 1)
    names = list(
        dict.fromkeys(
            n
            for _, row in read_jsonl(DATA / "reference_generations" / "mistral_base_inspired.jsonl")
            for n in recommended_names(row["resp"]["choices"][0]["message"]["content"])
        )
    )
    whole, of, items = whole_numbers()
    record(
        "selfparam",
        [
            {
                "claim": "recommendation: published recalls of INSPIRED that are reproduced to the item",
                "value": equal,
                "unit": f"of {compared}",
                "comparator": "most items by which one differs",
                "comparator_value": round(most),
                "n": len(turns),
            },
            {
                "claim": "recommendation: published recalls of ReDial that are whole numbers of items in our groups",
                "value": whole,
                "unit": f"of {of}",
                "comparator": "items of ReDial",
                "comparator_value": items,
                "n": items,
            },
            timed(names, list(catalogue.values())),
            timed(names, list(read_catalogue(DATA / "redial" / "entity2id.json").values())),
            {
                "claim": "recommendation: published recall@1 of SELF-PARAM on INSPIRED",
                "value": float(np.mean(top["SELF-PARAM"])),
                "comparator": "published base model",
                "comparator_value": float(np.mean(top["base"])),
                "p_value": mcnemar_exact(top["base"], top["SELF-PARAM"]),
                "n": len(top["base"]),
            },
        ],
        "python -m benchmarks.selfparam.recommendation",
    )
    print(json.dumps({"compared": compared, "equal": equal, "most": most}))


if __name__ == "__main__":
    main()
