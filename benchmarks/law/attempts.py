"""One round of washing under other settings, from the targets that an acceptance run has learnt.

python -m benchmarks.law.attempts runs/law-0 "no references" mu_ratio=0
python -m benchmarks.law.attempts runs/law-0 "recipe"

Measured on the facts of that run's seed: prompts and paraphrases of the forgotten ones, prompts of the kept ones.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.law.protocol import protocol
from benchmarks.results_file import record
from evolvent import LawConfig
from evolvent.methods.law.decoder import Decoder
from evolvent.methods.law.law import load_targets
from evolvent.methods.law.measurement import FORGET, GROUPS, Measurement, Questionnaire
from evolvent.methods.law.statistics import fingerprint, statistics
from evolvent.methods.law.washing import Washables, wash_round
from evolvent.methods.law.wordings import rows_for, wordings_for
from evolvent.models.resolve import load_local


def attempt(folder: Path, name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Wash once and measure."""
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    stored.pop("method", None)
    args = LawConfig.model_validate({"output_dir": folder, "seed": stored["seed"], **changes})
    facts = protocol(args.seed)
    model = load_local("embedded", dtype="float32")
    decoder = Decoder(model)
    wordings = wordings_for(model, args)
    layers = (4, 5, 6, 7, 8)
    learnt = load_targets(next(folder.glob("stages/[0-9][0-9]-targets-1")))
    general = statistics(decoder, facts.corpus, layers, model_fingerprint=fingerprint(model))
    base = Measurement.load(next(folder.glob("stages/[0-9][0-9]-measure-base/measurement.json")))
    known = {k.id for k in base.groups[FORGET]}
    forget = [f for f in facts.forget if f.id in known]
    work = Washables(
        forget,
        rows_for(model, forget, wordings),
        learnt.deltas,
        references=[own[:1] for own in rows_for(model, facts.references, wordings)],
    )
    with tempfile.TemporaryDirectory() as place:
        wash_round(decoder, work, layers, general, args, folder=Path(place))
    questions = Questionnaire(forget, [*facts.same_relation, *facts.same_subject, *facts.other], facts.held_out, args)
    quiet = questions.ask_forgotten(model, chat=False)
    found = questions.measure(model, quiet)

    def share(group: str, kind: str = "prompt") -> float:
        return 100 * float(np.mean(found.hits(group, kind, base)))

    return {
        "claim": f"attempt: {name}, seed {args.seed}",
        "what": name,
        "value": share("same-relation"),
        "unit": "%",
        "comparator": "before",
        "comparator_value": 100.0,
        "forget": share(FORGET),
        "paraphrases": share(FORGET, "paraphrase"),
        **{group: share(group) for group in GROUPS},
        "perplexity": found.perplexity / base.perplexity,
        "n": len(found.groups["same-relation"]),
        "seeds": [args.seed],
        "settings": changes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("settings", nargs="*")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    changes = {k: yaml.safe_load(v) for k, _, v in (pair.partition("=") for pair in arguments.settings)}
    row = attempt(arguments.folder, arguments.name, changes)
    print(json.dumps(row))
    command = f"python -m benchmarks.law.attempts FOLDER {json.dumps(arguments.name)} {' '.join(arguments.settings)}"
    record("law", [row], command.strip())


if __name__ == "__main__":
    main()
