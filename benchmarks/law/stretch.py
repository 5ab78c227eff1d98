"""Wash five hundred facts of a dozen relations at once, with the recipe that was chosen on 96 facts of four.

python -m benchmarks.law.stretch run runs/law-stretch
python -m benchmarks.law.stretch record runs/law-stretch

The model is first asked for all facts of these relations in the shared data. Of those it knows, the share that makes
500 is forgotten, relation by relation; the others about other subjects, up to HELD_OUT a relation, must stay.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from benchmarks.law.acceptance import collect, wash
from benchmarks.law.protocol import DATA, Protocol, fact_of, paragraphs
from benchmarks.results_file import record
from evolvent import LawConfig
from evolvent.data.records import Fact
from evolvent.methods.law.probe import probe
from evolvent.models.resolve import load_local

RELATIONS = (
    "geonames:capital",
    "mendeleev:symbol",
    "pararel:P103",  # native language
    "pararel:P176",  # producer
    "pararel:P178",  # developer
    "pararel:P37",  # official language
    "pararel:P1412",  # language spoken
    "pararel:P449",  # broadcaster
    "lre:landmark_in_country",
    "lre:product_by_company",
    "lre:company_hq",
    "lre:person_plays_pro_sport",
)
OTHER = ("geonames:continent", "geonames:currency", "pararel:P140", "lre:country_language")
FACTS, HELD_OUT, REFERENCES, OTHERS = 500, 40, 60, 100


def protocol(out: Path) -> Protocol:
    """What is forgotten and what must stay; the model's answers to all prompts are kept in `out`."""
    rows = [json.loads(line) for line in (DATA / "facts.jsonl").read_text().splitlines()]
    templates = json.loads((DATA / "templates.json").read_text())
    facts: dict[str, Fact] = {}  # one a subject and relation
    for row in rows:
        name = f"{row['source']}:{row['relation']}"
        if name in RELATIONS + OTHER:
            facts.setdefault(f"{name}:{row['subject'].casefold()}", fact_of(row, templates[name], name, True))
    known = _known(list(facts.values()), out / "known.json")
    random = np.random.default_rng(0)
    pool = [facts[key] for key in random.permutation(list(facts))]
    sure = {name: [f for f in pool if f.relation == name and f.id in known] for name in RELATIONS + OTHER}
    share = min(0.8, FACTS / sum(len(sure[name]) for name in RELATIONS))
    forget = [f for name in RELATIONS for f in sure[name][: round(share * len(sure[name]))]]
    subjects = {f.subject.casefold() for f in forget}
    rest = [[f for f in sure[name] if f.subject.casefold() not in subjects] for name in RELATIONS]
    same = [f for own in rest for f in own[:HELD_OUT]]
    references: list[Fact] = []
    taken = {f.id for f in [*forget, *same]}
    for name in RELATIONS:
        references += [f for f in pool if f.relation == name and f.id not in taken][:REFERENCES]
    others = [f for name in OTHER for f in sure[name]]
    about = [f for f in others if f.subject.casefold() in subjects][:OTHERS]
    free = [f for f in others if f.subject.casefold() not in subjects][:OTHERS]
    texts = paragraphs()
    return Protocol(forget, same, about, free, references, texts[16:], texts[:16])


def _known(facts: list[Fact], place: Path) -> set[str]:
    if not place.is_file():
        found = probe(load_local("embedded", dtype="float32"), facts, paraphrases=False, chat=False)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps([k.id for k in found if k.known]))
    return set(json.loads(place.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("run", "record"))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    facts = protocol(arguments.folder)
    print(Counter(f.relation for f in facts.forget), len(facts.forget), len(facts.same_relation), len(facts.other))
    if arguments.verb == "run":
        attacks = ("paraphrase", "chat", "4bit")
        wash(facts, LawConfig(output_dir=arguments.folder / "run", attacks=attacks, on_config_change="rerun"))
    else:
        rows = collect([arguments.folder / "run"], f"{len(facts.forget)} facts")
        rows[0]["relations"] = Counter(f.relation for f in facts.forget)
        record("law", rows, "python -m benchmarks.law.stretch run FOLDER")


if __name__ == "__main__":
    main()
