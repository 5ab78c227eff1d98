"""Rows: every rule, the bundled table, the JSON Schema, and rules that give the table's own values."""

from __future__ import annotations

import json

import jsonschema
import pytest

from evolvent.errors import ConfigError, DataError
from evolvent.methods.atlas import entry as entries_module
from evolvent.methods.atlas import rules, vocabulary
from evolvent.methods.atlas.config import AtlasConfig
from evolvent.methods.atlas.entry import Entry, checked_entry, read_entries, table_problems

NEW = {
    "name": "My Smol",
    "title": "A small model of our own",
    "venue": "arXiv 2025",
    "fields": ["chemistry_materials"],
    "modalities": ["language"],
    "paper_url": "https://arxiv.org/abs/2501.00001",
}


@pytest.fixture(scope="module")
def table():
    return read_entries(vocabulary.read_table("models.jsonl"), "models.jsonl")


def test_bundled_table_passes_every_rule_and_reads_back_as_written(table):
    lines = vocabulary.read_table("models.jsonl").splitlines()
    assert [e.cells() for e in table] == [json.loads(line) for line in lines]
    assert len(table) == 296
    assert table_problems(table) == []


def test_every_row_fits_the_shipped_json_schema(table):
    validator = jsonschema.Draft202012Validator(json.loads(vocabulary.read_table("schema.json")))
    for e in table:
        validator.validate(e.cells())
    broken = {**table[0].cells(), "fields": ["alchemy"]}
    assert not validator.is_valid(broken)


def test_our_schema_requires_and_limits_what_the_shipped_one_does():
    ours = Entry.model_json_schema(mode="serialization")["properties"]
    shipped = json.loads(vocabulary.read_table("schema.json"))["properties"]
    assert set(shipped) == set(ours) - set(entries_module.RUN_TIME)
    for column in ("fields", "modalities", "architecture", "pretraining_strategy", "survey_type", "modalities_ext"):
        assert _enum(ours[column]) == _enum(shipped[column])


def _enum(schema):
    found = schema.get("items") or schema["anyOf"][0]["items"]
    return set(found["enum"])


def test_literals_are_the_vocabulary(table):
    for column in ("fields", "modalities", "architecture", "pretraining_strategy", "survey_type", "modalities_ext"):
        used = {v for e in table for v in (getattr(e, column) or ())}
        assert used <= set(vocabulary.values(column))


def test_words_cover_every_task_field_and_modality():
    words = vocabulary.words()
    tasks = {row["name"] for row in vocabulary.read_rows("tasks.jsonl")}
    assert set(words["tasks"]) == tasks
    assert set(words["fields"]) == set(vocabulary.values("fields"))
    assert set(words["modalities"]) == set(vocabulary.vocabulary()["modalities"])
    assert all(2 <= len(w) <= 3 for w in words["tasks"].values())


def test_rules_give_the_values_that_the_table_has_by_rule(table):
    counted = 0
    for e in table:
        told = e.provenance
        if told.get("architecture") == "rule":
            assert rules.architecture_from(e.backbone, e.pretraining_tasks, e.modalities) == e.architecture, e.id
            counted += 1
        if told.get("pretraining_strategy") == "rule":
            assert rules.strategies_from(e.pretraining_tasks, e.architecture) == e.pretraining_strategy, e.id
            counted += 1
        if told.get("survey_type") == "rule" or e.survey_type is None:
            found = rules.survey_type_from(e.architecture, e.pretraining_strategy, e.modalities)
            assert found == e.survey_type, e.id
            counted += 1
    assert counted == 234 + 247 + 152 + 59


