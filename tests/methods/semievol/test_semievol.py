"""SemiEvol from end to end on a tiny model: stages, resuming, faults, what it must never see."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from evolvent.data.records import Question
from evolvent.data.tasks import NumericTask
from evolvent.errors import ConfigError, DataError, ModelError, NothingSelectedError
from evolvent.methods.semievol.config import SemiEvolConfig
from evolvent.methods.semievol.semievol import SemiEvol
from evolvent.models.resolve import load
from evolvent.runs.lineage import read_lineage


def made(folder, corpus, task, args, **more) -> SemiEvol:
    return SemiEvol(
        str(folder), corpus["labeled"], corpus["unlabeled"], task=task, eval_dataset=corpus["test"], args=args, **more
    )


def weights(folder: Path) -> bytes:
    return (folder / "checkpoint" / "adapter_model.safetensors").read_bytes()


def test_a_run_leaves_everything_that_was_promised(tiny_folder, corpus, task, settings):
    seen: list[str] = []
    args = settings(also_evaluate={"again": str(tiny_folder)})
    result = made(tiny_folder, corpus, task, args, on_progress=lambda stage, *_: seen.append(stage)).run()
    folder = args.output_dir
    assert {p.name for p in folder.iterdir()} >= {
        "config.yaml", "manifest.json", "events.jsonl", "stages", "metrics.json", "report.html", "report.md",
        "checkpoint", "pool.parquet", "selected.jsonl",
    }  # fmt: skip
    pool = pq.read_table(folder / "pool.parquet").to_pylist()
    assert {row["reason"] for row in pool} == {"selected", "unsure"}
    assert len(pool) == 24
    selected = [json.loads(line) for line in (folder / "selected.jsonl").read_text().splitlines()]
    assert {row["id"]: row["pseudo_answer"] for row in selected} == result.selected
    assert set(selected[0]) == {
        "id", "prompt", "completion", "pseudo_answer", "confidence", "votes", "judged", "round", "weight",
    }  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    for name in ("zero-shot", "few-shot", "sft", "sft-same-compute", "again", "semievol"):
        low, high = metrics[f"accuracy/test/{name}/ci95"]
        assert low <= metrics[f"accuracy/test/{name}"] <= high
    assert metrics["accuracy/test/again"] == metrics["accuracy/test/zero-shot"]
    assert 0 <= metrics["p_value/test/semievol-vs-sft"] <= 1
    assert 0 <= metrics["pseudo_accuracy/selected"] <= 1
    lineage = read_lineage(folder / "checkpoint")
    assert (lineage.parent, lineage.method, lineage.seed) == (str(tiny_folder), "semievol", 0)
    assert load(result.model, dtype="float32").choose(["News: goal\nTopic:"], [[" sport", " business"]])
    assert {"warmup", "evolve-1", "control"} <= set(seen)
    assert "SemiEvol" in (folder / "report.html").read_text()


def test_it_learns_what_a_tiny_model_can_learn(tiny_folder, corpus, task, settings):
    args = settings(min_steps=40, evolve_epochs=6.0)
    metrics = made(tiny_folder, corpus, task, args).run().metrics
    assert metrics["accuracy/test/semievol"] > 0.8
    assert metrics["pseudo_accuracy/all"] > 0.7


def test_hidden_answers_change_no_bit_of_what_is_learnt(tiny_folder, corpus, task, settings, tmp_path):
    wrong = [q.model_copy(update={"meta": {"_hidden_answer": "business"}, "answer": None}) for q in corpus["unlabeled"]]
    bare = [q.model_copy(update={"meta": {}}) for q in corpus["unlabeled"]]
    shown = [q.model_copy(update={"meta": {}, "answer": "sport"}) for q in corpus["unlabeled"]]
    found = []
    for name, unlabeled in (("true", corpus["unlabeled"]), ("wrong", wrong), ("bare", bare), ("shown", shown)):
        args = settings(output_dir=tmp_path / name)
        made(tiny_folder, {**corpus, "unlabeled": unlabeled}, task, args).run()
        found.append((weights(args.output_dir), (args.output_dir / "selected.jsonl").read_bytes()))
    assert all(f == found[0] for f in found)


def test_a_second_run_only_loads_and_other_seeds_differ(tiny_folder, corpus, task, settings, tmp_path):
    args = settings()
    first = made(tiny_folder, corpus, task, args).run()
    started = (args.output_dir / "events.jsonl").read_text().count("stage-started")
    again = made(tiny_folder, corpus, task, args).run()
    assert (args.output_dir / "events.jsonl").read_text().count("stage-started") == started
    assert again.selected == first.selected
    other = settings(output_dir=tmp_path / "other", seed=1)
    made(tiny_folder, corpus, task, other).run()
    assert weights(other.output_dir) != weights(args.output_dir)


def test_a_changed_setting_repeats_only_the_stages_that_depend_on_it(tiny_folder, corpus, task, settings):
    args = settings()
    made(tiny_folder, corpus, task, args).run()
    with pytest.raises(ConfigError, match=r"theta: 0\.5 there, 0\.8 now"):
        made(tiny_folder, corpus, task, settings(theta=0.8)).run()
    events = args.output_dir / "events.jsonl"
    before = len(events.read_text().splitlines())
    made(tiny_folder, corpus, task, settings(theta=0.8, on_config_change="rerun")).run()
    lines = [json.loads(line) for line in events.read_text().splitlines()[before:]]
    repeated = [line["stage"] for line in lines if line["event"] == "stage-started"]
    assert "evolve-1" in repeated
    assert not {"warmup", "propagate", "collaborate-1-plain"} & set(repeated)


def test_killed_inside_a_stage_it_goes_on_with_the_same_result(tiny_folder, corpus, task, settings, tmp_path):
    whole = settings(output_dir=tmp_path / "whole")
    expected = made(tiny_folder, corpus, task, whole).run()
    args = settings(output_dir=tmp_path / "cut")
    for stage, at in (("warmup", 3), ("collaborate-1-few-shot", 10), ("evolve-1", 2), ("test-sft", 0)):

        def kill(name, done, total, note, stage=stage, at=at):
            if name == stage and done >= at and total >= at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            made(tiny_folder, corpus, task, args, on_progress=kill).run()
    result = made(tiny_folder, corpus, task, args).run()
    assert result.selected == expected.selected
    assert weights(args.output_dir) == weights(whole.output_dir)
    same = [k for k in expected.metrics if k.startswith(("accuracy", "pseudo", "gain"))]
    assert {k: result.metrics[k] for k in same} == {k: expected.metrics[k] for k in same}


KILLED = """
import json, os, random, signal, sys, time
from evolvent import ChoiceTask, SemiEvol, SemiEvolConfig, read_questions
from evolvent.methods.semievol.semievol import SemiEvol
import evolvent.training.finetune, evolvent.training.learners

