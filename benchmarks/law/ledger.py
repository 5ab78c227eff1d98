"""An erasure ledger beside the ordinary wash: the same 16 facts, in two requests and at once, one round of each.

python -m benchmarks.law.ledger run runs/ledger           wash, requests, release, both measured
python -m benchmarks.law.ledger record runs/ledger        rows for results/law.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.law.protocol import Protocol, protocol
from benchmarks.results_file import record
from evolvent import Law, LawConfig
from evolvent.evaluation.significance import bootstrap_interval, mcnemar_exact, paired_bootstrap
from evolvent.methods.law.ledger import Ledger, release
from evolvent.methods.law.measurement import FORGET, GROUPS, Measurement
from evolvent.models.resolve import load_local

SEED = 0
EACH = 4  # facts of each relation
REFERENCES = 120
QUESTIONS = ((FORGET, "prompt"), (FORGET, "paraphrase"), *((group, "prompt") for group in GROUPS))


def run(out: Path) -> None:
    """The wash, whose stages resume, and then the ledger, whose requests do."""
    torch.set_num_threads(1)
    facts = protocol(SEED)
    forget = [f for relation in _relations(facts) for f in _of(facts.forget, relation)[:EACH]]
    references = [f for relation in _relations(facts) for f in _of(facts.references, relation)[: REFERENCES // 4]]
    corpus = [*facts.held_out, *facts.corpus]
    keep = [*facts.same_relation, *facts.same_subject, *facts.other]
    args = LawConfig(output_dir=out / "wash", seed=SEED, max_rounds=1, attacks=(), on_config_change="rerun")
    method = Law("embedded", forget, keep=keep, references=references, corpus=corpus, args=args, on_progress=_tell)
    method.run()
    place = out / "ledger"
    if not (place / "ledger.json").is_file():
        Ledger.begin(place, model="embedded", args=args, references=references, corpus=corpus, on_progress=_tell)
    ledger = Ledger(place, on_progress=_tell)
    for number, half in enumerate((forget[::2], forget[1::2])):
        if ledger.head.requests == number:
            ledger.add(half, receipt=out / f"receipt-{number}.json")
    released = release(ledger, out / "released")
    found = method.questions.measure(load_local(released.model, dtype="float32"))
    found.save(out / "ledger.json")
    base, washed = (_load(out, name) for name in ("base", "law"))
    for name, measured in (("before", base), ("wash", washed), ("ledger", found)):
        shares = {f"{g} {k}": float(np.mean(measured.hits(g, k, base))) for g, k in QUESTIONS}
        print(name, {k: round(100 * v, 1) for k, v in shares.items()}, round(measured.perplexity, 3))


def collect(out: Path) -> list[dict[str, Any]]:
    """A row for each question, the ledger against the ordinary wash."""
    base, washed, found = _load(out, "base"), _load(out, "law"), Measurement.load(out / "ledger.json")
    rows = []
    for group, kind in QUESTIONS:
        ours, theirs = (np.array(m.hits(group, kind, base), dtype=bool) for m in (found, washed))
        interval, test = bootstrap_interval(ours), paired_bootstrap(theirs, ours)
        rows.append(
            {
                "claim": f"ledger: {group} known by {kind}",
                "value": 100 * interval.mean,
                "unit": "%",
                "comparator": "the ordinary wash, one round",
                "comparator_value": 100 * float(theirs.mean()),
                "ci95": [100 * interval.low, 100 * interval.high],
                "difference": 100 * test.difference,
                "difference_ci95": [100 * test.low, 100 * test.high],
                "p_value": mcnemar_exact(theirs, ours),
                "n": len(ours),
                "seeds": [SEED],
            }
        )
    rows.append(
        {
            "claim": "ledger: perplexity over the original's",
            "value": found.perplexity / base.perplexity,
            "unit": "x",
            "comparator": "the ordinary wash, one round",
            "comparator_value": washed.perplexity / base.perplexity,
            "seeds": [SEED],
        }
    )
    return rows


def _relations(facts: Protocol) -> list[str]:
    return list(dict.fromkeys(f.relation for f in facts.forget))


def _of(facts: list[Any], relation: str) -> list[Any]:
    return [f for f in facts if f.relation == relation]


def _load(out: Path, variant: str) -> Measurement:
    return Measurement.load(next(out.glob(f"wash/stages/[0-9][0-9]-measure-{variant}/measurement.json")))


def _tell(*said: object) -> None:
    print(*said, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("run", "record"))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "run":
        run(arguments.folder)
    else:
        record("law", collect(arguments.folder), "python -m benchmarks.law.ledger run FOLDER")


if __name__ == "__main__":
    main()