def test_an_unknown_backbone_gives_null_and_is_logged(caplog):
    with caplog.at_level("INFO"):
        assert rules.architecture_from(["Mamba"]) is None
    assert "'Mamba'" in caplog.text


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"fields": ["alchemy"]}, "fields.0: 'alchemy' is not in the vocabulary"),
        ({"architecture": ["encoder-onyl"], "provenance": {"architecture": "user"}}, "nearest: encoder-only"),
        ({"code_url": "javascript:alert(1)"}, "code_url"),
        ({"hf_id": "../secret"}, "hf_id"),
        ({"hf_id": "a/b..c"}, "cannot hold '..'"),
        ({"n_params": ["7 billion"]}, "n_params.0"),
        ({"n_params": [10]}, "n_params.0"),
        ({"year": 2024}, "year: 2024 is not in the venue"),
        ({"venue": "arXiv"}, "is no venue"),
        ({"architecture": ["encoder-only"]}, "architecture: filled without a provenance"),
        ({"languages": []}, "languages: an empty list; null means unknown"),
        ({"pretraining_data": ["a", "a"]}, "pretraining_data: a value stands there twice"),
        ({"modalities_ext": ["text"]}, "modalities_ext: 'language' stands in modalities already"),
        ({"derived_from": ["my-smol"]}, "cannot come from itself"),
        ({"titel": "x"}, "titel: unknown column; nearest: title"),
        ({"provenance": {"colour": "user"}}, "'colour' is no column"),
        ({"title": ""}, "title"),
    ],
)
def test_a_broken_rule_is_refused_with_its_cell(cells, said):
    with pytest.raises(DataError, match="row 3, ") as caught:
        checked_entry({**NEW, **cells}, "row 3")
    assert said in str(caught.value)


def test_case_and_synonyms_are_accepted():
    cells = {**NEW, "fields": ["Chemistry"], "modalities": ["TEXT", "SMILES"], "architecture": ["BERT-like", "seq2seq"]}
    entry = checked_entry({**cells, "provenance": {"architecture": "user"}}, "row")
    assert entry.fields == ["chemistry_materials"]
    assert entry.modalities == ["language", "molecule"]
    assert entry.architecture == ["encoder-only", "encoder-decoder"]
    assert (entry.id, entry.year, entry.venue_type) == ("my-smol", 2025, "preprint")


def test_circles_and_dangling_links_are_found(table):
    two = [
        checked_entry({**NEW, "id": "a", "derived_from": ["b"]}, "a"),
        checked_entry({**NEW, "id": "b", "succeeds": "a"}, "b"),
        checked_entry({**NEW, "id": "c", "derived_from": ["scibertt"]}, "c"),
    ]
    found = "\n".join(table_problems([*table, *two, two[0]]))
    assert "row a, derived_from or succeeds: goes round in a circle" in found
    assert "row c, derived_from or succeeds: no row 'scibertt'; nearest: scibert" in found
    assert "row a, id: stands in the table twice" in found


@pytest.mark.parametrize(
    ("label", "number"), [("Base", 110_000_000), ("1.3B", 1_300_000_000), ("8x7B", None), ("38M", 38_000_000)]
)
def test_size_labels(label, number):
    assert vocabulary.parameter_count(label) == number


def test_sizes_of_the_list_stand_in_the_rows(table):
    for e in table:
        assert {c.size for c in e.checkpoints if c.size} <= set(e.parameters), e.id


def test_settings_come_from_file_then_environment_then_flags(tmp_path, monkeypatch):
    file = tmp_path / "atlas.yaml"
    file.write_text("graph_k: 3\nseed: 5\nencoder: none\n")
    monkeypatch.setenv("EVOLVENT_ATLAS_GRAPH_K", "4")
    monkeypatch.setenv("EVOLVENT_ATLAS_SEED", "6")
    args = AtlasConfig.read(file, {"seed": 7})
    assert (args.encoder, args.graph_k, args.seed) == ("none", 4, 7)
    monkeypatch.setenv("EVOLVENT_ATLAS_GRAPH_K", "0")
    with pytest.raises(ConfigError, match="environment variable EVOLVENT_ATLAS_GRAPH_K, graph_k"):
        AtlasConfig.read(file)
