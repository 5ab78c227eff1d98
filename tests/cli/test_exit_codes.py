"""0 done, 2 bad input, 3 an endpoint failed, 4 nothing selected, 130 interrupted; and what is said about it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
import yaml
from fault_proxy import FaultProxy

SPORT = {"options": ["business", "sport"], "answer": "sport"}


def events(folder) -> list[dict]:
    path = folder / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def stages_started(folder) -> list[str]:
    return [e["stage"] for e in events(folder) if e["event"] == "stage-started"]


def test_0_a_run_that_is_done_says_where_everything_is(evolvent, files):
    done = evolvent(*files.run())
    assert done.code == 0
    assert "SFT, same compute" in done.out
    assert str(files.folder / "run" / "checkpoint") in done.out
    assert str(files.folder / "run" / "report.html") in done.out


# ------------------------------------------------------------------------------------------------------ 2: bad input


@pytest.mark.parametrize("name", ["labeled", "unlabeled", "test"])
@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "{file}: the file is empty"),
        ([{"Q": "a", "A": "b"}], "{file}: no column for 'question'; the file has ['A', 'Q']. Map it with --columns"),
        (
            [{**SPORT, "question": "a"}, {**SPORT, "question": "b", "options": "x, y"}],
            "{file}, line 2, field 'options': expected a list, or a JSON list in a string, got 'x, y'",
        ),
    ],
)  # fmt: skip
def test_2_a_bad_file_is_named_with_its_line_and_field(evolvent, files, name, rows, said):
    path = files.write(f"{name}.jsonl", rows)
    ended = evolvent(*files.run())
    assert ended.code == 2
    assert said.format(file=path) in ended.err
    assert "Traceback" not in ended.err
    assert not (files.folder / "run").exists()


def test_2_answers_outside_the_options_are_listed_and_can_be_left_out(evolvent, files):
    rows = [{**SPORT, "question": f"goal {i}"} for i in range(9)]
    path = files.write("labeled.jsonl", [*rows, {**rows[0], "question": "odd", "answer": "weather"}])
    ended = evolvent("semievol", "doctor", path, files.folder / "unlabeled.jsonl")
    assert ended.code == 2
    assert "1 of 10 rows cannot be used (--skip-bad-rows leaves them out)" in ended.err
    assert f"{path}, line 10, field 'answer': expected one of ['business', 'sport']" in ended.err
    assert "got 'weather'" in ended.err
    done = evolvent("semievol", "doctor", path, files.folder / "unlabeled.jsonl", "--skip-bad-rows")
    assert done.code == 0
    assert "9 rows" in done.out
    assert "1 rejected" in done.out
    assert "no labelled row for business" in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "theta=2"], "theta: Input should be less than or equal to 1"),
        (["--set", "thetta=0.5"], "thetta: Extra inputs are not permitted"),
        (["--set", "theta"], "--set theta: expected KEY=VALUE"),
        (["--set", "theta=["], "--set theta=[: not valid YAML"),
        (["--config", "nothing.yaml"], "nothing.yaml: no such file"),
        (["--columns", "question"], "--columns: expected FIELD=COLUMN"),
        (["--columns", "question=Q"], "no column 'Q' for question; the file has ['answer', 'id',"),
        (["--template", "{{ title }}:"], "'title' is undefined; a template may use context, options, question"),
        (["--template", "{{ title"], "template '{{ title': unexpected end of template"),
        (["--task", "ranking"], "'ranking' is not one of 'choice', 'numeric', 'text'"),
        (["--set", "retriever=./nothing"], "./nothing: cannot be loaded as an encoder"),
        (["--model", "./nothing"], "./nothing: no such folder"),
        (["--model", "endpoint:name"], "write endpoint:NAME@URL"),
        (["--labeled", "./nothing.csv"], "./nothing.csv: no such file"),
    ],
)  # fmt: skip
def test_2_a_bad_setting_is_named_with_what_was_expected(evolvent, files, arguments, said):
    ended = evolvent(*files.run(), *arguments)
    assert ended.code == 2
    assert said in " ".join(ended.err.replace("│", " ").split())
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("content", ["theta: [", "- theta", "theta: 3"])
def test_2_a_bad_settings_file_is_named(evolvent, files, content):
    path = files.folder / "settings.yaml"
    path.write_text(content)
    ended = evolvent(*files.run(), "--config", path)
    assert ended.code == 2
    assert str(path) in ended.err


def test_2_a_run_folder_that_cannot_be_one_is_named(evolvent, files):
    (files.folder / "taken").write_text("a file")
    ended = evolvent(*files.run(out="taken"))
    assert ended.code == 2
    assert f"{files.folder / 'taken'}: cannot be a run folder" in ended.err


def test_2_a_folder_in_which_another_process_works_is_refused(evolvent, files):
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    folder = files.folder / "run"
    folder.mkdir()
    (folder / "run.lock").write_text(str(holder.pid))
    try:
        ended = evolvent(*files.run())
    finally:
        holder.communicate()
    assert ended.code == 2
    assert f"process {holder.pid} is working in this folder" in ended.err
    assert evolvent(*files.run("label")).code == 0  # the process has ended


def test_2_the_other_commands_name_what_is_missing(evolvent, files):
    for arguments, said in (
        (("log", files.model), "no evolvent.json"),
        (("semievol", "report", files.folder), "no metrics.json; this run has not finished"),
        (("evaluate", files.model, files.folder / "unlabeled.jsonl"), "no column for 'answer'"),
        (("evaluate", files.model, files.folder / "test.jsonl", "--normalization", "none"), "sum, token or character"),
        (("diff", files.model, "./nothing", "--probes", files.folder / "test.jsonl"), "./nothing: no such folder"),
    ):
        ended = evolvent(*arguments)
        assert ended.code == 2
        assert said in ended.err


def test_debug_shows_the_traceback(files):
    command = [sys.executable, "-c", "from evolvent.cli import main; main()", "--debug", "log", str(files.folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Traceback" in done.stderr
    assert "ModelError" in done.stderr


# --------------------------------------------------------------------------------------------------- 3, 4, 130


@pytest.mark.parametrize(("fault", "said"), [("401", "set OPENAI_API_KEY"), ("404", "404")])
def test_3_a_server_that_refuses(evolvent, files, fault, said):
    with FaultProxy("nobody", always=fault) as server:
        ended = evolvent("evaluate", f"endpoint:model@{server.url}", files.folder / "test.jsonl")
    assert ended.code == 3
    assert server.url in ended.err
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_4_nothing_is_sure_enough_and_the_warmed_up_model_is_named(evolvent, files):
    ended = evolvent(*files.run(target_precision=0.99, gate="always"))
    assert ended.code == 4
    assert ended.err.count("nothing selected:") == 1
    warm = ended.err.rpartition("the warmed-up model is at ")[2].strip()
    assert evolvent("evaluate", warm, files.folder / "test.jsonl").code == 0


def _heed() -> None:
    """A job in the background of a shell is born deaf to SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_130_an_interrupted_run_goes_on_with_the_same_command(evolvent, files):
    long_enough = {"evolve_epochs": 10}
    whole = evolvent(*files.run(out="whole", **long_enough))
    command = [sys.executable, "-c", "from evolvent.cli import main; main()", *files.run(**long_enough)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_heed)
    folder = files.folder / "run"
    while "evolve-1" not in stages_started(folder) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "interrupted; the same command goes on from here" in err
    assert "Traceback" not in err
    assert not (folder / "run.lock").exists()
    assert not (folder / "metrics.json").exists()
    done = evolvent(*files.run("run", **long_enough), "--resume")
    assert (whole.code, done.code) == (0, 0)
    assert stages_started(folder).count("warmup") == 1
    same = [json.loads((files.folder / n / "metrics.json").read_text()) for n in ("whole", "run")]
    results = [{k: v for k, v in m.items() if not k.startswith(("seconds", "peak"))} for m in same]
    assert results[0] == results[1]


