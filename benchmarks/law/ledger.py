"""The edit of an erasure ledger beside the ordinary wash: the same 16 facts and displacements, one round of each.

python -m benchmarks.law.ledger wash --out runs/ledger        ordinary wash, sums, edit of the sums, both measured
python -m benchmarks.law.ledger record runs/ledger            rows for results/law.json

The displacements are those that the wash has learnt: a ledger learns each fact by itself, to the same up to rounding.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.law.protocol import Protocol, protocol
from benchmarks.results_file import record
from evolvent import Law, LawConfig
from evolvent.evaluation.significance import bootstrap_interval, mcnemar_exact, paired_bootstrap
from evolvent.methods.law.decoder import Decoder
from evolvent.methods.law.ledger import Ledger
from evolvent.methods.law.ledger.columns import Units, add_fact, in_units
from evolvent.methods.law.ledger.releasing import reference_moments, solve_block
from evolvent.methods.law.measurement import FORGET, GROUPS, Measurement
from evolvent.methods.law.spectral import Kept, Streamed

SEED = 0
EACH = 4  # facts of each relation
REFERENCES = 120
QUESTIONS = ((FORGET, "prompt"), (FORGET, "paraphrase"), *((group, "prompt") for group in GROUPS))


def wash(out: Path) -> None:
    """The wash, whose stages resume, and then the sums and their edit."""
    torch.set_num_threads(1)
    facts = protocol(SEED)
    forget = [f for relation in _relations(facts) for f in _of(facts.forget, relation)[:EACH]]
    references = [f for relation in _relations(facts) for f in _of(facts.references, relation)[: REFERENCES // 4]]
    corpus = [*facts.held_out, *facts.corpus]
    keep = [*facts.same_relation, *facts.same_subject, *facts.other]
    args = LawConfig(output_dir=out / "wash", seed=SEED, max_rounds=1, attacks=(), on_config_change="rerun")
    method = Law("embedded", forget, keep=keep, references=references, corpus=corpus, args=args, on_progress=_tell)
    with method.opened():
        method.probe()
        method.measure("base")
        method.statistics()
        method.round = 1
        method.targets()
        method.wash()
        method.verify()
        method.measure("law")
    if not (out / "ledger" / "ledger.json").is_file():
        Ledger.begin(
            out / "ledger", model="embedded", args=args, references=references, corpus=corpus, on_progress=_tell
        )
    ledger = Ledger(out / "ledger")
    decoder, general = Decoder(ledger.model), ledger.statistics()
    sums = {layer: Streamed(decoder.width, decoder.hidden) for layer in general}
    units = {layer: Units.of(found) for layer, found in general.items()}
    for fact, rows, target in zip(method.known, method.rows, method.learnt.deltas, strict=True):
        add_fact(sums, units, decoder, fact, rows, target)
    moments = reference_moments(ledger, decoder)
    edits = {}
    for layer, known in general.items():
        kept = Kept(known.moment, moments.get(layer), args.mu_ratio, args.ridge)
        edit, _ = solve_block(decoder, layer, in_units(sums[layer], units[layer]), kept, known.energy, args)
        edits[layer] = {"beta": edit.beta, "norm": edit.norm, "lam": edit.lam}
        _tell("block", layer, edits[layer])
    found = method.questions.measure(ledger.model)
    found.save(out / "ledger.json")
    washes = [{"layer": e.layer, "beta": e.beta, "norm": e.norm, "lam": e.lam} for e in method.edits[0]]
    (out / "edits.json").write_text(json.dumps({"ledger": edits, "wash": washes}))
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
    verbs = parser.add_subparsers(dest="verb", required=True)
    washing = verbs.add_parser("wash")
    washing.add_argument("--out", type=Path, required=True)
    recording = verbs.add_parser("record")
    recording.add_argument("out", type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "wash":
        wash(arguments.out)
    else:
        record("law", collect(arguments.out), "python -m benchmarks.law.ledger wash --out FOLDER")


if __name__ == "__main__":
    main()
