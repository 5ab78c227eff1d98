"""Which model to start from: ten written scenarios, filters against brute force, nothing lost silently."""

from __future__ import annotations

import pytest

from evolvent.errors import ConfigError
from evolvent.methods.atlas.budget import Budget
from evolvent.methods.atlas.recommend import WEIGHTS, uses_of


@pytest.fixture
def atlas(shared_atlas):
    """These tests only look; those that write make an Atlas of their own."""
    return shared_atlas


# What a scientist asks for -> ids of which at least one must be among the first five.
SCENARIOS = [
    (
        "answer questions about geology exams",
        {"use": "semievol", "budget": Budget(24, "qlora")},
        {"k2", "jiuzhou", "geogalactica"},
    ),
    ("write a radiology report from a chest X-ray", {"modalities": ["vision", "language"]}, {"biovil-t", "radfm"}),
    ("predict the secondary structure of an RNA", {"modalities": ["rna"]}, {"rna-fm", "rnaernie", "aido-rna"}),
    (
        "convert IUPAC names to SMILES",
        {"field": "chemistry", "use": "semievol", "budget": Budget(24, "lora")},
        {"llasmol", "chemllm"},
    ),
    ("predict the melting point from a polymer string", {"modalities": ["molecule"]}, {"polync", "transpolymer"}),
    ("forecast the weather ten days ahead", {"modalities": ["climate_time_series"]}, {"aurora", "prithvi-wxc"}),
    ("find the effect of a DNA mutation", {"modalities": ["dna"], "budget": Budget(8, "full")}, {"gpn-msa"}),
    ("label the cell type of single-cell profiles", {"modalities": ["omics"]}, {"geneformer", "cellplm"}),
    ("find scientific papers that are similar", {"use": "blair", "field": "general"}, {"specter", "scincl", "aspire"}),
    ("medical dialogue in Chinese", {"languages": ["zh"], "use": "iteralign"}, {"zhongjing", "huatuogpt", "bianque"}),
]


@pytest.mark.real
@pytest.mark.parametrize(("task", "asked", "wanted"), SCENARIOS, ids=[s[0] for s in SCENARIOS])
def test_a_scenario_finds_its_model_and_only_what_fits(atlas, task, asked, wanted):
    """Acceptance 3."""
    found = atlas.recommend(task, **asked)
    assert wanted & {c.entry.id for c in found.choices}
    assert len(found.choices) <= 5
    assert "no benchmark scores" in found.notices[0]
    names = {"omics": "multiomics"}
    wanted_modalities = {names.get(m, m) for m in asked.get("modalities", ())}
    fits, unknown = brute_force(atlas, wanted_modalities, asked)
    everything = atlas.recommend(task, **asked, k=400)
    assert {c.entry.id for c in everything.choices} == {name for name, _ in fits}
    assert everything.candidates == len(fits)
    assert {(e.id, c.hf_id) for e, c, _ in everything.unknown} == unknown


def brute_force(atlas, modalities, asked):
    """Checkpoints on the hub that pass every filter, and those of which something is unknown."""
    fits, unknown = set(), set()
    for entry in atlas:
        if not modalities <= {*entry.modalities, *entry.modalities_ext}:
            continue
        repositories = [(c.hf_id, c.n_params, c.size, c.url) for c in entry.checkpoints if c.hf_type == "model"]
        known = [n for n in entry.hf_ids_known if n not in entry.hf_ids]
        repositories += [(n, entry.n_params[0] if len(entry.n_params) == 1 else None, None, n) for n in known]
        for name, number, label, url in repositories:
            verdicts = []
            if "use" in asked:
                verdicts.append(asked["use"] in uses_of(entry) if entry.architecture else None)
            if "languages" in asked:
                verdicts.append(set(asked["languages"]) <= set(entry.languages) if entry.languages else None)
            if "budget" in asked:
                if number is None and label is None and len(entry.n_params) == 1:
                    number = entry.n_params[0]
                bytes_each = {"qlora": 0.65, "lora": 2.1, "full": 16.0}[asked["budget"].method]
                verdicts.append(None if number is None else number * bytes_each * 1.2 <= asked["budget"].vram_gb * 1e9)
            if False in verdicts:
                continue
            (unknown.add((entry.id, name)) if None in verdicts else fits.add((entry.id, url)))
    return fits, unknown