# ------------------------------------------------------------------------------------------------------- resuming


def test_a_folder_with_other_settings_is_refused_by_their_names_and_rerun_repeats_what_they_concern(evolvent, files):
    folder = files.folder / "run"
    assert evolvent(*files.run()).code == 0
    ended = evolvent(*files.run(theta=0.9, seed=3))
    assert ended.code == 2
    assert "seed: 0 there, 3 now" in ended.err
    assert "theta: 0.5 there, 0.9 now" in ended.err
    assert "--rerun" in ended.err
    assert yaml.safe_load((folder / "config.yaml").read_text())["theta"] == 0.5
    before = len(stages_started(folder))
    assert evolvent(*files.run(theta=0.9), "--rerun").code == 0
    repeated = stages_started(folder)[before:]
    assert "evolve-1" in repeated
    assert "warmup" not in repeated
    assert yaml.safe_load((folder / "config.yaml").read_text())["theta"] == 0.9


def test_a_finished_run_is_only_read_again_unless_that_is_forbidden(evolvent, files):
    folder = files.folder / "run"
    first = evolvent(*files.run())
    started = stages_started(folder)
    again = evolvent(*files.run(), "--resume")
    assert (first.code, again.code) == (0, 0)
    assert stages_started(folder) == started
    refused = evolvent(*files.run(), "--no-resume")
    assert refused.code == 2
    assert "holds a run already: leave out --no-resume" in refused.err


def test_settings_come_from_the_file_and_then_from_the_line(evolvent, files):
    path = files.folder / "settings.yaml"
    path.write_text("theta: 0.25\nmin_per_class: 0\nseed: 5\n")
    assert evolvent(*files.run(seed=6), "--config", path).code == 0
    stored = yaml.safe_load((files.folder / "run" / "config.yaml").read_text())
    assert (stored["theta"], stored["min_per_class"], stored["seed"]) == (0.25, 0, 6)
