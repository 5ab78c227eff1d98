"""Ways to look at the table: models side by side, by field and modality, over time, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from evolvent.errors import ConfigError
from evolvent.methods.atlas.entry import COLUMNS, Entry
from evolvent.methods.atlas.exports import markdown_cell
from evolvent.methods.atlas.vocabulary import read_rows, size_label

COMPARED = (
    "title", "venue", "first_public", "fields", "modalities", "modalities_ext", "architecture", "backbone",
    "parameters", "pretraining_strategy", "survey_type", "pretraining_data", "pretraining_tasks", "evaluation_tasks",
    "languages", "derived_from", "paper_url", "code_url", "hf_ids", "notes",
)  # fmt: skip

COUNTED = ("fields", "modalities", "architecture", "pretraining_strategy", "survey_type", "venue_type", "status")


@dataclass(frozen=True)
class Comparison:
    """Rows side by side.

    Attributes:
        entries: in the order that was asked for.
    """

    entries: tuple[Entry, ...]

    def rows(self, *, diff_only: bool = False) -> list[tuple[str, list[str]]]:
        """(column, text of each row); only columns in which they differ, if so wanted."""
        found = [(column, [shown(e, column) for e in self.entries]) for column in COMPARED]
        return [(c, cells) for c, cells in found if (len(set(cells)) > 1 or not diff_only) and any(cells)]

    def shared(self) -> dict[str, list[str]]:
        """Column -> list values that all of them have."""
        found = {}
        for column in COMPARED:
            cells = [getattr(e, column) for e in self.entries]
            if all(isinstance(c, list) for c in cells):
                common = [v for v in cells[0] if all(v in c for c in cells[1:])]
                if common:
                    found[column] = common
        return found

    def to_markdown(self, *, diff_only: bool = False) -> str:
        """A Markdown table, one column a model."""
        head = ["", *(markdown_cell(e.name) for e in self.entries)]
        lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
        for column, cells in self.rows(diff_only=diff_only):
            lines.append(f"| {' | '.join([column, *map(markdown_cell, cells)])} |")
        return "\n".join(lines) + "\n"


def compare(entries: Sequence[Entry]) -> Comparison:
    """Two to six rows side by side.

    Raises:
        ConfigError: fewer or more.
    """
    if not 2 <= len(entries) <= 6:
        raise ConfigError(f"compare: {len(entries)} models; name two to six")
    return Comparison(tuple(entries))


def shown(entry: Entry, column: str) -> str:
    """A cell as text; empty when unknown."""
    value = getattr(entry, column)
    if value is None:
        return ""
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


@dataclass(frozen=True)
class Slice:
    """Rows of one field and modality, and what they are trained and evaluated on."""

    entries: tuple[Entry, ...]

    def datasets(self) -> dict[str, list[str]]:
        """Pre-training data, most used first -> ids."""
        return _index(self.entries, "pretraining_data")

    def tasks(self) -> dict[str, list[str]]:
        """Evaluation tasks, most frequent first -> ids."""
        return _index(self.entries, "evaluation_tasks")

    def benchmarks(self) -> list[dict[str, Any]]:
        """Benchmarks that the survey names as usual for these fields and modalities."""
        fields = {f for e in self.entries for f in e.fields}
        modalities = {m for e in self.entries for m in e.modalities}
        rows = read_rows("benchmarks.jsonl")
        return [r for r in rows if r["field"] in fields and r["modality"] in modalities]


def _index(entries: Iterable[Entry], column: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for entry in entries:
        for value in getattr(entry, column) or ():
            found.setdefault(value, []).append(entry.id)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def timeline(entries: Sequence[Entry], color: str) -> list[dict[str, Any]]:
    """One point a model, by month of first publication (else December of the venue's year).

    Args:
        color: column that the points are grouped by.

    Raises:
        ConfigError: no such column.
    """
    if color not in COLUMNS:
        raise ConfigError(f"timeline: no column {color!r}; for example survey_type, fields, architecture")
    rows = []
    for entry in sorted(entries, key=lambda e: (e.month, e.source_order)):
        value = getattr(entry, color)
        group = (value[0] if value else None) if isinstance(value, list) else value
        largest = max(entry.n_params, default=None)
        exact = entry.first_public is not None
        rows.append(
            {"id": entry.id, "name": entry.name, "month": entry.month, "exact": exact, "group": group, "size": largest}
        )
    return rows


def stats(entries: Sequence[Entry]) -> dict[str, Any]:
    """The table in numbers."""
    counted: dict[str, Any] = {
        "entries": len(entries),
        "with code": sum(e.code_url is not None for e in entries),
        "with weights on the hub": sum(e.weights == "hub" for e in entries),
        "weight links": sum(len(e.checkpoints) for e in entries),
        "hub repositories": len({c.hf_id for e in entries for c in e.checkpoints if c.hf_type == "model"}),
        "in the survey's tables": sum(e.in_survey_tables for e in entries),
    }
    sizes = [n for e in entries for n in e.n_params]
    if sizes:
        counted["smallest"], counted["largest"] = size_label(min(sizes)), size_label(max(sizes))
    for column in (
        "fields",
        "modalities",
        "architecture",
        "pretraining_strategy",
        "survey_type",
        "venue_type",
        "status",
    ):
        values: Counter[str] = Counter()
        for entry in entries:
            cell = getattr(entry, column)
            values.update([str(v) for v in cell] if isinstance(cell, list) else ["unknown" if cell is None else cell])
        counted[column] = dict(values.most_common())
    counted["year"] = dict(sorted(Counter(e.year for e in entries).items()))
    counted["matrix"] = matrix(entries)
    counted["filled"] = {c: sum(getattr(e, c) not in (None, [], {}) for e in entries) for c in COLUMNS}
    return counted


def matrix(entries: Sequence[Entry]) -> dict[str, dict[str, int]]:
    """Field -> cell of the survey's Figure 1 (or "unknown") -> models."""
    found: dict[str, dict[str, int]] = {}
    for entry in entries:
        for science in entry.fields:
            row = found.setdefault(science, {})
            kinds: Sequence[str] = entry.survey_type or ("unknown",)
            for kind in kinds:
                row[kind] = row.get(kind, 0) + 1
    return found


def applications(*, stage: str | None = None, field: str | None = None) -> list[dict[str, Any]]:
    """Applications in scientific discovery that the survey names, by stage and field."""
    rows = read_rows("applications.jsonl")
    return [r for r in rows if stage in (None, r["stage"]) and field in (None, r["field"])]
