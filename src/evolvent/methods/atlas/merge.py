"""A new revision of the list against the table: who is who, and what follows from it cell by cell.

Three-way: base is the revision that was imported last, theirs the new one, ours the table with everything that was
curated or edited since. Only cells that come from the list follow it; what contradicts a curated cell is reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rapidfuzz.distance import JaroWinkler

from evolvent.errors import DataError
from evolvent.methods.atlas.entry import Entry, Status, by_id
from evolvent.methods.atlas.overlay import Change
from evolvent.methods.atlas.source_list import SOURCE_COLUMNS, ListEntry, Snapshot, new_id, paper_key, plain_link
from evolvent.methods.atlas.vocabulary import slug

SAME_TITLE = 0.95  # Jaro-Winkler similarity of titles that a person should look at
_PLACE = ("source_section", "source_order")  # where an entry stands in the list; follows it silently


@dataclass
class MergeReport:
    """What a revision of the list changes.

    Attributes:
        added, withdrawn, restored: printed names.
        changed: (id, cell, old, new); conflicts: (id, cell, ours, theirs), where ours was kept.
        renamed: (old, new) printed names; relinked: printed names whose paper link is another one.
        malformed: (line, problem); unsure: (name, id) that may be the same model, because their titles are alike.
        changes: everything, as it goes into the journal; base: the revision, as the next merge needs it.
    """

    added: list[str] = field(default_factory=list)
    changed: list[tuple[str, str, Any, Any]] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    relinked: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    conflicts: list[tuple[str, str, Any, Any]] = field(default_factory=list)
    malformed: list[tuple[int, str]] = field(default_factory=list)
    unsure: list[tuple[str, str]] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    base: list[dict[str, Any]] = field(default_factory=list)
    badge: int | None = None

    def counts(self) -> dict[str, int]:
        """How many of each."""
        names = ["added", "changed", "renamed", "relinked", "withdrawn", "restored", "conflicts", "malformed", "unsure"]
        return {name: len(getattr(self, name)) for name in names}

    def to_diff(self) -> str:
        """The changes as lines with + and -, grouped by row, like git shows a file."""
        lines: list[str] = []
        current = ""
        for change in self.changes:
            if change.cell in _PLACE:
                continue
            if change.id != current:
                current = change.id
                lines.append(f"@@ {change.id} @@")
            if change.cell == "*":
                row: dict[str, Any] = change.new or change.old or {}
                mark = "+" if change.new else "-"
                lines.append(f"{mark}{row.get('name')}: {row.get('title')} ({row.get('venue')})")
            else:
                lines += [f"-{change.cell}: {_shown(change.old)}", f"+{change.cell}: {_shown(change.new)}"]
        for name, cell, ours, theirs in self.conflicts:
            lines += [f"@@ {name} @@ conflict, ours is kept", f" {cell}: {_shown(ours)}", f"!{cell}: {_shown(theirs)}"]
        lines += [f"? {name} may be {other}: their titles are alike" for name, other in self.unsure]
        lines += [f"? line {number}: {problem}" for number, problem in self.malformed]
        return "\n".join(lines)


def merge(
    snapshot: Snapshot,
    base: Sequence[Mapping[str, Any]],
    ours: Sequence[Entry],
    *,
    max_withdraw: float = 0.2,
    force: bool = False,
) -> MergeReport:
    """What the table becomes.

    Args:
        snapshot: the new revision.
        base: rows of the revision imported last: `id`, `printed` and the source columns.
        ours: the table.
        max_withdraw: largest share of the entries of `base` that may vanish.
        force: let more vanish.

    Raises:
        DataError: too many entries would be withdrawn.
    """
    report = MergeReport(malformed=list(snapshot.problems), badge=snapshot.badge)
    table = by_id(ours)
    before = {row["id"]: row for row in base if row["id"] in table}
    same = identify(snapshot.entries, before, table, report)
    taken = set(table)
    for index, theirs in enumerate(snapshot.entries):
        known = same.get(index)
        if known is None:
            name = new_id(theirs, taken)
            taken.add(name)
            report.added.append(theirs.printed)
            row = _new_row(name, theirs)
            report.changes.append(Change(name, "*", None, row))
        else:
            name = known
            _merge_row(table[name], before.get(name), theirs, report)
        report.base.append({"id": name, "printed": theirs.printed, **theirs.cells})
    gone = before.keys() - set(same.values())
    for name in (n for n in before if n in gone):
        entry = table[name]
        report.withdrawn.append(_printed(before[name], entry))
        report.changes.append(Change(name, "status", entry.status, "withdrawn"))
    if before and len(gone) >= max_withdraw * len(before) and gone and not force:
        raise DataError(
            f"{len(gone)} of {len(before)} entries would be withdrawn, {max_withdraw:.0%} or more, first "
            f"{report.withdrawn[0]!r}; is this the whole list? --force does it all the same"
        )
    return report


def identify(
    theirs: Sequence[ListEntry],
    base: Mapping[str, Mapping[str, Any]],
    table: Mapping[str, Entry],
    report: MergeReport,
) -> dict[int, str]:
    """Which entry is which row: by paper, else by a name that is unique on both sides; index -> id.

    A title that is nearly the same is only reported.
    """
    same: dict[int, str] = {}
    keys = {name: paper_key(base[name]["paper_url"] if name in base else e.paper_url) for name, e in table.items()}
    for index, name in _unique_pairs([{e.paper_key} - {None} for e in theirs], {n: {k} for n, k in keys.items()}):
        same.setdefault(index, name)
    names_there = [{slug(e.cells["name"]), slug(e.printed), *map(slug, e.cells["aliases"])} for e in theirs]
    names_here = {
        n: {n, slug(e.name), *map(slug, e.aliases), slug(_printed(base.get(n, {}), e))} for n, e in table.items()
    }
    used = set(same.values())
    for index, name in _unique_pairs(names_there, names_here):
        if index not in same and name not in used:
            same[index] = name
            used.add(name)
    titles = {n: e.title.lower() for n, e in table.items() if n not in used}
    for index, entry in enumerate(theirs):
        if index in same:
            continue
        alike = [n for n, t in titles.items() if JaroWinkler.similarity(t, entry.cells["title"].lower()) >= SAME_TITLE]
        report.unsure += [(entry.printed, n) for n in alike]
    return same


def _unique_pairs(there: Sequence[set[Any]], here: Mapping[str, set[Any]]) -> Iterable[tuple[int, str]]:
    """Pairs that share a key which no other entry of either side has."""
    count_there = Counter(key for keys in there for key in keys)
    owner: dict[Any, str] = {}
    count_here: Counter[Any] = Counter()
    for name, keys in here.items():
        for key in keys:
            owner[key] = name
            count_here[key] += 1
    for index, keys in enumerate(there):
        for key in sorted(k for k in keys if k is not None):
            if count_there[key] == 1 and count_here[key] == 1:
                yield index, owner[key]
                break


def _new_row(name: str, theirs: ListEntry) -> dict[str, Any]:
    provenance = {c: "source" for c in ("modalities", "checkpoints", "parameters") if theirs.cells[c]}
    status: Status = "draft" if theirs.problems else "active"
    notes = [f"draft: {problem}" for problem in theirs.problems]
    return {"id": name, **theirs.cells, "notes": notes, "provenance": provenance, "status": status}


def _merge_row(entry: Entry, base: Mapping[str, Any] | None, theirs: ListEntry, report: MergeReport) -> None:
    """Cell by cell: what changed upstream is taken, unless the cell was curated or edited meanwhile."""
    ours = entry.model_dump(mode="json")
    new: dict[str, Any] = {}
    for column in SOURCE_COLUMNS:
        mine, wanted = ours[column], theirs.cells[column]
        if column == "aliases":
            wanted = _aliases(entry, theirs)
        if column in _PLACE:
            new[column] = wanted
            continue
        if base is not None and base.get(column) == theirs.cells[column] and column != "aliases":
            continue  # nothing changed upstream
        if mine == wanted:
            continue
        if base is not None:
            untouched = mine == base.get(column)
        else:  # a row that was withdrawn before, or one of the user's
            untouched = not mine or entry.status == "withdrawn"
        if column == "aliases" or (untouched and entry.provenance.get(column, "source") == "source"):
            new[column] = wanted
        else:
            report.conflicts.append((entry.id, column, mine, wanted))
    if entry.status == "withdrawn":
        new["status"] = "draft" if theirs.problems else "active"
        report.restored.append(theirs.printed)
    elif entry.status == "draft" and entry.source_section != "user":
        new["status"] = "draft" if theirs.problems else "active"
    drafts = [f"draft: {problem}" for problem in theirs.problems]
    new["notes"] = [n for n in entry.notes if not n.startswith("draft: ")] + drafts
    if "modalities" in new:
        new["modalities_ext"] = [m for m in entry.modalities_ext if m not in new["modalities"]]
    for column, value in new.items():
        if ours[column] == value:
            continue
        report.changes.append(Change(entry.id, column, ours[column], value))
        if column not in _PLACE and column != "status":
            report.changed.append((entry.id, column, ours[column], value))
    if base is None:
        return
    if base.get("printed") and base["printed"] != theirs.printed:
        report.renamed.append((base["printed"], theirs.printed))
    elif not base.get("printed") and base["name"] != theirs.cells["name"]:
        report.renamed.append((base["name"], theirs.cells["name"]))
    if plain_link(base["paper_url"]) != plain_link(theirs.cells["paper_url"]):
        report.relinked.append(theirs.printed)


def _aliases(entry: Entry, theirs: ListEntry) -> list[str]:
    """Old and new aliases, and the old name after a renaming."""
    name = theirs.cells["name"]
    old = [entry.name] if entry.name != name and entry.provenance.get("name", "source") == "source" else []
    return list(dict.fromkeys(a for a in [*entry.aliases, *old, *theirs.cells["aliases"]] if a != name))


def _printed(row: Mapping[str, Any], entry: Entry) -> str:
    return str(row.get("printed") or entry.name)


def base_of(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """The list's columns of a table that came from the list, as base of its first refresh."""
    rows = []
    for entry in entries:
        if entry.source_section == "user" or entry.status == "withdrawn":
            continue
        cells = entry.model_dump(mode="json")
        row = {"id": entry.id, **{column: cells[column] for column in SOURCE_COLUMNS}}
        sizes = list(dict.fromkeys(c.size for c in entry.checkpoints if c.size))
        numbers = sorted({c.n_params for c in entry.checkpoints if c.n_params})
        rows.append({**row, "parameters": sizes, "n_params": numbers})  # the table adds sizes of the survey to these
    return rows


def _shown(value: Any, length: int = 160) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= length else text[: length - 1] + "…"
