"""What search reads of a row: its card, and its facets (the title, and each task with modalities and field)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evolvent.methods.atlas.entry import Entry
from evolvent.methods.atlas.vocabulary import spelled_out, vocabulary, words


@dataclass(frozen=True)
class Facet:
    """One thing that a row is about.

    Attributes:
        label: the task, or "title"; text: what is compared with a query.
    """

    label: str
    text: str


def card(entry: Entry) -> str:
    """Everything that a row says about its model, as one text."""
    book = vocabulary()
    modalities = {**book["modalities"], **book["modalities_ext_only"]}
    parts = [
        entry.name,
        ", ".join(entry.aliases),
        entry.title,
        ", ".join(book["fields"][f] for f in entry.fields),
        ", ".join(modalities[m] for m in entry.all_modalities),
        ", ".join(entry.architecture or ()),
        ", ".join(b.replace("~", "") for b in entry.backbone or ()),
        ", ".join(map(spelled_out, entry.evaluation_tasks)),
        ", ".join(map(spelled_out, entry.pretraining_tasks)),
        ", ".join(entry.pretraining_data),
    ]
    return ". ".join(part for part in parts if part)


def card_synonyms(entry: Entry) -> str:
    """Further words for the row's tasks, field and modalities."""
    book = words()
    found = [w for task in entry.evaluation_tasks for w in book["tasks"].get(task, ())]
    found += [w for name in entry.fields for w in book["fields"].get(name, ())]
    found += [w for name in entry.all_modalities for w in book["modalities"].get(name, ())]
    return " ".join(dict.fromkeys(found))


def facets(entry: Entry) -> list[Facet]:
    """The title, and each evaluation task as "TASK (modalities, field)"."""
    book = vocabulary()
    field = " and ".join(book["fields"][f] for f in entry.fields)
    modalities = " and ".join(_short(m) for m in entry.modalities)
    found = [Facet("title", entry.title)]
    found += [Facet(task, f"{_plain(task)} ({modalities}, {field})") for task in entry.evaluation_tasks]
    return found


def texts_of(entries: Sequence[Entry]) -> list[str]:
    """Every text that dense search compares a query with, without repetition."""
    found: dict[str, None] = {}
    for entry in entries:
        found[card(entry)] = None
        found |= dict.fromkeys(facet.text for facet in facets(entry))
    return list(found)


def _plain(task: str) -> str:
    """A task with its abbreviation replaced by what it means."""
    return vocabulary()["abbreviations"].get(task) or spelled_out(task)


def _short(modality: str) -> str:
    label: str = vocabulary()["modalities"][modality]
    return label.partition(":")[0].partition(" as ")[0]
