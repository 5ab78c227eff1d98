"""`evolvent law`, as a person would type it, on a tiny model."""

from __future__ import annotations

import contextlib
import io
import json
import sys

import pytest
import torch
from decoders import TEXTS, decoder_of, known_facts
from safetensors.torch import load_file

from evolvent.models.resolve import load_local


@pytest.fixture(scope="module")
def place(tiny_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    decoder_of("llama", len(tiny_tokenizer)).save_pretrained(folder / "model")
    tiny_tokenizer.save_pretrained(folder / "model")
    facts = known_facts(load_local(folder / "model", dtype="float32"), 6)
    for name, rows in (("facts", facts[:3]), ("keep", facts[3:])):
        lines = (json.dumps(f.model_dump(include={"id", "subject", "prompt", "object", "relation"})) for f in rows)
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    (folder / "text.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in TEXTS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVOLVENT_CACHE", str(folder / "cache"))
        yield folder


def evolvent(*arguments: object) -> tuple[int, str, str]:
    from evolvent.cli import main

    printed, complained = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(complained),
    ):
        patch.setattr(sys, "argv", ["evolvent", *map(str, arguments)])
        patch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            main()
    code = ended.value.code
    return int(code) if isinstance(code, int) else 0, printed.getvalue(), complained.getvalue()


def run(place, out: str, *more: object) -> tuple[int, str, str]:
    sets = {"layers": "[1,2]", "target_steps": 8, "target_lr": 0.5, "clamp": 3.0, "stats_tokens": 300, "beta_rel": 50.0}
    sets |= {"max_ppl_ratio": 50.0, "max_new_tokens": 3, "attacks": "[4bit]"}
    chosen = [x for k, v in sets.items() for x in ("--set", f"{k}={v}")]
    files = ["--facts", place / "facts.jsonl", "--keep", place / "keep.jsonl", "--corpus", place / "text.jsonl"]
    return evolvent("law", "run", "--model", place / "model", *files, "--out", place / out, *chosen, *more)


def test_run_report_and_revert(place):
    code, out, err = run(place, "run")
    assert code in (0, 4), err
    metrics = json.loads((place / "run" / "metrics.json").read_text())
    assert (code == 0) == (metrics["known/forget/law"] <= 0.02)
    assert str(place / "run" / "checkpoint") in out
    assert "before" in out
    code, again, _ = evolvent("law", "report", place / "run")
    assert code == 0
    assert f"{100 * metrics['known/forget/law']:.1f}" in again
    assert "certificate.json" in again
    code, _, _ = evolvent("law", "revert", place / "run", "--out", place / "back")
    assert code == 0
    original, restored = (load_file(place / n / "model.safetensors") for n in ("model", "back"))
    assert all(torch.equal(original[n], restored[n]) for n in original)
    code, said, _ = evolvent("log", place / "run" / "checkpoint")
    assert "law" in said


def test_probe_counts_what_is_known(place):
    asked = ("--facts", place / "facts.jsonl", "--model", place / "model", "--dtype", "float32")
    code, out, _ = evolvent("law", "probe", *asked, "--json", place / "probe.jsonl")
    assert code == 0
    assert "3 of 3 facts are known" in out
    assert len((place / "probe.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--preset", "mine"), "--preset mine: give default or paper"),
        (("--baselines", "sgd"), "baselines"),
        (("--set", "layers=[3]"), "blocks 0 to 3"),
        (("--set", "layers=[]"), "layers: give at least one block number, or auto"),
        (("--set", "layers=[-1,2]"), "layers: give rising block numbers, from 0"),
        (("--set", "target=words"), "'words' is none of suppress, eos, mean, text:..."),
        (("--templates", "nowhere.json"), "nowhere.json: no such file"),
    ],
)
def test_bad_settings_are_one_sentence(place, more, said):
    code, _, err = run(place, "bad", *more)
    assert code == 2
    assert said in err
    assert "Traceback" not in err


def test_templates_of_another_form_name_their_file(place):
    path = place / "templates.json"
    path.write_text(json.dumps({"capital": "The capital of {} is"}))
    code, _, err = run(place, "bad", "--templates", path)
    assert code == 2
    assert f"{path}, relation 'capital': expected" in err


def test_a_finished_run_is_refused_without_resume_and_with_other_settings(place):
    if not (place / "run").exists():
        run(place, "run")
    code, _, err = run(place, "run", "--no-resume")
    assert code == 2
    assert "holds a run already" in err
    code, _, err = run(place, "run", "--set", "clamp=2.0")
    assert code == 2
    assert "clamp: 3.0 there, 2.0 now" in err


def test_a_ledger_takes_requests_in_releases_and_verifies(place):
    sets = {"layers": "[1,2]", "target_steps": 3, "target_lr": 0.5, "clamp": 3.0, "stats_tokens": 300, "beta_rel": 50.0}
    sets |= {"max_ppl_ratio": 50.0, "max_new_tokens": 3}
    chosen = [x for k, v in sets.items() for x in ("--set", f"{k}={v}")]
    begin = ["--model", place / "model", "--corpus", place / "text.jsonl", *chosen]
    book, receipt = place / "ledger", place / "receipt.json"
    asked = ("--facts", place / "facts.jsonl", "--receipt", receipt)
    code, out, err = evolvent("law", "ledger", "add", book, *asked, "--request", "first", *begin)
    assert code == 0, err
    assert "request first: 3 of 3 facts are known" in out
    code, _, err = evolvent("law", "ledger", "add", book, *asked, *begin)
    assert code == 2
    assert "fixed when this ledger began" in err
    code, out, err = evolvent("law", "ledger", "list", book)
    assert code == 0, err
    assert "3 facts in 1 requests, blocks 1, 2" in out
    code, out, err = evolvent("law", "ledger", "release", book, "--out", place / "released", "--set", "lam_scale=0.05")
    assert code == 0, err
    assert str(place / "released" / "checkpoint") in out
    weights = ("--model", place / "released" / "checkpoint")
    code, out, err = evolvent("law", "ledger", "verify", book, *asked, *weights, "--json", place / "certificate.json")
    assert code in (0, 4), err
    assert "3 facts were in it" in out
    evidence = json.loads((place / "certificate.json").read_text())["evidence"]
    back = {f["id"] for f in evidence["facts"] if f["recovered_by"]}
    assert (code == 0) == (not back)


def test_a_reader_of_documents_whose_context_is_too_short_says_so(place):
    (place / "page.txt").write_text("The team won the cup. The bank raised its profit.")
    code, _, err = evolvent("law", "facts", place / "page.txt", "--model", place / "model", "--out", place / "f.jsonl")
    assert code == 2
    assert "exceed the context of 128 tokens" in err
    assert not (place / "f.jsonl").exists()
