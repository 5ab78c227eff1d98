"""The table in other people's forms, and back. Every export says where the facts come from and under which licences."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import networkx as nx
import yaml

from evolvent.data.files import write_text
from evolvent.errors import ConfigError, DataError
from evolvent.methods.atlas.entry import COLUMNS, LISTS, NULL_FOR_UNKNOWN, Entry
from evolvent.methods.atlas.vocabulary import slug, source

FORMS = ("csv", "json", "jsonl", "yaml", "markdown", "bibtex", "graphml", "gexf", "parquet", "schema")
ENDINGS = {".csv": "csv", ".json": "json", ".jsonl": "jsonl", ".yaml": "yaml", ".yml": "yaml", ".md": "markdown"}
ENDINGS |= {".bib": "bibtex", ".graphml": "graphml", ".gexf": "gexf", ".parquet": "parquet"}
ORIGIN = "exported_from"  # column and key that name the source
_JSON_CELLS = ("checkpoints", "provenance", "hub", "extra")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def origin() -> str:
    """Source, commit and licences in one line."""
    told = source()
    listed, survey = told["list"], told["survey"]
    return (
        f"{listed['title']} at {listed['commit'][:7]} ({listed['license']}); {survey['authors'].split(',')[0]} et al., "
        f"{survey['venue']}, {survey['url']} ({survey['license']})"
    )


def form_of(path: Path, form: str | None) -> str:
    """The form of a file, by its name unless it is said.

    Raises:
        ConfigError: an unknown form.
    """
    found = form or ENDINGS.get(path.suffix.lower())
    if found not in FORMS:
        raise ConfigError(f"{path}: no form for this ending; say one with --format: {', '.join(FORMS)}")
    return found


def export(
    path: str | Path,
    entries: Sequence[Entry],
    form: str | None = None,
    graph: Any = None,
    keys: Mapping[str, str] | None = None,
) -> Path:
    """Write rows to a file.

    Args:
        path: its ending tells the form, unless `form` does.
        entries: what to write.
        graph: networkx graph, for "graphml" and "gexf".
        keys: id -> citation key, for BibTeX; default keys that are unique among these rows.

    Raises:
        ConfigError: an unknown form, or Parquet without pyarrow.
        DataError: the file cannot be written.
    """
    target = Path(path)
    kind = form_of(target, form)
    try:
        if kind == "parquet":
            return _write_parquet(target, entries)
        return write_text(target, as_text(entries, kind, graph, keys))
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror})") from error


def as_text(entries: Sequence[Entry], form: str, graph: Any = None, keys: Mapping[str, str] | None = None) -> str:
    """Rows as text in one of the forms."""
    rows = [e.row() for e in entries]
    if form == "csv":
        return to_csv(entries)
    if form == "json":
        return json.dumps({"source": source(), "entries": rows}, ensure_ascii=False, indent=1) + "\n"
    if form == "jsonl":
        return "".join(json.dumps({**row, ORIGIN: origin()}, ensure_ascii=False) + "\n" for row in rows)
    if form == "yaml":
        return yaml.safe_dump({"source": source(), "entries": rows}, allow_unicode=True, sort_keys=False, width=120)
    if form == "markdown":
        return to_markdown(entries)
    if form == "bibtex":
        return to_bibtex(entries, keys)
    if form == "schema":
        return json.dumps(Entry.model_json_schema(mode="serialization"), indent=1) + "\n"
    if graph is None:
        raise ConfigError(f"export {form}: give the graph to write")
    return graph_text(graph, form)


# ------------------------------------------------------------------------------------------------ CSV


def to_csv(entries: Sequence[Entry]) -> str:
    """Lists joined by "; ", checkpoints and provenance as JSON; cells that a spreadsheet would compute get a "'"."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*COLUMNS, ORIGIN])
    for entry in entries:
        cells = entry.model_dump(mode="json")
        writer.writerow([*(_csv_cell(column, cells[column]) for column in COLUMNS), origin()])
    return out.getvalue()


def _csv_cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    if column in _JSON_CELLS:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        # A value that holds the separator cannot be split again, so the whole cell becomes JSON.
        plain = "; ".join(map(str, value))
        if any("; " in str(v) or str(v).startswith("[") for v in value):
            plain = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return _inert(plain)
    return _inert(str(value))


def _inert(text: str) -> str:
    """Text that no spreadsheet takes for a formula; a leading quote is doubled, so that reading back is exact."""
    return f"'{text}" if text.startswith((*_FORMULA, "'")) else text


def from_csv_cell(column: str, text: str) -> Any:
    """A cell of our own CSV back as a value."""
    if column in _JSON_CELLS:
        return json.loads(text) if text else None
    plain = text[1:] if text.startswith("'") else text
    if not plain and column in NULL_FOR_UNKNOWN:
        return None
    if column in LISTS:
        if plain.startswith("["):
            return json.loads(plain)
        values: list[Any] = plain.split("; ") if plain else []
        return [int(v) for v in values] if column == "n_params" else values
    if column in ("year", "source_order"):
        return int(plain)
    if column == "in_survey_tables":
        return plain == "true"
    return plain or None


