from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from evolvent.cli import app
from evolvent.errors import DataError

SETTINGS = {
    "exposures": 4,
    "pairs_per_passage": 2,
    "shots": 0,
    "retention_tokens": 8,
    "retention_rows": 0,
    "peft": "full",
    "min_gain": -100,
    "min_teacher": -100,
    "max_answer_tokens": 6,
    "dtype": "float32",
    "baselines": "[base]",
}


def call(*words):
    return CliRunner().invoke(
        app, ["selfparam", *map(str, words)], env={"COLUMNS": "200", "TERM": "dumb"}, catch_exceptions=False
    )


def test_from_notes_to_an_answer(tiny_folder, tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "bank.txt").write_text("The Vosk Bank was opened by Ada Pell in 1950. It has 40 rooms.")
    (notes / "cup.md").write_text("# Orlo Cup\n\nThe Orlo Cup was won by Team Kiv.")
    out = tmp_path / "run"
    options = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    common = ["--model", tiny_folder, "--passages", notes, *options]

    made = call("pairs", *common, "--out", out)
    assert "pairs about 2 passages" in made.output
    pairs = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    assert {"bank.txt", "cup.md"} == {pair["passage"] for pair in pairs}
    given = tmp_path / "pairs.jsonl"
    given.write_text((out / "pairs.jsonl").read_text())

    probed = call("probe", *common, "--pairs", given, "--out", tmp_path / "probe")
    assert "plain + hint" in probed.output
    done = call("run", *common, "--pairs", given, "--out", tmp_path / "full")
    assert done.exit_code == 0
    assert "SELF-PARAM" in done.output
    assert "batch" not in call("ledger", tmp_path / "full").output
    assert "bank.txt, cup.md" in call("ledger", tmp_path / "full").output
    assert call("ask", tmp_path / "full", "Who opened the Vosk Bank?", "--max-tokens", 4).exit_code == 0
    assert "SELF-PARAM" in call("report", tmp_path / "full").output
    assert "checkpoint" in call("rollback", tmp_path / "full", 1).output


def test_an_unfinished_run_has_no_report_and_no_ledger(tmp_path):
    for verb in ("report", "ledger"):
        with pytest.raises(DataError, match="go on with"):
            call(verb, tmp_path)
