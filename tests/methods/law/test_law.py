"""Whole runs on tiny random models: what is washed, what is on disk, what a kill and an undo leave."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from decoders import TEXTS, decoder_of, known_facts
from safetensors.torch import load_file

from evolvent import Law, LawConfig
from evolvent.data.records import Fact
from evolvent.errors import ConfigError, DataError, ModelError, NothingSelectedError
from evolvent.methods.law import law, target_shards, washing
from evolvent.methods.law.decoder import Decoder
from evolvent.methods.law.measurement import Questionnaire
from evolvent.methods.law.patch import load_patches
from evolvent.methods.law.probe import filled
from evolvent.methods.law.reverting import revert
from evolvent.methods.law.targets import learn_targets
from evolvent.methods.law.wordings import rows_for, wordings_for
from evolvent.models.protocol import Sampling
from evolvent.models.resolve import load_local

FACTS, KEPT, REFERENCES = 6, 4, 5


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVOLVENT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(tiny_tokenizer, tmp_path_factory):
    """A saved tiny Llama."""
    place = tmp_path_factory.mktemp("tiny") / "model"
    decoder_of("llama", len(tiny_tokenizer)).save_pretrained(place)
    tiny_tokenizer.save_pretrained(place)
    return place


def settings(out, **changes) -> LawConfig:
    values = {
        "output_dir": out,
        "layers": (1, 2),
        "contexts": "auto",
        "target_steps": 8,
        "target_lr": 0.5,
        "clamp": 3.0,
        "target_dtype": "float32",
        "stats_tokens": 400,
        "beta_rel": 50.0,
        "max_ppl_ratio": 50.0,
        "eliminate": "never",
        "max_rounds": 2,
        "max_new_tokens": 4,
        "relearn_steps": 2,
    }
    return LawConfig.model_validate({**values, **changes})


def method(folder, out, **changes) -> Law:
    facts = known_facts(load_local(folder, dtype="float32"), FACTS + KEPT + REFERENCES)
    return Law(
        str(folder),
        facts[:FACTS],
        keep=facts[FACTS : FACTS + KEPT],
        references=facts[FACTS + KEPT :],
        corpus=TEXTS,
        args=settings(out, **changes),
    )


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def washed(folder, tmp_path_factory):
    washer = method(
        folder, tmp_path_factory.mktemp("washed") / "run", baselines=("ascent", "refusal"), baseline_lr=1e-3
    )
    return washer, washer.run()


def test_a_run_changes_only_the_chosen_matrices_and_forgets(folder, washed):
    washer, result = washed
    before, after = weights(folder), weights(tmp := washer.folder.folder / "checkpoint")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert changed <= {f"model.layers.{n}.mlp.down_proj.weight" for n in (1, 2)}
    assert result.metrics["known/forget/base"] == 1.0
    assert result.metrics["known/forget/law"] < 1.0
    assert sorted(result.washed + result.remaining) == sorted(f.id for f in washer.known)
    model = load_local(tmp, dtype="float32")
    prompt = washer.known[0].prompt.replace("{}", washer.known[0].subject)
    said = model.choose([prompt], [[f" {washer.known[0].object}", " cup"]])
    assert np.isfinite(said[0].log_probs).all()
    lineage = json.loads((tmp / "evolvent.json").read_text())
    assert lineage["method"] == "law"
    assert lineage["metrics_after"]["known/forget"] == result.metrics["known/forget/law"]
    assert not list(tmp.glob("*patch*"))


def test_gradient_methods_start_from_the_original_and_leave_the_washed_weights(washed):
    washer, result = washed
    for kind in ("ascent", "refusal"):
        assert f"known/forget/{kind}" in result.metrics
        run = json.loads(next(washer.folder.folder.glob(f"stages/*-baseline-{kind}/run.json")).read_text())
        assert run["steps"] > 0
        assert run["matched"] == (run["known"] <= result.metrics["known/forget/law"])
    stored = weights(washer.folder.folder / "checkpoint")
    for projection in washer.decoder.projections:
        assert torch.equal(projection.weight, stored[projection.name])


def test_a_target_depends_neither_on_its_company_nor_on_the_form(folder, tmp_path):
    model = load_local(folder, dtype="float32")
    facts, args = known_facts(model, FACTS), settings(tmp_path, target_steps=2, target_loss=1e-9)
    facts = [f.model_copy(update={"prompt": f.prompt + " of" * i}) for i, f in enumerate(facts)]  # of many lengths
    rows = rows_for(model, facts, wordings_for(model, args))
    decoder = Decoder(model)
    together = learn_targets(decoder, facts, rows, 2, args).deltas
    alone = [learn_targets(decoder, [f], [r], 2, args, whole=True).deltas for f, r in zip(facts, rows, strict=True)]
    assert bool((together.norm(dim=-1) > 0).all())
    assert bool(((together - torch.cat(alone)).norm(dim=-1) < 0.01 * together.norm(dim=-1)).all())


def test_the_certificate_covers_every_attack_and_every_fact(washed):
    washer, result = washed
    certificate = json.loads((washer.folder.folder / "certificate.json").read_text())
    assert [row["id"] for row in certificate["facts"]] == [f.id for f in washer.known]
    assert certificate["attacks"]["prompt"]["recovered"] == round(
        result.metrics["known/forget/law"] * len(washer.known)
    )
    assert certificate["attacks"]["relearn"]["tried"] == len(washer.known) - len(washer.known) // 2
    assert {"4bit", "prompt", "relearn", "few-shot", "lens"} <= set(certificate["attacks"])
    assert all(0 < a["at_most"] <= 1 for a in certificate["attacks"].values() if a["tried"])
    assert "membership_auroc/forget/law" in result.metrics or not washer._references_by_knowledge()[1]


def test_the_page_says_what_the_metrics_say(washed):
    _, result = washed
    page = result.report_path.read_text()
    for title in ("Before and after", "By relation", "Attacks", "Spectra", "Edits"):
        assert f"<h2>{title}</h2>" in page
    assert f"{100 * result.metrics['known/forget/law']:.1f}" in page


def test_the_page_names_attacks_that_could_not_be_tried(folder, tmp_path):
    model = load_local(folder, dtype="float32")
    result = Law(model, known_facts(model, 1), args=settings(tmp_path / "run", max_rounds=1), corpus=TEXTS).run()
    page = result.report_path.read_text()
    said = page[page.index("Not tried, for want of facts") :]
    for attack in ("paraphrase", "relearn (two facts or more)", "membership (references that were never known)"):
        assert attack in said[:400]
    assert "4bit" not in said[:400].split(".")[0]


def test_revert_restores_the_original_bits_and_refuses_other_weights(folder, washed, tmp_path):
    washer, _ = washed
    original = weights(folder)
    restored = weights(revert(washer.folder.folder, tmp_path / "back"))
    assert restored.keys() == original.keys()
    assert all(torch.equal(restored[n].view(torch.uint8), original[n].view(torch.uint8)) for n in original)
    with pytest.raises(ConfigError, match="exists"):
        revert(washer.folder.folder, tmp_path / "back")
    patches = load_patches(washer.folder.folder / "undo" / "patches.safetensors")
    assert all(p.left.shape[1] <= FACTS * 4 for p in patches.values())
    undo = washer.folder.folder / "undo" / "patches.safetensors"
    undo.rename(undo.with_name("elsewhere"))
    with pytest.raises(DataError, match="no such file"):
        revert(washer.folder.folder, tmp_path / "again")
    undo.with_name("elsewhere").rename(undo)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("instant", ["targets", "block", "between", "audit"])
def test_a_run_killed_at_any_instant_ends_with_the_same_bytes(folder, tmp_path, monkeypatch, instant):
    method(folder, tmp_path / "whole").run()
    expected = (tmp_path / "whole" / "checkpoint" / "model.safetensors").read_bytes()
    owner, name, fatal = {
        "targets": (target_shards, "learn_targets", 1),
        "block": (washing._Problem, "solve", 2),
        "between": (law, "wash_round", 1),
        "audit": (law, "attack", 1),
    }[instant]
    original = getattr(owner, name)
    calls = 0

    def dies(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == fatal:
            raise Killed
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dies)
        with pytest.raises(Killed):
            method(folder, tmp_path / "killed").run()
    done = set(os.listdir(tmp_path / "killed" / "stages"))
    method(folder, tmp_path / "killed").run()
    assert (tmp_path / "killed" / "checkpoint" / "model.safetensors").read_bytes() == expected
    events = [json.loads(x) for x in (tmp_path / "killed" / "events.jsonl").read_text().splitlines()]
    started = [e["stage"] for e in events if e["event"] == "stage-started"]
    finished = {d.partition("-")[2] for d in done if not d.endswith(".tmp")}
    assert finished
    assert all(started.count(stage) == 1 for stage in finished)


def test_an_interrupted_edit_leaves_the_original_matrices(folder, tmp_path, monkeypatch):
    washer = method(folder, tmp_path / "run")
    calls = 0

    def interrupted(*args):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(washer, "on_progress", lambda stage, *_: interrupted() if stage == "wash-1" else None)
    with pytest.raises(KeyboardInterrupt):
        washer.run()
    original = weights(folder)
    for projection in washer.decoder.projections:
        assert torch.equal(projection.weight, original[projection.name])


@pytest.mark.parametrize("stage", ["verify-1", "audit"])
def test_a_loaded_model_has_its_weights_back_after_an_interrupt_and_can_go_on(folder, tmp_path, monkeypatch, stage):
    model = load_local(folder, dtype="float32")
    facts, args = known_facts(model, 3), settings(tmp_path / "run", max_rounds=1)
    washer = Law(model, facts, args=args, corpus=TEXTS)

    def interrupted(name, *_):
        if name == stage:
            raise KeyboardInterrupt

    monkeypatch.setattr(washer, "on_progress", interrupted)
    with pytest.raises(KeyboardInterrupt):
        washer.run()
    original = weights(folder)
    for projection in washer.decoder.projections:
        assert torch.equal(projection.weight, original[projection.name])
    result = Law(model, facts, args=args, corpus=TEXTS).run()
    restored = weights(revert(result.output_dir, tmp_path / "back"))
    assert all(torch.equal(restored[n], original[n]) for n in original)


def test_statistics_are_computed_once_a_model_and_corpus(folder, tmp_path, monkeypatch):
    method(folder, tmp_path / "one").run()
    from evolvent.methods.law import statistics

    monkeypatch.setattr(statistics, "_accumulate", lambda *_: pytest.fail("computed again"))
    method(folder, tmp_path / "two", attacks=()).run()
    module = load_local(folder, dtype="float32")
    module.module.model.norm.weight.data += 1
    other = Law(module, known_facts(module, 3), args=settings(tmp_path / "three"), corpus=TEXTS)
    with pytest.raises(pytest.fail.Exception):
        other.run()


@pytest.mark.parametrize("solver", ["memit", "anti", "ascent"])
def test_every_solver_and_both_key_forms_run(folder, tmp_path, solver):
    result = method(folder, tmp_path / solver, method=solver, key_contexts="each", ascent_steps=5, attacks=()).run()
    assert result.metrics["known/forget/law"] < 1


def test_the_paper_preset_takes_its_targets_contexts_and_search(folder, tmp_path):
    args = LawConfig.paper(
        tmp_path / "run", layers=(1, 2), target_steps=4, ascent_steps=5, stats_tokens=400, attacks=()
    )
    model = load_local(folder, dtype="float32")
    washer = Law(model, known_facts(model, 4), args=args, corpus=TEXTS)
    washer.run()
    assert len(washer.wordings) == 6
    assert sum(w.weight for w in washer.wordings[1:]) == pytest.approx(washer.wordings[0].weight)
    for edit in washer.edits[0]:
        assert edit.norm < 0.9
        assert edit.t == 0


@pytest.mark.parametrize(("rounds", "kept"), [((23.0,), 0), ((21.0, 23.0), 1)])
def test_a_round_over_the_budget_is_taken_back(folder, tmp_path, monkeypatch, rounds, kept):
    values = iter((20.0, *rounds, 20.5))  # before, after each round, and of what is left
    monkeypatch.setattr(Questionnaire, "perplexity", lambda *_: next(values))
    washer = method(folder, tmp_path / "run", max_ppl_ratio=1.1, attacks=(), beta_rel=1e-3, target_steps=1)
    result = washer.run()
    assert not result.complete
    assert result.metrics["rounds"] == len(washer.edits) == kept
    assert {key.partition("/")[0] for key in washer.patches} == {str(n + 1) for n in range(kept)}
    original, stored = weights(folder), weights(tmp_path / "run" / "checkpoint")
    assert any(not torch.equal(stored[n], original[n]) for n in original) == bool(kept)
    restored = weights(revert(tmp_path / "run", tmp_path / "back"))
    assert all(torch.equal(restored[n], original[n]) for n in original)


def test_unknown_facts_are_never_edited(folder, tmp_path):
    model = load_local(folder, dtype="float32")
    wrong = [f.model_copy(update={"object": "zzz"}) for f in known_facts(model, 3)]
    with pytest.raises(NothingSelectedError, match="knows none of the 3 facts"):
        Law(model, wrong, args=settings(tmp_path / "run"), corpus=TEXTS).run()
    assert torch.equal(Decoder(model).projections[1].weight, weights(folder)["model.layers.1.mlp.down_proj.weight"])


def test_a_fact_that_only_a_paraphrase_brings_is_known(folder, tmp_path):
    model = load_local(folder, dtype="float32")
    first, *others = known_facts(model, 3)
    reworded = first.model_copy(update={"prompt": "The shares of {} were", "paraphrases": (first.prompt,)})
    washer = Law(model, [reworded, *others], args=settings(tmp_path / "run"), corpus=TEXTS)
    with washer.opened():
        assert [f.id for f in washer.probe()] == [reworded.id, *(f.id for f in others)]
    assert not washer.probed[0].known


def test_a_known_fact_without_a_position_is_named(folder, tmp_path, caplog):
    model = load_local(folder, dtype="float32")
    ids = torch.tensor([model.encode("9 is a phone by")])
    said = model.tokenizer.decode([int(model.module(input_ids=ids).logits[0, -1].argmax())])
    first = Fact(id="first", subject="9", prompt="{} is a phone by", object=said)
    washer = Law(model, [first, *known_facts(model, 2)], args=settings(tmp_path / "run", contexts="bare"), corpus=TEXTS)
    with washer.opened():
        assert "first" not in [f.id for f in washer.probe()]
    assert washer.probed[0].known
    assert "1 known facts are not edited" in caplog.text
    assert '"no-position", "facts": ["first"]' in (tmp_path / "run" / "events.jsonl").read_text()


def test_references_that_are_left_out_are_named_by_their_relations(folder, tmp_path, caplog):
    model = load_local(folder, dtype="float32")
    references = [*known_facts(model, 3, start=50), *known_facts(model, 2, relation="profit", start=60)]
    washer = Law(model, known_facts(model, 1), references=references, args=settings(tmp_path, n_references=3))
    assert washer.references == references[:3]
    assert "3 of 5 references are used (n_references), none of 'profit'" in caplog.text


def test_another_corpus_in_the_same_folder_is_another_run(folder, tmp_path):
    model = load_local(folder, dtype="float32")
    facts, changes = known_facts(model, 3), {"attacks": (), "max_rounds": 1}
    other = [text.replace("team", "bank") + " The phone rose." for text in TEXTS]
    Law(str(folder), facts, args=settings(tmp_path / "run", **changes), corpus=TEXTS).run()
    again = Law(str(folder), facts, args=settings(tmp_path / "run", **changes), corpus=other).run()
    fresh = Law(str(folder), facts, args=settings(tmp_path / "fresh", **changes), corpus=other).run()
    for name in ("base", "law"):
        assert again.metrics[f"perplexity/general/{name}"] == fresh.metrics[f"perplexity/general/{name}"]
    stored = [(tmp_path / n / "checkpoint" / "model.safetensors").read_bytes() for n in ("run", "fresh")]
    assert stored[0] == stored[1]


def test_another_probe_mode_asks_again_in_the_same_folder(folder, tmp_path):
    model = load_local(folder, dtype="float32")
    later = []
    for fact in known_facts(model, 3):
        said = model.generate([filled(fact.prompt, fact)], Sampling(max_tokens=8))[0][0].text
        later.append(fact.model_copy(update={"object": said[2:].strip()}))  # said, but not at first
    with pytest.raises(NothingSelectedError, match='probe_mode="generate"'):
        Law(model, later, args=settings(tmp_path / "run", max_new_tokens=8), corpus=TEXTS).run()
    args = settings(tmp_path / "run", max_new_tokens=8, probe_mode="generate", on_config_change="rerun")
    washer = Law(model, later, args=args, corpus=TEXTS)
    with washer.opened():
        assert [f.id for f in washer.probe()] == [f.id for f in later]


def test_a_fact_in_both_lists_and_a_layer_too_high_are_named(folder, tmp_path):
    model = load_local(folder, dtype="float32")
    facts = known_facts(model, 4)
    with pytest.raises(DataError, match=facts[1].id):
        Law(model, facts, keep=facts[1:2], args=settings(tmp_path / "a"), corpus=TEXTS)
    with pytest.raises(ModelError, match="blocks 0 to 3"):
        Law(model, facts, args=settings(tmp_path / "b", layers=(2, 3)), corpus=TEXTS).run()


def test_without_a_corpus_the_model_writes_its_own(folder, tmp_path):
    model = load_local(folder, dtype="float32")
    args = settings(tmp_path / "run", attacks=(), stats_tokens=60, max_rounds=1)
    assert Law(model, known_facts(model, 2), args=args).run().metrics["facts/known"] == 2
    assert list((tmp_path / "run" / "stages").glob("*-own-text"))


def test_streamed_keys_give_the_weights_of_keys_held_at_once(folder, tmp_path, monkeypatch):
    changes = {"attacks": (), "max_rounds": 1, "method": "memit", "lam": 1.0, "beta_rel": 1e9}
    method(folder, tmp_path / "once", **changes).run()

    def narrow(problem, kept):
        sums = washing.Streamed(problem.decoder.width, problem.decoder.hidden)
        for start in range(0, len(problem.active), 2):
            sums.add(*problem._columns(problem.active[start : start + 2]))
        return sums.spectrum(kept)

    monkeypatch.setattr(washing._Problem, "_spectrum", narrow)
    method(folder, tmp_path / "streamed", **changes).run()
    once, streamed = (weights(tmp_path / name / "checkpoint") for name in ("once", "streamed"))
    assert all(torch.allclose(once[n], streamed[n], atol=1e-4) for n in once)
    assert any(not torch.equal(once[n], weights(folder)[n]) for n in once)


def test_no_more_than_a_block_of_facts_is_read_at_once(folder, tmp_path, monkeypatch):
    model = load_local(folder, dtype="float32")
    changes = {"attacks": (), "max_rounds": 1, "layers": (1,), "target_steps": 2, "key_contexts": "each"}
    facts, most, read = known_facts(model, 30), [], Decoder.read

    def seen(decoder, rows, **what):
        most.append(len(rows))
        return read(decoder, rows, **what)

    monkeypatch.setattr(Decoder, "read", seen)
    stored = []
    for block in (64, 8):
        monkeypatch.setattr(washing, "STREAM_FACTS", block)
        most.clear()
        Law(str(folder), facts, args=settings(tmp_path / str(block), **changes), corpus=TEXTS).run()
        assert max(most) <= block * 4  # wordings
        stored.append(weights(tmp_path / str(block) / "checkpoint")["model.layers.1.mlp.down_proj.weight"])
    assert torch.allclose(*stored, atol=1e-4)


def test_more_keys_than_units_are_streamed_by_themselves(folder, tmp_path, monkeypatch):
    model = load_local(folder, dtype="float32")
    facts = [*known_facts(model, 30), *known_facts(model, 20, relation="profit")]
    monkeypatch.setattr(washing, "STREAM_FACTS", 16)
    monkeypatch.setattr(washing, "dual", lambda *_: pytest.fail("held at once"))
    changes = {"key_contexts": "each", "attacks": (), "max_rounds": 1, "layers": (1,), "target_steps": 2}
    done = Law(model, facts, args=settings(tmp_path / "run", **changes), corpus=TEXTS)  # 4 x 50 keys, 96 units
    done.run()
    assert done.edits[0][0].facts == 50
    with pytest.raises(ConfigError, match="streamed"):
        Law(str(folder), facts, args=settings(tmp_path / "b", method="ascent", **changes), corpus=TEXTS).run()