# ------------------------------------------------------------------------------------------------ Markdown


def to_markdown(entries: Sequence[Entry]) -> str:
    """A table to read."""
    lines = ["| Model | Title | Venue | Fields | Modalities | Type | Size | Links |", "|" + " --- |" * 8]
    for e in entries:
        links = [("paper", e.paper_url), ("code", e.code_url), ("weights", e.model_url)]
        shown = [f"[{label}]({url.replace(')', '%29').replace('|', '%7C')})" for label, url in links if url]
        cells = [e.name, e.title, e.venue, ", ".join(e.fields), ", ".join(e.all_modalities)]
        cells += [", ".join(e.survey_type or ()), ", ".join(e.parameters)]
        lines.append(f"| {' | '.join([*map(markdown_cell, cells), ' '.join(shown)])} |")
    return "\n".join(lines) + f"\n\nSource: {origin()}\n"


def markdown_cell(text: str) -> str:
    """Text that stays text in a Markdown table."""
    plain = re.sub(r"\s+", " ", _inert(text))
    return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", plain)


# ------------------------------------------------------------------------------------------------ BibTeX

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip
_KINDS = {"journal": "article", "conference": "inproceedings", "workshop": "inproceedings", "preprint": "misc"}


def to_bibtex(entries: Sequence[Entry], keys: Mapping[str, str] | None = None) -> str:
    """BibTeX for pybtex, BibTeX and biber."""
    keys = citation_keys(entries) if keys is None else keys
    return f"% {origin()}\n\n" + "\n".join(bibtex_entry(e, keys[e.id]) for e in entries)


def citation_keys(entries: Iterable[Entry]) -> dict[str, str]:
    """Id -> first author, year and name as a key; a letter keeps keys apart."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for entry in entries:
        base = slug(f"{entry.first_author or ''}{entry.year}{entry.name}").replace("-", "")
        key = base
        number = 1
        while key in taken:
            number += 1
            key = f"{base}x{number}"
        taken.add(key)
        found[entry.id] = key
    return found


def bibtex_entry(entry: Entry, key: str) -> str:
    """One entry; the table knows only first authors."""
    kind = _KINDS[entry.venue_type]
    where = {"article": "journal", "inproceedings": "booktitle"}.get(kind, "howpublished")
    venue = entry.venue_name + (f" {entry.venue_track}" if entry.venue_track else "")
    cells = [("title", f"{{{latex(entry.title)}}}"), (where, latex(venue)), ("year", str(entry.year))]
    if entry.first_author:
        name = latex(entry.first_author)
        whole = f"{{{name}}}" if re.search(r"[\s,]", name) else name  # a family name of several words stays one name
        cells.insert(0, ("author", f"{whole} and others"))
    if entry.arxiv_id:
        cells += [("eprint", entry.arxiv_id), ("archiveprefix", "arXiv")]
    if entry.doi:
        cells.append(("doi", entry.doi))
    cells.append(("url", entry.paper_url))
    body = "".join(f"  {name} = {{{value}}},\n" for name, value in cells)
    return f"@{kind}{{{key},\n{body}}}\n"


def latex(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    return "".join(_LATEX.get(c, c) for c in re.sub(r"\s+", " ", text))


# ------------------------------------------------------------------------------------------------ graphs, Parquet


def graph_text(graph: Any, form: str) -> str:
    """A networkx graph as GraphML, GEXF or JSON node-link, with the source as an attribute.

    Raises:
        ConfigError: another form.
    """
    told = graph.copy()
    told.graph["source"] = origin()
    if form == "graphml":
        return "\n".join(nx.generate_graphml(told)) + "\n"
    if form == "gexf":
        for node, attributes in told.nodes(data=True):
            attributes["label"] = attributes.get("name", node)
        return f"<!-- {origin()} -->\n" + "\n".join(nx.generate_gexf(told)) + "\n"
    if form == "json":
        return json.dumps(nx.node_link_data(told, edges="links"), ensure_ascii=False, indent=1) + "\n"
    raise ConfigError(f"graph as {form!r}: give graphml, gexf or json")


def _write_parquet(path: Path, entries: Sequence[Entry]) -> Path:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigError("export parquet: needs pyarrow; pip install pyarrow") from error
    rows = [{**e.model_dump(mode="json"), ORIGIN: origin()} for e in entries]
    for row in rows:
        for column in _JSON_CELLS:
            row[column] = json.dumps(row[column], ensure_ascii=False)
    temporary = path.with_name(path.name + ".new")
    pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata({"source": json.dumps(source())}), temporary)
    return temporary.replace(path)