model, settings, folder = sys.argv[1:]
task = ChoiceTask(style="words", template="News: {{ question }}\\nTopic:")

def run(name):
    parts = ("labeled", "unlabeled", "test")
    rows = [read_questions(f"{folder}/{part}.jsonl", labeled=part != "unlabeled") for part in parts]
    args = SemiEvolConfig.model_validate(json.loads(settings) | {"output_dir": f"{folder}/{name}"})
    SemiEvol(model, rows[0], rows[1], task=task, eval_dataset=rows[2], args=args).run()

def forked(name):
    child = os.fork()
    if child == 0:
        run(name)
        os._exit(0)
    return child

started = time.monotonic()
assert os.waitpid(forked("whole"), 0)[1] == 0
length = time.monotonic() - started
instants, killed = random.Random(0), 0
for _ in range(20):
    child = forked("cut")
    time.sleep(instants.uniform(0, 0.12 * length))
    os.kill(child, signal.SIGKILL)
    killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
assert os.waitpid(forked("cut"), 0)[1] == 0
print(killed)
"""


def test_kill_9_at_20_random_instants_gives_the_same_selection_and_metrics(tiny_folder, corpus, settings, tmp_path):
    for name, rows in corpus.items():
        lines = [json.dumps({k: v for k, v in q.model_dump().items() if k != "meta"}) for q in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    plain = json.dumps(settings(save_steps=2).model_dump(mode="json", exclude={"output_dir"}))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tiny_folder), plain, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) >= 15  # the others hit a run that had finished
    whole, cut = (json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("whole", "cut"))
    kept = [k for k in whole if not k.startswith(("seconds", "peak"))]
    assert {k: cut[k] for k in kept} == {k: whole[k] for k in kept}
    assert (tmp_path / "cut/selected.jsonl").read_bytes() == (tmp_path / "whole/selected.jsonl").read_bytes()
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


@pytest.mark.parametrize("peft", ["full", "top_layers"])
def test_other_ways_to_train_leave_a_whole_model(tiny_folder, corpus, task, settings, peft):
    from transformers import AutoModelForCausalLM

    result = made(tiny_folder, corpus, task, settings(peft=peft)).run()
    assert AutoModelForCausalLM.from_pretrained(result.model)


def test_labelling_stops_before_training_on_pseudo_labels(tiny_folder, corpus, task, settings):
    args = settings()
    method = made(tiny_folder, corpus, task, args)
    kept = method.label()
    assert kept
    assert not list((args.output_dir / "stages").glob("*evolve*"))
    assert made(tiny_folder, corpus, task, args).run().selected == kept


def test_four_voters_who_ask_alike_are_computed_once_and_agree(tiny_folder, corpus, task, settings):
    official = SemiEvolConfig.reference(".").voters(lists_options=False)
    args = settings(configs=official, n_configs=4, judge="none", few_shot_baseline=False)
    method = made(tiny_folder, corpus, task, args)
    assert method.label()
    assert [p.name for p in args.output_dir.glob("stages/*-collaborate-*")] == ["03-collaborate-1-sample-0"]
    assert len(method.responses) == 4
    assert all(c.agreed for c in method.consensuses)


def test_rounds_label_with_the_evolved_model_and_stop_when_nothing_changes(tiny_folder, corpus, task, settings):
    args = settings(rounds=6, theta=1.0, min_steps=40, evolve_epochs=6.0)
    result = made(tiny_folder, corpus, task, args).run()
    stages = sorted(p.name for p in (args.output_dir / "stages").iterdir())
    assert any("collaborate-2" in s for s in stages)
    assert result.metrics["rounds"] < 6  # the labels settled before


def test_gating_by_cross_fitting_and_a_certified_selection(tiny_folder, corpus, task, settings, tmp_path):
    args = settings(gate="always", output_dir=tmp_path / "gated")
    method = made(tiny_folder, corpus, task, args)
    method.run()
    assert method.weights.rows == 8
    impossible = settings(gate="always", target_precision=0.99, output_dir=tmp_path / "certified")
    with pytest.raises(NothingSelectedError, match="8 labelled rows cannot certify a precision of 99%") as caught:
        made(tiny_folder, corpus, task, impossible).run()
    assert caught.value.exit_code == 4
    with pytest.raises(ConfigError, match='gate="always"'):
        made(tiny_folder, corpus, task, settings(target_precision=0.9, output_dir=tmp_path / "x")).run()


def test_enough_labelled_rows_make_a_hold_out_that_is_never_trained_on(tiny_folder, corpus, task, settings, make_news):
    args = settings(holdout=0.5, min_holdout=4)
    method = made(tiny_folder, {**corpus, "labeled": make_news(16)}, task, args)
    method.run()
    assert len(method.holdout) == 8
    assert len(method.labeled) == 8
    assert not {q.id for q in method.holdout} & {q.id for q in method.labeled}
    assert "held-out labelled rows" in method.verdict.reason


def test_a_numeric_task_samples_clusters_and_learns(tiny_folder, settings):
    labeled = [Question(id=str(i), question=f"{i} 1", answer=str(i + 1)) for i in range(6)]
    raw = [Question(id=f"u{i}", question=f"{i} 2") for i in range(6)]
    args = settings(samples=3, max_new_tokens=6, min_steps=60, theta=1.0, label_smoothing=0.0)
    method = SemiEvol(str(tiny_folder), labeled, raw, task=NumericTask(), eval_dataset=labeled[:0] or None, args=args)
    try:
        result = method.run()
    except NothingSelectedError:
        assert all(row.reason == "unparsed" for row in method.pool)
    else:
        assert all(float(a) is not None for a in result.selected.values())


def test_a_loaded_model_is_taken_as_it_is(tiny_model, corpus, task, settings):
    result = SemiEvol(tiny_model, corpus["labeled"], corpus["unlabeled"], task=task, args=settings()).run()
    assert result.accepted in (True, False)
    assert not result.metrics.get("accuracy/test/semievol")


# ------------------------------------------------------------------------------------------------------- bad input


def test_empty_sets_are_named(tiny_folder, corpus, task, settings):
    for name in ("labeled", "unlabeled"):
        with pytest.raises(DataError, match=f"{name}: no rows"):
            made(tiny_folder, {**corpus, name: []}, task, settings())


def test_nothing_left_after_the_gate_says_so(tiny_folder, corpus, task, settings):
    with pytest.raises(DataError, match="nothing is left after removing duplicates"):
        made(tiny_folder, {**corpus, "test": corpus["labeled"]}, task, settings()).run()


def test_a_labelled_row_inside_the_pool_keeps_its_label(tiny_folder, corpus, task, settings):
    clash = corpus["labeled"][0].model_copy(update={"id": "clash", "answer": None})
    method = made(tiny_folder, {**corpus, "unlabeled": [*corpus["unlabeled"], clash]}, task, settings())
    method.run()
    assert "clash" not in {row.id for row in method.pool}
    assert method.gate_report.overlap_labeled_unlabeled == 1


def test_rows_longer_than_the_context_are_cut_and_go_on(tiny_folder, corpus, task, settings):
    long = Question(id="long", question="goal " * 500, choices=corpus["labeled"][0].choices)
    method = made(tiny_folder, {**corpus, "unlabeled": [*corpus["unlabeled"], long]}, task, settings())
    method.run()
    assert next(r for r in method.pool if r.id == "long").pseudo_answer is not None


def test_a_warmup_worse_than_guessing_stops_unless_forced(tiny_folder, corpus, task, settings):
    """Every label is the answer that the untrained model does not give, and the warm-up hardly trains."""
    model = load(tiny_folder, dtype="float32")
    labeled = []
    for question in corpus["labeled"]:
        choice = model.choose([task.prompt(question)], [task.options(question)])[0].scores("token")
        labeled.append(question.model_copy(update={"answer": question.choices[choice.index(min(choice))]}))
    rows = {**corpus, "labeled": labeled}
    args = settings(force=False, gate="always", min_steps=1, warmup_epochs=0.1, warmup_lr=1e-9, n_configs=1)
    with pytest.raises(ModelError, match="--force"):
        made(tiny_folder, rows, task, args).run()


def test_settings_from_another_method_version_are_named():
    with pytest.raises(ValueError, match="thetta"):
        SemiEvolConfig.model_validate({"output_dir": "x", "thetta": 0.5})
