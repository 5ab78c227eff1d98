"""The family tree of your own models: every checkpoint that a method of this toolkit wrote, joined to the table.

A method's `write_lineage` notes each checkpoint folder in a ledger; here those folders become nodes behind the rows
that they were made from, with method, data and measured scores, and can be told to the hub as metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evolvent.errors import DataError
from evolvent.methods.atlas.entry import Entry, by_id
from evolvent.methods.atlas.loading import SCHEME
from evolvent.methods.atlas.vocabulary import slug
from evolvent.runs.lineage import Lineage, ledger_folders, model_card, read_lineage


@dataclass(frozen=True)
class Artefact:
    """A checkpoint folder that was made here.

    Attributes:
        id: "mine:NAME", unique; folder: where it is; lineage: what was done.
        parents: ids of rows or artefacts it was made from, else the reference as it was given.
        weight_digest: SHA-256 of its weights.
    """

    id: str
    folder: Path
    lineage: Lineage
    parents: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the run."""
        folder = self.folder
        return folder.parent.name if folder.name == "checkpoint" else folder.name

    def row(self) -> dict[str, Any]:
        """As a node of the lineage graph."""
        told = self.lineage
        return {
            "id": self.id,
            "name": self.name,
            "folder": str(self.folder),
            "method": told.method,
            "parents": list(self.parents),
            "data": dict(told.data),
            "created": told.created,
            "metrics": {
                name: {"before": told.metrics_before.get(name), "after": value}
                for name, value in told.metrics_after.items()
            },
        }


def artefacts(entries: Sequence[Entry], folders: Sequence[Path] | None = None) -> list[Artefact]:
    """Checkpoints of the ledger, oldest first.

    Args:
        entries: the table, to find the rows that they come from.
        folders: these in place of the ledger's.
    """
    found: list[tuple[str, Path, Lineage]] = []
    taken: set[str] = set()
    for folder in ledger_folders() if folders is None else folders:
        lineage = read_lineage(folder)
        if lineage is None:
            raise DataError(f"{folder}: no evolvent.json; this folder was not written by Evolvent")
        name = folder.parent.name if folder.name == "checkpoint" else folder.name
        base = f"mine:{slug(name) or 'model'}"
        unique = (
            base if base not in taken else next(f"{base}-{n}" for n in range(2, 10**6) if f"{base}-{n}" not in taken)
        )
        taken.add(unique)
        found.append((unique, folder, lineage))
    by_folder = {folder.resolve(): name for name, folder, _ in found}
    by_digest = {told.weight_digest: name for name, _, told in found if told.weight_digest}
    table = by_id(entries)
    by_hub = {n: e.id for e in reversed(entries) for n in [*e.hf_ids, *e.hf_ids_known]}
    made = []
    for name, folder, told in found:
        parent = told.parent
        known = by_folder.get(Path(parent).resolve()) or by_digest.get(told.parent_digest or "")
        if parent.startswith(SCHEME):
            known = parent.removeprefix(SCHEME).partition("@")[0]
            known = known if known in table else None
        parents = (known if known and known != name else by_hub.get(parent) or parent,)
        made.append(Artefact(name, folder, told, parents))
    return made


def roots(artefact: Artefact, known: Mapping[str, Artefact]) -> list[str]:
    """What an artefact goes back to: rows of the table, or references that the table does not know."""
    found: list[str] = []
    seen: set[str] = set()
    waiting = list(artefact.parents)
    while waiting:
        name = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        if name in known:
            waiting += known[name].parents
        else:
            found.append(name)
    return found


def hub_metadata(artefact: Artefact, entries: Sequence[Entry], known: Mapping[str, Artefact]) -> dict[str, Any]:
    """Model card metadata in the hub's form: base model, relation, tags, licence, measured scores."""
    table = by_id(entries)
    told = artefact.lineage
    bases = [table[r] for r in roots(artefact, known) if r in table]
    hub_ids = [e.hf_id for e in bases if e.hf_id]
    if told.parent.startswith(SCHEME) and "@" in told.parent:
        hub_ids = [told.parent.partition("@")[2]]
    elif not hub_ids and "/" in told.parent and not Path(told.parent).exists():
        hub_ids = [told.parent]
    adapter = (artefact.folder / "adapter_config.json").is_file()
    metadata: dict[str, Any] = {"library_name": "peft" if adapter else "transformers"}
    if hub_ids:
        metadata |= {"base_model": hub_ids, "base_model_relation": "adapter" if adapter else "finetune"}
    metadata["tags"] = ["evolvent", told.method, *dict.fromkeys(f for e in bases for f in e.fields)]
    licences = {e.hub.license for e in bases if e.hub and e.hub.license}
    if len(licences) == 1:
        metadata["license"] = licences.pop()
    scores = [
        {"type": name, "name": name, "value": value}
        for name, value in told.metrics_after.items()
        if isinstance(value, (int, float))
    ]
    if scores:
        result = {"task": {"type": "text-generation"}, "dataset": {"type": "local", "name": "held-out rows"}}
        metadata["model-index"] = [{"name": artefact.name, "results": [{**result, "metrics": scores}]}]
    return metadata


def card(artefact: Artefact, entries: Sequence[Entry], known: Mapping[str, Artefact]) -> str:
    """The model card of an artefact with hub metadata and the rows it goes back to."""
    table = by_id(entries)
    head = yaml.safe_dump(hub_metadata(artefact, entries, known), sort_keys=False, allow_unicode=True)
    body = model_card(artefact.folder, artefact.lineage).partition("\n---\n")[2]
    lines = [f"- {table[r].name}: {table[r].title} ({table[r].venue}), {table[r].paper_url}"
             for r in roots(artefact, known) if r in table]  # fmt: skip
    cited = "\n## Goes back to\n\n" + "\n".join(lines) + "\n" if lines else ""
    return f"---\n{head}---\n{body}{cited}"