def test_score_is_the_weighted_sum_of_its_parts_and_orders_the_answer(make_atlas):
    found = make_atlas(encoder="none").recommend("retrosynthesis of molecules", field="chemistry", k=50)
    assert sum(WEIGHTS.values()) == pytest.approx(1)
    for choice in found.choices:
        assert choice.score == pytest.approx(sum(WEIGHTS[n] * v for n, v in choice.parts.items()))
        assert all(0 <= v <= 1 for v in choice.parts.values())
    scores = [c.score for c in found.choices]
    assert scores == sorted(scores, reverse=True)
    assert len({c.entry.id for c in found.choices}) == len(scores)


def test_without_an_encoder_words_decide_and_that_is_said(make_atlas):
    found = make_atlas(encoder="none").recommend("retrosynthesis", k=3)
    assert all("retrosynthesis" in c.entry.evaluation_tasks for c in found.choices)
    assert "words are matched" in found.notices[1]


def test_references_load_and_cautions_name_what_to_check(atlas):
    found = atlas.recommend("protein design", weights="any", modalities=["protein"], k=50)
    for choice in found.choices:
        if choice.checkpoint.hf_type == "model":
            assert choice.reference == f"atlas:{choice.entry.id}@{choice.checkpoint.hf_id}"
        else:
            assert choice.reference.startswith("http")
            assert any("download them yourself" in c for c in choice.cautions)
        assert any(c.startswith("licence unknown") for c in choice.cautions)
    esm = next(c for c in found.choices if c.entry.id == "esm-3")
    assert any(c.startswith("size-vs-checkpoint") for c in esm.cautions)


def test_ways_to_weights(atlas):
    counts = {w: atlas.recommend("anything", weights=w, k=400).candidates for w in ("hub", "any", "none")}
    assert counts["hub"] < counts["any"] < counts["none"]
    without = sum(e.weights == "none" for e in atlas)
    assert counts["none"] - counts["any"] == without


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"field": "alchemy"}, "'alchemy' is not in the vocabulary"),
        ({"modalities": ["smell"]}, "'smell' is not in the vocabulary"),
        ({"use": "semi-evol"}, "nearest: semievol"),
        ({"weights": "maybe"}, "give hub, any or none"),
    ],
)
def test_bad_use_is_refused(make_atlas, asked, said):
    with pytest.raises(ConfigError) as caught:
        make_atlas(encoder="none").recommend("x", **asked)
    assert said in str(caught.value)


def test_an_empty_task_is_refused(make_atlas):
    with pytest.raises(ConfigError, match="say what the model is for"):
        make_atlas(encoder="none").recommend("  ")


@pytest.mark.parametrize(
    ("method", "billions"), [("inference", 10), ("4bit", 36.36), ("lora", 9.52), ("qlora", 30.76), ("full", 1.25)]
)
def test_budget_is_bytes_by_parameter_and_activations(method, billions):
    budget = Budget(24, method)
    assert budget.fits(int(billions * 1e9))
    assert not budget.fits(int(billions * 1.01e9))


def test_a_senseless_budget_is_refused():
    with pytest.raises(ConfigError, match="more than 0"):
        Budget(0)
    with pytest.raises(ConfigError, match="give one of"):
        Budget(8, "magic")


@pytest.mark.parametrize(
    ("name", "uses"),
    [
        ("k2", {"semievol", "tinyllm", "memoryllm", "law"}),
        ("scigpt2", {"law", "semievol"}),
        ("scibert", {"blair", "search"}),
        ("scifive", {"tinyllm", "semievol"}),
        ("esm-2", {"card"}),
        ("fourcastnet", {"card"}),
    ],
)
def test_uses_follow_the_architecture(atlas, name, uses):
    found = set(uses_of(atlas[name]))
    assert uses <= found
    if "decoder-only" not in (atlas[name].architecture or ()):
        assert found == uses
