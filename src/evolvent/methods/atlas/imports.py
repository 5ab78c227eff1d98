"""Rows out of other people's files: our own JSONL and CSV, any CSV with a column map, BibTeX, the Epoch AI table."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from evolvent.data.files import read_jsonl
from evolvent.errors import ConfigError, DataError
from evolvent.methods.atlas.entry import COLUMNS, CURATED, LISTS, Entry, checked_entry
from evolvent.methods.atlas.exports import ORIGIN, from_csv_cell
from evolvent.methods.atlas.source_list import paper_ids
from evolvent.methods.atlas.vocabulary import nearest, parameter_count, slug

Kind = Literal["list", "jsonl", "csv", "bibtex", "epoch"]
EPOCH_COLUMNS = ("Model", "Domain", "Publication date", "Link")
_EPOCH_MODALITY = {"language": "language", "vision": "vision", "biology": "protein", "multimodal": "vision"}
_EPOCH_FIELD = {"biology": "biology_medicine", "medicine": "biology_medicine", "mathematics": "mathematics"}
_EPOCH_FIELD |= {"materials science": "chemistry_materials", "earth science": "geoscience", "physics": "physics"}


def kind_of(path: Path, kind: str | None = None) -> Kind:
    """What a file is, by its ending and first line unless it is said.

    Raises:
        ConfigError: it cannot be told.
    """
    ending = {".md": "list", ".markdown": "list", ".jsonl": "jsonl", ".csv": "csv", ".bib": "bibtex"}
    found = kind or ending.get(path.suffix.lower())
    if found == "csv" and kind is None:
        head = next(csv.reader([_first_line(path)]), [])
        found = "epoch" if set(EPOCH_COLUMNS) <= set(head) else "csv"
    if found not in ("list", "jsonl", "csv", "bibtex", "epoch"):
        raise ConfigError(f"{path}: say what it is with --kind: list, jsonl, csv, bibtex or epoch")
    return found  # type: ignore[return-value]  # one of the five


def read_rows_from(
    path: Path,
    kind: Kind,
    *,
    columns: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
    taken: Sequence[str] = (),
) -> Iterator[Entry]:
    """Rows of a file as drafts; rows of our own exports keep their status and provenance.

    Args:
        columns: our column -> column of the file.
        defaults: cells for rows that bring none, such as fields and modalities.
        taken: ids that new rows cannot have.

    Raises:
        DataError: names file, line and cell; ConfigError: a column map that fits nothing.
    """
    ids = set(taken)
    readers: dict[str, Callable[..., Iterator[tuple[str, dict[str, Any]]]]] = {
        "jsonl": _jsonl,
        "csv": _csv,
        "bibtex": _bibtex,
        "epoch": _epoch,
    }
    for place, cells in readers[kind](path, columns or {}):
        own = {"id", "provenance"} <= cells.keys() and kind in ("jsonl", "csv")
        for column, value in (defaults or {}).items():
            if cells.get(column) in (None, [], ""):
                cells[column] = value
        if not own:
            cells = {"status": "draft", **cells, "id": _free_id(cells, ids)}
            cells["provenance"] = {c: "draft" for c in CURATED if cells.get(c)} | (cells.get("provenance") or {})
        for column in ("fields", "modalities"):
            if not cells.get(column):
                raise DataError(
                    f"{place}, {column}: the file does not say it; give it for all rows with --{column[:-1]}"
                )
        entry = checked_entry(cells, place)
        ids.add(entry.id)
        yield entry


def _free_id(cells: Mapping[str, Any], taken: set[str]) -> str:
    base = slug(str(cells.get("id") or cells.get("name") or "model")) or "model"
    return base if base not in taken else next(f"{base}-{n}" for n in range(2, 10**6) if f"{base}-{n}" not in taken)


def _jsonl(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, row in read_jsonl(path):
        row.pop(ORIGIN, None)
        yield f"{path}, line {number}", _mapped(row, columns, str(path)) if columns else row


def _csv(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")))
    own = set(COLUMNS) <= set(reader.fieldnames or ())
    for row in reader:
        row.pop(ORIGIN, None)
        place = f"{path}, line {reader.line_num}"
        if own:
            yield place, {c: from_csv_cell(c, v or "") for c, v in row.items() if c is not None}
            continue
        cells = _mapped(row, columns, str(path))
        for column, value in cells.items():
            if column in LISTS and isinstance(value, str):
                cells[column] = [v.strip() for v in re.split(r"[;,]", value) if v.strip()] or None
        yield place, {c: v for c, v in cells.items() if v not in (None, "")}


def _mapped(row: Mapping[str, Any], columns: Mapping[str, str], path: str) -> dict[str, Any]:
    """A foreign row in our columns; same names need no map."""
    for ours, theirs in columns.items():
        if ours not in COLUMNS:
            raise ConfigError(
                f"--columns {ours}={theirs}: no column {ours!r}; nearest: {', '.join(nearest(ours, COLUMNS))}"
            )
        if theirs not in row:
            raise ConfigError(f"--columns {ours}={theirs}: {path} has {', '.join(map(str, row))}")
    return {c: row[c] for c in COLUMNS if c in row} | {ours: row[theirs] for ours, theirs in columns.items()}


def _bibtex(path: Path, _: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        from pybtex.database import BibliographyData, parse_string
        from pybtex.exceptions import PybtexError
    except ImportError as error:
        raise ConfigError("reading BibTeX needs pybtex: pip install 'evolvent[atlas]'") from error
    try:
        read: BibliographyData = parse_string(path.read_text(encoding="utf-8"), "bibtex")
    except PybtexError as error:
        raise DataError(f"{path}: not BibTeX: {error}") from error
    for key, item in read.entries.items():
        cell = item.fields
        title = re.sub(r"[{}]", "", cell.get("title", ""))
        venue = re.sub(
            r"[{}]", "", cell.get("journal") or cell.get("booktitle") or cell.get("howpublished") or "unknown"
        )
        arxiv = cell.get("eprint") if cell.get("archiveprefix", "").lower() == "arxiv" else None
        doi = cell.get("doi")
        link = cell.get("url") or (
            f"https://arxiv.org/abs/{arxiv}" if arxiv else f"https://doi.org/{doi}" if doi else ""
        )
        people = item.persons.get("author", [])
        yield (
            f"{path}, entry {key}",
            {
                "name": title.partition(":")[0][:60] if ":" in title[:60] else key,
                "title": title,
                "venue": f"{venue} {cell.get('year', '')}".strip(),
                "first_author": " ".join(people[0].last_names) if people else None,
                "doi": doi,
                "arxiv_id": arxiv,
                "paper_url": link,
            },
        )


def _epoch(path: Path, _: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The table of Epoch AI; columns without a home are kept under `extra`."""
    used = {"Model", "Domain", "Task", "Publication date", "Parameters", "Base model", "Training dataset", "Link"}
    reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")))
    for row in reader:
        place = f"{path}, line {reader.line_num}"
        date = row.get("Publication date") or ""
        domains = [d.strip().lower() for d in (row.get("Domain") or "").split(",")]
        ids = paper_ids(row.get("Link") or None)
        size = _count(row.get("Parameters") or "", place)
        cells: dict[str, Any] = {
            "name": row.get("Model") or "",
            "title": row.get("Reference") or row.get("Model") or "",
            "venue": f"{'arXiv' if ids['arxiv_id'] else 'unknown'} {date[:4]}",
            "first_public": date[:7] or None,
            "fields": list(dict.fromkeys(_EPOCH_FIELD[d] for d in domains if d in _EPOCH_FIELD)),
            "modalities": list(dict.fromkeys(_EPOCH_MODALITY[d] for d in domains if d in _EPOCH_MODALITY)),
            "evaluation_tasks": _split(row.get("Task")),
            "pretraining_data": _split(row.get("Training dataset")),
            "backbone": _split(row.get("Base model")) or None,
            "n_params": [size] if size else [],
            "paper_url": row.get("Link") or "",
            "arxiv_id": ids["arxiv_id"],
            "doi": ids["doi"],
            "extra": {k: v for k, v in row.items() if k and v and k not in used},
        }
        yield place, {c: v for c, v in cells.items() if v not in (None, [], {})}


def _count(text: str, place: str) -> int | None:
    if not text:
        return None
    try:
        return round(float(text))
    except ValueError:
        try:
            return parameter_count(text)
        except ValueError as error:
            raise DataError(f"{place}, Parameters: {error}") from error


def _split(text: str | None) -> list[str]:
    return list(dict.fromkeys(v.strip() for v in (text or "").split(",") if v.strip()))


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return file.readline()
