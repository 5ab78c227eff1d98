"""Run folders that survive kills, lineage, and the report page."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from pydantic import BaseModel

from evolvent.errors import ConfigError, ModelError
from evolvent.runs import plots
from evolvent.runs.folder import Run, ShardedJsonl
from evolvent.runs.lineage import Lineage, chain, read_lineage, render_chain, weight_digest, write_lineage
from evolvent.runs.report import Report


class Settings(BaseModel):
    output_dir: Path
    rate: float = 0.1


def opened(folder: Path, **changes) -> Run:
    return Run.open(folder, method="test", config=Settings(output_dir=folder, **changes))


def write(value: str):
    return lambda folder: (folder / "value").write_text(value)


def read(folder: Path) -> str:
    return (folder / "value").read_text()


def test_a_finished_stage_is_only_loaded_and_a_changed_one_computed_again(tmp_path):
    with opened(tmp_path) as run:
        assert run.stage("a", {"x": 1}, write("one"), load=read) == "one"
    with opened(tmp_path) as run:
        assert run.stage("a", {"x": 1}, write("never"), load=read) == "one"
        assert run.stage("a", {"x": 2}, write("two"), load=read) == "two"
        assert run.seconds["a"] >= 0
    assert (tmp_path / "stages" / "01-a" / "DONE").is_file()


def test_a_stage_that_broke_finds_what_it_wrote(tmp_path):
    def broken(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    with opened(tmp_path) as run, pytest.raises(KeyboardInterrupt):
        run.stage("a", {"x": 1}, broken, load=read)
    with opened(tmp_path) as run:
        found = run.stage("a", {"x": 1}, lambda f: write((f / "half").read_text())(f) and None, load=read)
    assert found == "half"


def test_leftovers_of_other_inputs_are_thrown_away(tmp_path):
    with opened(tmp_path) as run, pytest.raises(ZeroDivisionError):
        run.stage("a", {"x": 1}, lambda f: write("old")(f) / 0, load=read)
    with opened(tmp_path) as run:
        assert run.stage("a", {"x": 2}, lambda f: write(str(list(f.glob("value"))))(f) and None, load=read) == "[]"


def test_other_settings_in_the_same_folder_are_refused_by_name(tmp_path):
    opened(tmp_path).close()
    with pytest.raises(ConfigError, match=r"rate: 0\.1 there, 0\.2 now"):
        opened(tmp_path, rate=0.2)
    changed = Settings(output_dir=tmp_path, rate=0.2)
    Run.open(tmp_path, method="test", config=changed, on_config_change="rerun").close()
    with pytest.raises(ConfigError, match="method: 'test' there, 'other' now"):
        Run.open(tmp_path, method="other", config=changed)


def test_two_processes_cannot_work_in_one_folder(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (tmp_path / "run.lock").write_text(str(holder.pid))
    try:
        with pytest.raises(ConfigError, match=f"process {holder.pid} is working in this folder"):
            opened(tmp_path)
    finally:
        holder.kill()
        holder.wait()
    opened(tmp_path).close()  # the lock of a dead process is taken over


def test_a_torn_last_line_is_dropped(tmp_path):
    path = tmp_path / "rows.jsonl"
    ShardedJsonl(path).append([{"key": "1", "text": "ä"}, {"key": "2"}])
    with path.open("a") as file:
        file.write('{"key": "3", "te')
    assert ShardedJsonl(path).done_keys() == {"1", "2"}
    ShardedJsonl(path).append([{"key": "3"}])
    assert [r["key"] for r in ShardedJsonl(path).rows()] == ["1", "2", "3"]


def test_a_full_disk_is_said_before_the_work_begins(tmp_path):
    with opened(tmp_path) as run:
        run.require_space(1, "training")
        with pytest.raises(ConfigError, match=r"training needs about 1000000000\.0 GB"):
            run.require_space(10**18, "training")


KILLED = """
import sys, time
from pathlib import Path
from pydantic import BaseModel
from evolvent.runs.folder import Run, ShardedJsonl

class Settings(BaseModel):
    output_dir: Path

def shards(folder):
    file = ShardedJsonl(folder / "rows.jsonl")
    done = file.done_keys()
    for key in map(str, range(40)):
        if key not in done:
            time.sleep(0.002)
            file.append([{"key": key, "square": int(key) ** 2}])

def total(folder):
    time.sleep(0.02)
    (folder / "total").write_text(str(squares))

with Run.open(sys.argv[1], method="kill", config=Settings(output_dir=sys.argv[1])) as run:
    load = lambda f: sum(r["square"] for r in ShardedJsonl(f / "rows.jsonl").rows())
    squares = run.stage("rows", {}, shards, load=load)
    found = run.stage("total", {"squares": squares}, total, load=lambda f: int((f / "total").read_text()))
    run.write_metrics({"total": found})
