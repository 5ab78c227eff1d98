"""Exports that other programs read, with the source of the facts in every one of them."""

from __future__ import annotations

import csv
import io
import json
import re

import networkx as nx
import pytest
import yaml
from pybtex.database import parse_file

from evolvent.errors import ConfigError, DataError
from evolvent.methods.atlas.exports import as_text, markdown_cell, origin

ROWS = ("csv", "json", "jsonl", "yaml", "markdown", "bibtex", "graphml", "gexf")


@pytest.fixture
def atlas(shared_atlas):
    """These tests only look; those that write make an Atlas of their own."""
    return shared_atlas


def test_bibtex_parses_with_unique_keys(atlas, tmp_path):
    """Acceptance 5."""
    read = parse_file(str(atlas.export(tmp_path / "all.bib")), "bibtex")
    assert len(read.entries) == 296
    entry = read.entries["beltagy2019scibert"]
    assert entry.type == "inproceedings"
    assert entry.persons["author"][0].last_names == ["Beltagy"]
    assert str(entry.persons["author"][1]) == "others"
    assert {e.type for e in read.entries.values()} == {"article", "inproceedings", "misc"}
    assert all(e.fields["url"].startswith("http") for e in read.entries.values())


def test_latex_is_escaped_and_titles_keep_their_case(make_atlas, new_row, tmp_path):
    atlas = make_atlas()
    title = r"50% of A_B & C^D {x} ~ \cmd $1 #2"
    atlas.add({**new_row, "title": title})
    text = atlas.cite("my-smol")
    assert (
        r"title = {{50\% of A\_B \& C\textasciicircum{}D \{x\} \textasciitilde{} \textbackslash{}cmd \$1 \#2}}" in text
    )
    (tmp_path / "x.bib").write_text(text)
    assert len(parse_file(str(tmp_path / "x.bib"), "bibtex").entries) == 1


def test_keys_stay_apart_and_do_not_depend_on_the_selection(make_atlas, new_row, tmp_path):
    atlas = make_atlas()
    atlas.add({**new_row, "id": "one"})
    atlas.add({**new_row, "id": "two"})
    atlas.export(tmp_path / "two.bib", [atlas["two"]])
    assert "{2025mysmolx2," in (tmp_path / "two.bib").read_text()


@pytest.mark.parametrize("form", ROWS)
def test_every_export_says_where_the_facts_come_from(atlas, form):
    text = as_text(atlas.entries[:3], form, atlas.graph())
    assert "dd5e953" in text
    assert "MIT" in text
    assert "CC BY 4.0" in text


def test_json_and_yaml_hold_the_rows(atlas):
    rows = json.loads(as_text(atlas.entries, "json"))["entries"]
    assert rows == [e.cells() for e in atlas]
    assert yaml.safe_load(as_text(atlas.entries[:5], "yaml"))["entries"] == rows[:5]


def test_parquet_holds_the_rows_and_the_source(atlas, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(atlas.export(tmp_path / "all.parquet"))
    assert table.num_rows == 296
    assert table.column("title")[0].as_py() == atlas["scibert"].title
    assert b"dd5e953" in table.schema.metadata[b"source"]


def test_spreadsheets_compute_nothing_and_markdown_stays_text(make_atlas, new_row):
    atlas = make_atlas()
    atlas.add({**new_row, "title": "=HYPERLINK(1) | `x` <img onerror=alert(1)>", "first_author": "@SUM"})
    (row,) = csv.DictReader(io.StringIO(as_text([atlas["my-smol"]], "csv")))
    assert row["title"].startswith("'=HYPERLINK")
    assert row["first_author"] == "'@SUM"
    line = as_text([atlas["my-smol"]], "markdown").splitlines()[2]
    assert len(re.findall(r"(?<!\\)\|", line)) == 9
    assert r"\<img onerror" in line
    assert markdown_cell("-1+1") == "'-1+1"


def test_very_long_titles_are_written_whole(make_atlas, new_row):
    atlas = make_atlas()
    atlas.add({**new_row, "title": "x" * 100_000})
    for form in ("csv", "json", "markdown", "bibtex"):
        assert "x" * 100_000 in as_text([atlas["my-smol"]], form)


@pytest.mark.parametrize("view", ["similar", "hub", "lineage"])
def test_graphs_come_back_from_graphml_and_gexf(atlas, tmp_path, view):
    graph = atlas.graph(view)
    for ending, read in ((".graphml", nx.read_graphml), (".gexf", nx.read_gexf)):
        back = read(atlas.export(tmp_path / f"g{ending}", view=view))
        assert set(back.nodes) == set(graph.nodes)
        assert back.number_of_edges() == graph.number_of_edges()
    only = read(atlas.export(tmp_path / "p.gexf", atlas.filter(field="physics").rows, view="similar"))
    assert len(only) == 5


def test_json_schema_of_the_command_validates_the_rows(atlas):
    import jsonschema

    schema = json.loads(as_text([], "schema"))
    for e in atlas.entries[::20]:
        jsonschema.validate(e.model_dump(mode="json"), schema)


def test_unknown_forms_and_places_are_refused(atlas, tmp_path):
    with pytest.raises(ConfigError, match="no form for this ending"):
        atlas.export(tmp_path / "x.docx")
    with pytest.raises(DataError, match="cannot be written"):
        atlas.export(tmp_path / "missing" / "x.csv")


def test_origin_is_one_line():
    assert "\n" not in origin()
