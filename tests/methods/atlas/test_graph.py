"""The graph against its formula, lineage with one's own models, and the ways to look at the table."""

from __future__ import annotations

import math
from itertools import pairwise

import networkx as nx
import pytest

from evolvent.errors import ConfigError, DataError
from evolvent.methods.atlas import artefacts, graph
from evolvent.methods.atlas.views import matrix
from evolvent.runs.lineage import Lineage, write_lineage


@pytest.fixture
def atlas(shared_atlas):
    """These tests only look; those that write make an Atlas of their own."""
    return shared_atlas


@pytest.fixture
def brute_similarity(atlas):
    """s(a, b) straight from the definition."""
    generic = graph.generic_data()

    def of(e):
        kinds = {"backbone": e.backbone_parts, "data": [d for d in e.pretraining_data if d not in generic]}
        kinds |= {"task": e.evaluation_tasks, "objective": e.pretraining_tasks, "type": e.survey_type or []}
        return {(kind, v) for kind, values in kinds.items() for v in values}

    owned = {e.id: of(e) for e in atlas}
    everything = set().union(*owned.values())
    weight = {x: math.log(len(owned) / sum(x in f for f in owned.values())) ** 2 for x in everything}

    def similarity(a, b):
        norms = [math.sqrt(sum(weight[x] for x in owned[name])) for name in (a, b)]
        return sum(weight[x] for x in owned[a] & owned[b]) / (norms[0] * norms[1])

    return similarity


def test_edges_follow_the_formula_and_each_node_keeps_its_nearest(atlas, brute_similarity):
    found = atlas.graph()
    assert found["k2"]["pmc-llama"]["similarity"] == pytest.approx(0.82, abs=0.005)
    for name in ("k2", "scibert", "fourcastnet"):
        for other, edge in found[name].items():
            assert edge["similarity"] == pytest.approx(brute_similarity(name, other), abs=1e-6)
        scores = sorted((brute_similarity(name, e.id) for e in atlas if e.id != name), reverse=True)
        mine = sorted((d["similarity"] for d in found[name].values()), reverse=True)
        assert mine[:6] == pytest.approx(scores[:6], abs=1e-6)


def test_graph_has_the_measured_size_and_no_lonely_node(atlas):
    found = atlas.graph()
    fields = {e.id: set(e.fields) for e in atlas}
    assert found.number_of_edges() == 1308
    assert sum(not fields[a] & fields[b] for a, b in found.edges) == 368
    assert min(dict(found.degree).values()) >= 1
    assert len({x for e in atlas for x in graph.features(e, graph.generic_data())}) == 519


def test_graph_and_layout_are_the_same_every_time(atlas, make_atlas):
    one, two = atlas.graph(), make_atlas().graph()
    assert nx.utils.graphs_equal(one, two)
    assert graph.layout(one, 0) == graph.layout(two, 0)
    points = graph.layout(one, 0).values()
    assert all(0 <= x <= 1 and 0 <= y <= 1 for x, y in points)


def test_neighbours_bridges_and_paths_explain_themselves(atlas):
    near = atlas.neighbors("k2", cross_field=True)
    assert near[0].target == "pmc-llama"
    assert near[0].why.startswith("backbone LLaMA")
    assert not any("geoscience" in atlas[c.target].fields for c in near)
    bridge = atlas.bridges("geoscience", "medicine", 5)
    assert bridge == sorted(bridge, key=lambda c: -c.similarity)
    assert (bridge[0].source, bridge[0].target) == ("k2", "pmc-llama")
    way = atlas.path("k2", "scgpt")
    assert (way[0].source, way[-1].target) == ("k2", "scgpt")
    assert all(a.target == b.source for a, b in pairwise(way))
    cost = sum(1 - c.similarity for c in way)
    assert cost == pytest.approx(nx.shortest_path_length(atlas.graph(), "k2", "scgpt", weight="distance"))
    with pytest.raises(ConfigError, match="'alchemy' is not in the vocabulary"):
        atlas.bridges("alchemy", "physics")
    with pytest.raises(DataError, match="no model 'k3'"):
        atlas.neighbors("k3")


def test_hub_view_is_bipartite(atlas):
    found = atlas.graph("hub")
    kinds = nx.get_node_attributes(found, "kind")
    assert all((kinds[a] == "model") != (kinds[b] == "model") for a, b in found.edges)
    assert found.has_edge("scibert", "backbone:BERT")


def test_lineage_has_the_tables_arrows_and_no_circle(atlas):
    found = atlas.graph("lineage")
    kinds = [d["kind"] for _, _, d in found.edges(data=True)]
    assert sum("derived_from" in k for k in kinds) == 41
    assert sum("succeeds" in k for k in kinds) == 14
    assert nx.is_directed_acyclic_graph(found)
    with pytest.raises(ConfigError, match="give similar, hub or lineage"):
        atlas.graph("circles")


# ------------------------------------------------------------------------------------------------ own models


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    monkeypatch.setenv("EVOLVENT_LEDGER", str(tmp_path / "data" / "artefacts.txt"))
    return tmp_path / "data" / "artefacts.txt"


def made(folder, parent, weights, **more):
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    save_file({"w": torch.full((2,), float(weights))}, str(folder / "model.safetensors"))
    write_lineage(folder, Lineage(parent=parent, method="semievol", **more))
    return folder


