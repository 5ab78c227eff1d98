"""Every command on a tiny model: what it prints and writes."""

from __future__ import annotations

import json

import click
import pytest
import typer

from evolvent.cli import app


def commands(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = getattr(command, "commands", {})
    return [path, *(found for name, sub in inner.items() for found in commands(sub, (*path, name)))]


COMMANDS = commands(typer.main.get_command(app))


VERBS = {
    "semievol": "run label report doctor",
    "atlas": "list search show compare recommend graph bridges timeline stats applications export cite add edit remove "
    "undo log validate import refresh diff hub links load mine build serve",
    "law": "run probe facts report revert ledger",
    "law ledger": "add list release verify",
    "selfparam": "run ask pairs probe ledger rollback report recommend-eval",
    "strategist": "run probe rl fit-beliefs show ideas replay exploit export import-openspiel arena play serve",
    "demo": "semievol law",
}


def test_the_commands_are_those_that_the_documentation_names():
    verbs = {f"{method} {verb}" for method, of in VERBS.items() for verb in of.split()}
    assert {" ".join(c) for c in COMMANDS} == {"", "evaluate", "log", "diff", *VERBS, *verbs}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_says_what_a_command_and_each_of_its_options_does(evolvent, command):
    done = evolvent(*command, "--help")
    assert done.code == 0
    assert "Usage: evolvent" in done.out
    found = typer.main.get_command(app)
    for name in command:
        found = found.commands[name]
    assert found.help
    for parameter in found.params:
        if parameter.name not in ("help",):
            assert getattr(parameter, "help", None), f"{' '.join(command)}: {parameter.name} has no help"


def test_an_unknown_command_is_bad_input(evolvent):
    assert evolvent("semievol", "fly").code == 2
    assert evolvent("--fly").code == 2


def test_evaluate_prints_what_it_writes(evolvent, files):
    target = files.folder / "new" / "answers.json"
    done = evolvent("evaluate", files.model, files.folder / "test.jsonl", "--json", target)
    assert done.code == 0
    stored = json.loads(target.read_text())
    assert len(stored["predictions"]) == 8
    assert f"{stored['metrics']['accuracy']:.4g}" in done.out
    assert stored["metrics"]["accuracy"] == sum(p["correct"] for p in stored["predictions"]) / 8


def test_labels_on_the_line_are_the_options_of_rows_that_bring_none(evolvent, files):
    rows = [{"text": f"goal {i}", "label": "sport"} for i in range(4)]
    path = files.write("bare.jsonl", rows)
    assert evolvent("evaluate", files.model, path).code == 2
    done = evolvent("evaluate", files.model, path, "--labels", "sport, business")
    assert done.code == 0


def test_a_numeric_and_a_text_task_are_asked_in_free_form(evolvent, files):
    path = files.write("sums.jsonl", [{"question": f"{i} + 1", "answer": str(i + 1)} for i in range(3)])
    for task in ("numeric", "text"):
        target = files.folder / f"{task}.json"
        assert evolvent("evaluate", files.model, path, "--task", task, "--json", target).code == 0
        assert [p["probabilities"] for p in json.loads(target.read_text())["predictions"]] == [[]] * 3


def test_diff_lists_the_answers_that_changed(evolvent, files):
    assert evolvent(*files.run(min_steps=30)).code == 0
    checkpoint = files.folder / "run" / "checkpoint"
    probes = files.folder / "test.jsonl"
    answers = []
    for number, model in enumerate((files.model, checkpoint)):
        target = files.folder / f"{number}.json"
        arguments = ("--normalization", "token", "--template", "News: {{ question }}\\nTopic:")
        assert evolvent("evaluate", model, probes, "--json", target, *arguments).code == 0
        answers.append([p["answer"] for p in json.loads(target.read_text())["predictions"]])
    changed = sum(a != b for a, b in zip(*answers, strict=True))
    shown = evolvent("diff", files.model, checkpoint, "--probes", probes, "--template", "News: {{ question }}\\nTopic:")
    assert shown.code == 0
    assert f"{changed} of 8 answers changed" in shown.out
    same = evolvent("diff", files.model, files.model, "--probes", probes)
    assert "0 of 8 answers changed" in same.out
    assert "p = 1 " in same.out


def test_log_prints_the_chain_of_changes(evolvent, files):
    assert evolvent(*files.run()).code == 0
    checkpoint = files.folder / "run" / "checkpoint"
    shown = evolvent("log", checkpoint)
    assert shown.code == 0
    assert "semievol" in shown.out
    assert shown.out.strip().endswith(f"o {files.model}")


@pytest.mark.parametrize("form", ["trl", "openai", "alpaca"])
def test_label_stops_before_the_final_training_and_exports(evolvent, files, form):
    done = evolvent(*files.run("label", test=False), "--format", form)
    assert done.code == 0
    folder = files.folder / "run"
    target = folder / ("selected-alpaca.json" if form == "alpaca" else f"selected-{form}.jsonl")
    assert str(target) in done.out
    rows = json.loads(target.read_text()) if form == "alpaca" else [json.loads(x) for x in target.open()]
    selected = [json.loads(line) for line in (folder / "selected.jsonl").open()]
    assert f"{len(rows)} of 12 rows selected" in done.out
    said = {
        "trl": lambda row: row["completion"].strip(),
        "openai": lambda row: row["messages"][-1]["content"],
        "alpaca": lambda row: row["output"],
    }[form]
    assert [said(row) for row in rows] == [row["pseudo_answer"] for row in selected]
    assert not list((folder / "stages").glob("*evolve*"))
    assert not (folder / "checkpoint").exists()


def test_report_prints_the_results_again(evolvent, files):
    ran = evolvent(*files.run())
    shown = evolvent("semievol", "report", files.folder / "run")
    assert shown.code == 0
    table = ran.out[ran.out.index("variant") : ran.out.index("model ")]
    assert table in shown.out
    for name in ("report.html", "report.md", "metrics.json"):
        assert str(files.folder / "run" / name) in shown.out


def test_doctor_finds_what_is_wrong_and_changes_nothing(evolvent, files):
    labeled = [json.loads(line) for line in (files.folder / "labeled.jsonl").open()]
    files.write("test.jsonl", labeled[:2])
    files.write("unlabeled.jsonl", [{"question": labeled[3]["question"], "options": labeled[3]["options"]}] * 2)
    before = sorted(files.folder.rglob("*"))
    paths = [files.folder / f"{n}.jsonl" for n in ("labeled", "unlabeled")]
    done = evolvent("semievol", "doctor", *paths, "--test", files.folder / "test.jsonl")
    assert done.code == 0
    assert "2 labelled rows are test rows: removed" in done.out
    assert "1 unlabelled rows repeat an earlier one" in done.out
    assert "1 unlabelled rows have a label already" in done.out
    assert "answers by text (8)" in done.out
    assert sorted(files.folder.rglob("*")) == before
    clean = evolvent("semievol", "doctor", paths[0], files.news("raw.jsonl", 300, 4, labeled=False))
    assert "nothing to complain about" in clean.out


def test_overlap_with_the_test_rows_is_removed_or_left_in_as_asked(evolvent, files):
    labeled = (files.folder / "labeled.jsonl").read_text().splitlines()
    with (files.folder / "test.jsonl").open("a") as file:
        file.write("\n".join(labeled[:2]) + "\n")
    for keep, expected in ((False, 6), (True, 8)):
        out = f"keep-{keep}"
        assert evolvent(*files.run(out=out, keep_overlap=str(keep).lower())).code == 0
        assert json.loads((files.folder / out / "metrics.json").read_text())["rows/labeled"] == expected
        page = (files.folder / out / "report.html").read_text()
        assert f"2 labelled rows are test rows: {'left in' if keep else 'removed'}" in page
