"""The controlled vocabularies of the table, and the other words by which people call their values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Any

from rapidfuzz import fuzz, process

# What people say instead of the value that the table uses; upper and lower case never matter.
OTHER_WORDS: dict[str, dict[str, str]] = {
    "fields": {
        "science": "general",
        "general science": "general",
        "maths": "mathematics",
        "math": "mathematics",
        "astronomy": "physics",
        "chemistry": "chemistry_materials",
        "materials": "chemistry_materials",
        "materials science": "chemistry_materials",
        "biology": "biology_medicine",
        "medicine": "biology_medicine",
        "biomedicine": "biology_medicine",
        "geology": "geoscience",
        "geography": "geoscience",
        "earth science": "geoscience",
        "climate": "geoscience",
    },
    "modalities": {
        "text": "language",
        "image": "vision",
        "images": "vision",
        "graphs": "graph",
        "tables": "table",
        "smiles": "molecule",
        "molecules": "molecule",
        "proteins": "protein",
        "omics": "multiomics",
        "single-cell": "multiomics",
        "weather": "climate_time_series",
        "climate": "climate_time_series",
    },
    "architecture": {
        "bert-like": "encoder-only",
        "encoder": "encoder-only",
        "gpt-like": "decoder-only",
        "decoder": "decoder-only",
        "causal": "decoder-only",
        "seq2seq": "encoder-decoder",
        "sequence to sequence": "encoder-decoder",
        "clip-like": "dual-encoder",
        "two-tower": "dual-encoder",
        "llava-like": "encoder-llm",
    },
    "pretraining_strategy": {
        "mlm": "masked",
        "masked language modeling": "masked",
        "causal": "autoregressive",
        "next token prediction": "autoregressive",
        "clip": "contrastive",
        "sft": "instruction-tuning",
        "instruction tuning": "instruction-tuning",
        "rlhf": "preference-or-rl",
        "dpo": "preference-or-rl",
        "rl": "preference-or-rl",
    },
}
OTHER_WORDS["modalities_ext"] = OTHER_WORDS["modalities"]
_SECTIONS = {"fields": "fields", "modalities": "modalities", "architecture": "architectures"}
_SECTIONS |= {"pretraining_strategy": "strategies", "survey_type": "survey_types"}


def read_table(name: str) -> str:
    """Text of a bundled file."""
    return resources.files("evolvent.methods.atlas").joinpath("tables", name).read_text(encoding="utf-8")


def read_rows(name: str) -> list[dict[str, Any]]:
    """Rows of a bundled JSONL file."""
    return [json.loads(line) for line in read_table(name).splitlines()]


@cache
def vocabulary() -> dict[str, Any]:
    """`vocab.json`: values of each controlled column with what they mean, abbreviations and size labels."""
    loaded: dict[str, Any] = json.loads(read_table("vocab.json"))
    return loaded


@cache
def source() -> dict[str, Any]:
    """`source.json`: where the bundled table comes from, with licences."""
    loaded: dict[str, Any] = json.loads(read_table("source.json"))
    return loaded


@cache
def words() -> dict[str, Any]:
    """`words.json`: stop words, conference names, and further words for tasks, fields and modalities (hand-written)."""
    loaded: dict[str, Any] = json.loads(read_table("words.json"))
    return loaded


@cache
def values(column: str) -> tuple[str, ...]:
    """The values that a controlled column may hold."""
    book = vocabulary()
    if column == "modalities_ext":
        return (*book["modalities"], *book["modalities_ext_only"])
    listed = tuple(book[_SECTIONS[column]])
    return tuple(v for v in listed if "." in v) if column == "survey_type" else listed


@cache
def canonical(column: str, said: str) -> str | None:
    """The table's word for a value, whatever its case or synonym; None when there is none."""
    allowed = values(column)
    if said in allowed:
        return said
    plain = " ".join(said.strip().lower().split())
    folded = {v.lower(): v for v in allowed}
    dashed = re.sub(r"[ _-]+", "-", plain)
    by_dash = {re.sub(r"[ _-]+", "-", v.lower()): v for v in allowed}
    return folded.get(plain) or OTHER_WORDS.get(column, {}).get(plain) or by_dash.get(dashed)


def nearest(said: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Known spellings that look like what was said, nearest first."""
    found = process.extract(said, list(known), scorer=fuzz.WRatio, limit=limit, score_cutoff=60)
    return [name for name, _, _ in found]


def must_be(column: str, said: str) -> str:
    """The table's word for a value.

    Raises:
        ValueError: no such value; names the nearest ones.
    """
    found = canonical(column, said)
    if found is None:
        near = nearest(said, values(column)) or list(values(column))
        raise ValueError(f"{said!r} is not in the vocabulary; nearest: {', '.join(near)}")
    return found


def spelled_out(task: str) -> str:
    """A task with its abbreviations written out behind it: "NER (named entity recognition)"."""
    meant = [full for short, full in vocabulary()["abbreviations"].items() if re.search(rf"\b{short}\b", task)]
    return f"{task} ({', '.join(meant)})" if meant else task


def slug(text: str) -> str:
    """Lower-case letters and digits with single dashes between."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def key_of(text: str) -> str:
    """Letters and digits only: the same for every spelling of a backbone, task or data set."""
    return re.sub(r"[^\w]+", "", text.lower())


def parameter_count(label: str) -> int | None:
    """Number of a size label: "1.3B", "110M", "Base"; None for "8x7B", whose total the label does not say.

    Raises:
        ValueError: not a size label.
    """
    named: dict[str, int] = vocabulary()["size_labels"]
    if label in named:
        return named[label]
    if re.fullmatch(r"\d+x\d+(\.\d+)?[KMB]", label):
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMB])", label.strip(), flags=re.IGNORECASE)
    if match is None:
        raise ValueError(f"{label!r} is no size; write 110M, 1.3B, 8x7B, Base or Large")
    return round(float(match[1]) * {"K": 10**3, "M": 10**6, "B": 10**9}[match[2].upper()])


def size_label(n_params: int) -> str:
    """A number of parameters as people write it: 1.3B, 110M."""
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if n_params >= unit:
            return f"{n_params / unit:.3g}{letter}"
    return str(n_params)


# ------------------------------------------------------------------------------------------------ venues

PREPRINT_SERVERS = ("arXiv", "bioRxiv", "medRxiv", "ChemRxiv", "chemRxiv", "SSRN")


def split_venue(venue: str) -> tuple[str, int, str | None, str]:
    """A venue as printed into name, year, track and type: "ACL 2023 Findings".

    Raises:
        ValueError: no year in it.
    """
    match = re.fullmatch(r"(.+?) (\d{4})(?: (Findings|Workshop))?", venue.strip())
    if match is None:
        raise ValueError(f"{venue!r} is no venue; write NAME YEAR, with Findings or Workshop behind where it applies")
    name, year, track = match[1], int(match[2]), match[3]
    if track == "Workshop":
        kind = "workshop"
    elif name in PREPRINT_SERVERS:
        kind = "preprint"
    else:
        kind = "conference" if name in words()["conferences"] else "journal"
    return name, year, track, kind
