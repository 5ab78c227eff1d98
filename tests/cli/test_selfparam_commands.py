from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from evolvent.cli import app
from evolvent.errors import ConfigError, DataError

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


def test_other_settings_of_a_probe_can_be_run_again_as_the_refusal_says(tiny_folder, tmp_path):
    (tmp_path / "bank.txt").write_text("The Vosk Bank was opened by Ada Pell in 1950. It has 40 rooms.")
    common = ["--model", tiny_folder, "--passages", tmp_path / "bank.txt", "--out", tmp_path / "run"]
    common += ["--set", "dtype=float32", "--set", "shots=0"]
    assert call("pairs", *common).exit_code == 0
    with pytest.raises(ConfigError, match="--rerun"):
        call("pairs", *common, "--set", "pairs_per_passage=1")
    assert "1 pairs" in call("pairs", *common, "--set", "pairs_per_passage=1", "--rerun").output
    again = [*common, "--set", "probe_pairs=1", "--pairs", tmp_path / "run" / "pairs.jsonl", "--rerun"]
    assert "plain + hint" in call("probe", *again).output


@pytest.mark.parametrize(
    ("turn", "answer", "message"),
    [
        (None, {"answer": "1. Heat"}, "turns.jsonl: no such file"),
        ({"input": "x", "rec": None, "prev_entity": []}, {"answer": "x"}, "turns.jsonl, line 1.*lists of ids"),
        ({"input": 5, "rec": [1], "prev_entity": []}, {"answer": "x"}, "line 1: 'input'"),
        ({"input": "x", "rec": [1], "prev_entity": []}, None, "answers.jsonl: no such file"),
        ({"input": "x", "rec": [1], "prev_entity": []}, {"text": "1. Heat"}, "line 1, field 'answer'.*got None"),
    ],
)
def test_bad_files_of_recommendations_are_said_by_name(tmp_path, turn, answer, message):
    files = {"titles.json": {"Heat": 1}, "turns.jsonl": turn, "answers.jsonl": answer}
    for name, content in files.items():
        if content is not None:
            (tmp_path / name).write_text(json.dumps(content))
    options = ["--test", "turns.jsonl", "--catalogue", "titles.json", "--answers", "answers.jsonl"]
    with pytest.raises(DataError, match=message):
        call("recommend-eval", *(tmp_path / o if "." in o else o for o in options))