def test_a_checkpoint_enters_the_family_tree_by_itself(atlas, ledger, tmp_path):
    first = made(
        tmp_path / "runs" / "exam" / "checkpoint",
        "atlas:k2@daven3/k2-v1",
        1,
        data={"labeled": "abc"},
        metrics_before={"accuracy": 0.5},
        metrics_after={"accuracy": 0.625},
    )
    made(tmp_path / "runs" / "exam2" / "checkpoint", str(first), 2)
    mine = {a.id: a for a in atlas.artefacts()}
    assert {name: a.parents for name, a in mine.items()} == {"mine:exam": ("k2",), "mine:exam2": ("mine:exam",)}
    tree = atlas.graph("lineage")
    assert tree["k2"]["mine:exam"]["kind"] == "semievol"
    assert nx.ancestors(tree, "mine:exam2") >= {"k2", "mine:exam"}
    assert artefacts.roots(mine["mine:exam2"], mine) == ["k2"]
    assert mine["mine:exam"].row()["metrics"] == {"accuracy": {"before": 0.5, "after": 0.625}}


def test_parents_are_found_by_hub_id_too_and_vanished_folders_are_left_out(atlas, ledger, tmp_path):
    import shutil

    gone = made(tmp_path / "gone", "daven3/k2-v1", 1)
    made(tmp_path / "kept", "daven3/k2-v1", 2)
    made(tmp_path / "other", "someone/else", 3)
    shutil.rmtree(gone)
    assert {a.id: a.parents for a in atlas.artefacts()} == {"mine:kept": ("k2",), "mine:other": ("someone/else",)}
    assert "someone/else" in atlas.graph("lineage")


def test_a_moved_parent_is_known_by_its_weights(atlas, ledger, tmp_path):
    from evolvent.runs.lineage import weight_digest

    first = made(tmp_path / "a", "daven3/k2-v1", 1)
    digest = weight_digest(first)
    made(tmp_path / "b", "/elsewhere/a", 2, parent_digest=digest)
    assert {a.id: a.parents for a in atlas.artefacts()}["mine:b"] == ("mine:a",)


def test_model_card_carries_hub_metadata_and_the_papers_behind_it(atlas, ledger, tmp_path):
    import yaml

    made(tmp_path / "exam", "atlas:k2@daven3/k2-v1", 1, metrics_after={"accuracy": 0.625})
    mine = {a.id: a for a in atlas.artefacts()}
    text = artefacts.card(mine["mine:exam"], atlas.entries, mine)
    head = yaml.safe_load(text.split("---")[1])
    assert head["base_model"] == ["daven3/k2-v1"]
    assert head["base_model_relation"] == "finetune"
    assert head["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.625
    assert "geoscience" in head["tags"]
    assert atlas["k2"].title in text


def test_ledger_can_be_off_and_a_home_that_cannot_be_written_fails_no_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("EVOLVENT_LEDGER", "off")
    made(tmp_path / "a", "x/y", 1)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EVOLVENT_LEDGER", str(tmp_path / "file" / "ledger"))
    made(tmp_path / "b", "x/y", 1)
    assert "cannot be written" in caplog.text


# ------------------------------------------------------------------------------------------------ views


def test_compare_shows_what_differs(atlas):
    compared = atlas.compare(["chemllm", "llasmol", "chemdfm"])
    text = compared.to_markdown(diff_only=True)
    assert "| | ChemLLM | LlaSMol | ChemDFM |".replace("| |", "|  |") in text
    assert "SMolInstruct" in text
    assert "| fields |" not in text
    assert "| fields |" in compared.to_markdown()
    assert "retrosynthesis" in compared.shared()["evaluation_tasks"]
    with pytest.raises(ConfigError, match="name two to six"):
        atlas.compare(["k2"])


def test_names_and_aliases_find_rows_and_ambiguous_ones_say_so(atlas):
    assert atlas["PubMedBERT"].id == "biomedbert-gu"
    with pytest.raises(DataError, match="several models: clinicalbert-alsentzer, clinicalbert-huang"):
        _ = atlas["ClinicalBERT"]
    with pytest.raises(DataError, match="nearest: scibert"):
        _ = atlas["scibertt"]


def test_numbers_of_the_list_are_those_that_are_counted(atlas):
    counted = atlas.stats()
    assert counted["entries"] == 296
    assert counted["with code"] == 266
    assert counted["weight links"] == 306
    assert counted["hub repositories"] == 226
    assert counted["in the survey's tables"] == 264
    assert sum(sum(row.values()) for row in matrix(list(atlas)).values()) >= 296


def test_coverage_is_not_below_what_the_data_readme_says(atlas):
    filled = atlas.stats()["filled"]
    floor = {"first_author": 294, "first_public": 260, "architecture": 291, "backbone": 283, "parameters": 203}
    floor |= {"survey_type": 237, "pretraining_data": 270, "pretraining_tasks": 294, "evaluation_tasks": 276}
    floor |= {"derived_from": 37, "arxiv_id": 226, "doi": 281, "code_url": 266, "model_url": 183, "hf_id": 139}
    assert all(filled[column] >= count for column, count in floor.items())


def test_timeline_slices_and_applications(atlas):
    points = atlas.timeline("survey_type")
    assert [p["month"] for p in points] == sorted(p["month"] for p in points)
    assert len(points) == 296
    physics = atlas.by(field="physics")
    assert {e.id for e in physics.entries} == {e.id for e in atlas if "physics" in e.fields}
    assert sum(map(len, physics.datasets().values())) == sum(len(e.pretraining_data) for e in physics.entries)
    assert next(iter(atlas.by(field="mathematics").tasks())) in ("QA", "MWP")
    assert {a["stage"] for a in atlas.applications(stage="theorem proving")} == {"theorem proving"}
    assert len(atlas.applications()) == 40
    assert {b["name"] for b in atlas.by(field="mathematics", modality="language").benchmarks()} >= {"GSM8K"}
    with pytest.raises(ConfigError, match="no column 'colour'"):
        atlas.timeline("colour")
