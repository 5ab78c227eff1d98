"""What each part of the labelling is worth: the votes of finished runs, counted in other ways.

python -m benchmarks.semievol.labels bbc fpb --runs FOLDER      (of benchmarks.semievol.quality; trains nothing)
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from benchmarks.results_file import record
from benchmarks.semievol.corpora import CORPORA
from evolvent.data.overlap import data_gate
from evolvent.data.records import HIDDEN_ANSWER
from evolvent.methods.semievol.collaboration import Response, merge
from evolvent.methods.semievol.gating import answer_log_prior
from evolvent.methods.semievol.selection import Confidence, select, uncertainty


class Counting(NamedTuple):
    """One way to count the votes."""

    voters: tuple[str, ...]
    prior: Literal["labeled", "uniform", "em", "none"] = "labeled"
    confidence: Confidence = "entropy"
    balance: Literal["class", "global"] = "class"
    theta: float = 0.5


ALL = ("plain", "few-shot", "more-shots", "wording")
COUNTINGS = {
    "the recipe": Counting(ALL),
    "the warmed-up model alone": Counting(ALL[:1]),
    "with 3 demonstrations alone": Counting(ALL[1:2]),
    "three voters: plain, 3 demonstrations, other wording": Counting(("plain", "few-shot", "wording")),
    "without demonstrations: plain and other wording": Counting(("plain", "wording")),
    "no repair of the class prior": Counting(ALL, prior="none"),
    "prior repaired towards equal classes": Counting(ALL, prior="uniform"),
    "prior repaired by expectation maximisation": Counting(ALL, prior="em"),
    "surest half of all, not of each class": Counting(ALL, balance="global"),
    "ordered by margin": Counting(ALL, confidence="margin"),
    "ordered by token likelihood, as in the official code": Counting(ALL, confidence="nll"),
    "surest quarter": Counting(ALL, theta=0.25),
    "surest three quarters": Counting(ALL, theta=0.75),
}


def accuracies(corpus: str, seed: int, folder: Path) -> dict[str, tuple[float, float]]:
    """Counting -> share of right labels, in percent: of all rows, of the selected ones."""
    splits = CORPORA[corpus](seed)
    labeled, pool, _, _ = data_gate(splits.labeled, splits.unlabeled, splits.test)
    votes: dict[str, list[Response]] = {}
    for voter in ALL:
        file = next(folder.glob(f"stages/*-collaborate-1-{voter}")) / "responses.jsonl"
        said = {r.id: r for r in (Response.from_dict(json.loads(line)) for line in file.read_text().splitlines())}
        votes[voter] = [said[q.id] for q in pool]
    found = {}
    for name, counting in COUNTINGS.items():
        responses = [votes[v] for v in counting.voters]
        prior = answer_log_prior(counting.prior, responses, pool, labeled)
        merged = merge(splits.task, pool, responses, [1.0] * len(responses), log_prior=prior)
        answers = [c.answer for c in merged]
        kept = select(
            [q.id for q in pool],
            answers,
            [uncertainty(c, counting.confidence) for c in merged],
            theta=counting.theta,
            balance=counting.balance,
        ).kept
        right = np.array([a == q.meta[HIDDEN_ANSWER] for a, q in zip(answers, pool, strict=True)])
        found[name] = (100 * float(right.mean()), 100 * float(right[list(kept)].mean()))
    return found


def rows(corpus: str, runs: Path) -> list[dict[str, Any]]:
    folders = sorted(p.parent for p in runs.glob(f"{corpus}-[0-9]/metrics.json"))
    seeds = [int(p.name.rpartition("-")[2]) for p in folders]
    measured = [accuracies(corpus, seed, folder) for seed, folder in zip(seeds, folders, strict=True)]
    whole, selected = (np.mean([m["the recipe"][i] for m in measured]) for i in (0, 1))
    return [
        {
            "claim": f"labels: {corpus}, {name}",
            "what": name,
            "corpus": corpus,
            "value": float(np.mean([m[name][1] for m in measured])),
            "unit": "% of the selected right",
            "all": float(np.mean([m[name][0] for m in measured])),
            "comparator": "the recipe",
            "comparator_value": float(selected),
            "comparator_all": float(whole),
            "seeds": seeds,
            "per_seed": [round(m[name][1], 2) for m in measured],
        }
        for name in COUNTINGS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", nargs="+", choices=list(CORPORA))
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"))
    given = parser.parse_args()
    found = [row for corpus in given.corpora for row in rows(corpus, given.runs)]
    record("semievol", found, "python -m benchmarks.semievol.labels bbc fpb")


if __name__ == "__main__":
    main()
