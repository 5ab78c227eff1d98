"""The facts of the acceptance run: what is forgotten, and what must stay, drawn by seed from the shared real data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.results_file import ROOT
from evolvent.data.facts import read_facts
from evolvent.data.records import Fact

DATA = ROOT.parent / "shared" / "data" / "law"
QUESTIONS = {"capital": "What is the capital of {}?"}  # asked in chats
# relation -> (sources, facts to forget, facts of the same relation that are held out)
FORGOTTEN = {
    "capital": (("geonames:capital",), 30, 22),
    "symbol": (("mendeleev:symbol",), 16, 16),
    "product": (("pararel:P176", "lre:product_by_company"), 30, 10),
    "native": (("pararel:P103",), 20, 46),
}
OTHER = ("lre:landmark_in_country", "pararel:P37", "geonames:currency", "geonames:continent", "pararel:P140")
REFERENCES_PER_RELATION = 105


@dataclass(frozen=True)
class Protocol:
    """Facts of one seed.

    Attributes:
        forget: 96 known facts of four relations.
        same_relation: known facts of those relations, other subjects.
        same_subject: known facts about the same subjects.
        other: 60 known facts of other relations and subjects.
        references: subjects of the four relations that are in none of the above.
        corpus: Wikipedia paragraphs for the second moments; held_out: 16 others for perplexity.
    """

    forget: list[Fact]
    same_relation: list[Fact]
    same_subject: list[Fact]
    other: list[Fact]
    references: list[Fact]
    corpus: list[str]
    held_out: list[str]


def protocol(seed: int, *, data: Path = DATA) -> Protocol:
    """Draw the facts of a seed."""
    templates = json.loads((data / "templates.json").read_text())
    rows = [json.loads(line) for line in (data / "facts.jsonl").read_text().splitlines()]
    known = {json.loads(line)["id"] for line in (data / "known_smollm2.jsonl").read_text().splitlines()}
    random = np.random.default_rng(seed)
    forget: list[Fact] = []
    same: list[Fact] = []
    references: list[Fact] = []
    taken: set[str] = set()
    for relation, (sources, count, held) in FORGOTTEN.items():
        mine = [r for r in rows if f"{r['source']}:{r['relation']}" in sources]
        unique = {r["subject"].casefold(): r for r in sorted(mine, key=lambda r: r["id"] in known)}
        facts = [
            fact_of(r, templates[f"{r['source']}:{r['relation']}"], relation, r["id"] in known) for r in unique.values()
        ]
        order = random.permutation(len(facts))
        sure = [facts[i] for i in order if facts[i].meta["known"]]
        unsure = [facts[i] for i in order if not facts[i].meta["known"]]
        forget += sure[:count]
        same += sure[count : count + held]
        rest = sure[count + held :] + unsure
        references += rest[:REFERENCES_PER_RELATION]
        taken |= {f.subject.casefold() for f in sure[: count + held]}
    subjects = {f.subject.casefold() for f in forget}
    about = [r for r in rows if f"{r['source']}:{r['relation']}" in OTHER and r["id"] in known]
    others = [fact_of(r, templates[f"{r['source']}:{r['relation']}"], r["relation"], True) for r in about]
    same_subject = [f for f in others if f.relation == "continent" and f.subject.casefold() in subjects][:20]
    free = [f for f in others if f.subject.casefold() not in taken]
    other = [free[i] for i in random.permutation(len(free))[:60]]
    shuffled = paragraphs(data)
    return Protocol(forget, same, same_subject, other, references, shuffled[16:], shuffled[:16])


def paragraphs(data: Path = DATA) -> list[str]:
    """The general text, shuffled; perplexity is read on the first 16."""
    texts = [json.loads(line)["text"] for line in (data / "general_text.jsonl").read_text().splitlines()]
    return [texts[i] for i in np.random.default_rng(0).permutation(len(texts))]


def fact_of(row: dict[str, str], template: dict[str, object], relation: str, known: bool) -> Fact:
    """A row of the shared data with the wordings of its relation."""
    prompts = {"prompt": template["prompt"], "paraphrases": template.get("paraphrases", [])[:3]}  # type: ignore[index]
    question = QUESTIONS.get(relation)
    said = {k: row[k] for k in ("id", "subject", "object")}
    fact = read_facts([{**said, **prompts, "relation": relation, "question": question}])[0]
    return fact.model_copy(update={"meta": {"known": known}})