"""


def test_kill_at_twenty_instants_and_the_result_is_the_same(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)]
    kills = 0
    for attempt in range(60):
        process = subprocess.Popen(command)
        time.sleep(0.35 + 0.017 * (attempt % 25))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        if kills >= 20:
            break
    subprocess.run(command, check=True)
    stored = json.loads((tmp_path / "metrics.json").read_text())
    assert stored["total"] == sum(i**2 for i in range(40))
    rows = list(ShardedJsonl(tmp_path / "stages" / "01-rows" / "rows.jsonl").rows())
    assert [r["key"] for r in rows] == [str(i) for i in range(40)]
    assert not list((tmp_path / "stages").glob("*.tmp"))
    assert stored["peak_rss_mb"] > 1
    assert all(json.loads(line)["event"] for line in (tmp_path / "events.jsonl").read_text().splitlines())


# ------------------------------------------------------------------------------------------------------- lineage


def test_lineage_tells_the_chain_of_changes_and_the_card_shows_the_measurements(tiny_folder, tmp_path):
    import shutil

    first, second = tmp_path / "first", tmp_path / "second"
    for folder, parent in ((first, tiny_folder), (second, first)):
        shutil.copytree(tiny_folder, folder)
        lineage = Lineage(
            parent=str(parent),
            method="semievol",
            config={"rate": 0.1},
            metrics_before={"accuracy": 0.5},
            metrics_after={"accuracy": 0.75},
            notes=["accepted: better"],
        )
        write_lineage(folder, lineage)
    assert [place for place, _ in chain(second)] == [str(second), str(first)]
    assert read_lineage(second).weight_digest == weight_digest(tiny_folder)
    assert read_lineage(tiny_folder) is None
    shown = render_chain(second)
    assert shown.count("semievol") == 2
    assert "accuracy: 0.5 -> 0.75" in shown
    assert shown.splitlines()[-1] == f"o {tiny_folder}"
    card = (second / "README.md").read_text()
    assert card.startswith("---\n")
    assert "| accuracy | 0.5 | 0.75 |" in card
    with pytest.raises(ModelError, match=re.escape("no evolvent.json")):
        chain(tiny_folder)


def test_the_digest_changes_with_any_weight(tiny_model, tmp_path):
    tiny_model.module.save_pretrained(tmp_path / "a")
    tiny_model.module.lm_head.weight.data[0, 0] += 1e-3
    tiny_model.module.save_pretrained(tmp_path / "b")
    assert weight_digest(tmp_path / "a") != weight_digest(tmp_path / "b")
    assert weight_digest(tmp_path) is None


# -------------------------------------------------------------------------------------------------------- report


def page() -> Report:
    return (
        Report("SemiEvol <b>", "Accepted & kept", "good")
        .facts({"model": "embedded", "rows": 20})
        .table("Results", ["variant", "accuracy"], [["SFT", "83.0"], ["SemiEvol | own", "92.3"]], "Paired.", strong=1)
        .figure("Curves", plots.learning_curves({"SFT": [(1, 2.0), (2, 0.5)], "SemiEvol": [(1, 1.0), (2, 0.4)]}))
        .figure("Confidence", plots.reliability([0.5, 0.9, 0.99] * 9, [False, True, True] * 9))
        .figure("Classes", plots.grouped_bars({"sport": {"all": 0.9, "selected": 1.0}}, label="right, %"))
        .figure("Time", plots.stage_times({"warmup": 10.0, "evolve": 20.0}))
        .figure("Kept", plots.stacked_histogram({"selected": [0.1, 0.2], "left out": [0.5]}, label="uncertainty"))
        .figure("Accuracy", plots.accuracy_bars({"SFT": (0.8, 0.75, 0.85), "SemiEvol": (0.9, 0.85, 0.93)}))
        .figure("Cost", plots.frontier({"SFT": (0.06, 0.8), "longer name": (0.05, 0.7)}, x="drift, nats", y="F1, %"))
        .text("Notes", ["One.", "Two."])
    )


def test_the_page_needs_nothing_else_and_escapes_what_it_is_given(tmp_path):
    saved = page().save(tmp_path / "report.html")
    html = saved.read_text()
    assert "SemiEvol &lt;b&gt;" in html
    assert html.count("<svg") == 7
    outside = re.findall(r'(?:src|href)="(?!#)([^"]+)"|url\((?!#)([^)]+)\)', html)
    assert outside == []
    assert "prefers-color-scheme: dark" in html
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert not re.search(r"#0[123]0[0-3]0[0-9]", html)  # every colour became a CSS variable
    markdown = (tmp_path / "report.md").read_text()
    assert "| SFT | 83.0 |" in markdown


def test_the_same_numbers_draw_the_same_page():
    assert page().html() == page().html()


def test_a_browser_shows_the_page_without_overflow_in_light_and_dark(tmp_path):
    import shutil

    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    page().save(tmp_path / "report.html")
    for width, mode in ((360, "light"), (1200, "dark")):
        probe = tmp_path / f"probe-{width}.html"
        script = "<script>document.title = document.documentElement.scrollWidth + '/' + innerWidth</script>"
        probe.write_text((tmp_path / "report.html").read_text().replace("</body>", f"{script}</body>"))
        flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},2000", "--dump-dom"]
        flags += ["--blink-settings=preferredColorScheme=0"] if mode == "dark" else []
        done = subprocess.run(
            [browser, *flags, probe.as_uri()], capture_output=True, text=True, timeout=120, env={**os.environ}
        )
        found = re.search(r"<title>(\d+)/(\d+)</title>", done.stdout)
        assert found, done.stderr[-500:]
        assert int(found[1]) <= int(found[2])
