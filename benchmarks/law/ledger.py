"""The erasure ledger beside the ordinary wash: the same 16 facts, one round, the same settings.

python -m benchmarks.law.ledger wash --out runs/ledger        sums, ordinary wash and both measurements; resumes
python -m benchmarks.law.ledger record runs/ledger            rows for results/law.json

The facts come in four requests, one for each relation. `--set KEY=VALUE` changes the solver of the release only.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

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


def wash(out: Path, changes: dict[str, Any]) -> None:
    """Sums of four requests, the ordinary wash, and the release; every part is computed once."""
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
    done = {receipt.request for receipt in ledger.receipts()}
    for relation in _relations(facts):
        if relation not in done:
            ledger.add(_of(method.known, relation), receipt=out / f"{relation}.json", request=relation)
    released = release(ledger, out / "released", changes=changes)
    found = method.questions.measure(load_local(released.model, dtype="float32"))
    found.save(out / "ledger.json")
    edits = {e.layer: {"beta": e.beta, "norm": e.norm, "lam": e.lam} for e in released.edits}
    (out / "edits.json").write_text(json.dumps({"ledger": edits, "wash": [e.to_dict() for e in method.edits[0]]}))
    base, washed = (_load(out, name) for name in ("base", "law"))
    for name, measured in (("before", base), ("wash", washed), ("ledger", found)):
        shares = {f"{g} {k}": float(np.mean(measured.hits(g, k, base))) for g, k in QUESTIONS}
        print(name, {k: round(100 * v, 1) for k, v in shares.items()}, round(measured.perplexity, 3))
    print(json.dumps(edits))


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
    verbs = parser.add_subparsers(dest="verb", required=True)
    washing = verbs.add_parser("wash")
    washing.add_argument("--out", type=Path, required=True)
    washing.add_argument("--set", action="append", default=[])
    recording = verbs.add_parser("record")
    recording.add_argument("out", type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "wash":
        wash(arguments.out, {k: yaml.safe_load(v) for k, _, v in (pair.partition("=") for pair in arguments.set)})
    else:
        record("law", collect(arguments.out), "python -m benchmarks.law.ledger wash --out FOLDER")


if __name__ == "__main__":
    main()
