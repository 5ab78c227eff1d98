"""The user's side of the table: journal, undo, locks, torn files, full disks, two processes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from filelock import FileLock

from evolvent.errors import DataError
from evolvent.methods.atlas.atlas import Atlas


def test_add_edit_remove_and_undo_each(atlas, new_row):
    before = list(atlas)
    atlas.add(new_row)
    atlas.edit("my-smol", architecture=["GPT-like"], backbone=["LLaMA"])
    assert atlas["my-smol"].provenance == {"architecture": "user", "backbone": "user"}
    atlas.remove("my-smol")
    assert "my-smol" not in atlas
    assert [atlas.undo().action for _ in range(3)] == ["remove", "edit", "add"]
    assert list(atlas) == before
    with pytest.raises(DataError, match="nothing to undo"):
        atlas.undo()
    assert [a.action for a in atlas.history()] == ["add", "edit", "remove", "undo", "undo", "undo"]


def test_another_atlas_sees_the_change_with_who_and_when(atlas, make_atlas):
    atlas.edit("scibert", languages=["en"])
    other = make_atlas()
    assert other["scibert"].languages == ["en"]
    (action,) = other.history()
    assert (action.who, action.action) == ("tester", "edit")
    assert {(c.cell, str(c.old), str(c.new)) for c in action.changes if c.cell != "provenance"} == {
        ("languages", "None", "['en']")
    }


def test_an_edited_venue_brings_its_parts(atlas):
    entry = atlas.edit("scibert", venue="Nature 2021")
    assert (entry.venue_name, entry.year, entry.venue_type) == ("Nature", 2021, "journal")
    with pytest.raises(DataError, match="row scibert, venue: 'Nature' is no venue"):
        atlas.edit("scibert", venue="Nature")


def test_bundled_rows_can_be_hidden_but_not_those_that_others_come_from(atlas, make_atlas):
    atlas.remove("scigpt2")
    assert "scigpt2" not in make_atlas()
    with pytest.raises(DataError, match="no row 'galactica'"):
        atlas.remove("galactica")


def test_a_taken_id_is_refused(atlas, new_row):
    with pytest.raises(DataError, match="row scibert, id: taken"):
        atlas.add({**new_row, "id": "scibert"})
    assert not atlas.overlay.journal.exists()


def test_a_damaged_or_missing_row_file_is_made_again_from_the_journal(atlas, make_atlas, new_row, caplog):
    atlas.add(new_row)
    stored = atlas.overlay.rows.read_text()
    for damaged in (stored[:-20], "", '{"schema_version": 1, "journal": 0}\n', "\0\0\0"):
        atlas.overlay.rows.write_text(damaged)
        assert make_atlas()["my-smol"].title == new_row["title"]
    assert "made again from the journal" in caplog.text
    atlas.overlay.rows.unlink()
    assert "my-smol" in make_atlas()


def test_a_torn_last_line_of_the_journal_is_dropped_and_writing_goes_on(atlas, make_atlas, new_row):
    atlas.add(new_row)
    with atlas.overlay.journal.open("a") as file:
        file.write('{"n": 2, "action": "edit", "who": "x", "wh')
    again = make_atlas()
    assert len(again.history()) == 1
    again.edit("my-smol", title="After the crash")
    assert make_atlas()["my-smol"].title == "After the crash"
    assert [a.n for a in make_atlas().history()] == [1, 2]


def test_a_broken_line_in_the_middle_is_an_error_with_its_number(atlas, make_atlas, new_row):
    atlas.add(new_row)
    atlas.overlay.journal.write_text("rubbish\n" + atlas.overlay.journal.read_text())
    atlas.overlay.rows.unlink()
    with pytest.raises(DataError, match=r"journal.jsonl, line 1: cannot be read"):
        make_atlas()


def test_an_overlay_of_a_newer_version_is_refused(atlas, make_atlas, new_row):
    atlas.add(new_row)
    text = atlas.overlay.journal.read_text().replace('"schema_version": 1', '"schema_version": 2')
    atlas.overlay.journal.write_text(text)
    with pytest.raises(DataError, match="newer Evolvent"):
        make_atlas()
    assert atlas.overlay.journal.read_text() == text


def test_changes_to_one_table_are_not_laid_over_another(atlas, make_atlas, new_row, tmp_path):
    atlas.add(new_row)
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match=r"holds changes to another table \(bundled, this is .*other\)"):
        make_atlas(data_dir=tmp_path / "other")


def test_a_locked_overlay_waits_and_then_says_so(atlas, make_atlas, new_row):
    atlas.add(new_row)
    impatient = make_atlas(lock_timeout_s=0.1)
    with (
        FileLock(atlas.args.overlay_dir / "overlay.lock"),
        pytest.raises(DataError, match=r"another process has been writing for 0.1 s"),
    ):
        impatient.edit("my-smol", title="x")
    assert make_atlas()["my-smol"].title == new_row["title"]


def test_a_full_disk_leaves_what_was_there(atlas, make_atlas, new_row):
    """A real limit on the size of files, as a full disk gives it: the write stops half way."""
    atlas.add(new_row)
    journal = atlas.overlay.journal.read_bytes()
    script = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(journal) + 100}, {len(journal) + 100}))\n"
        "from evolvent.methods.atlas.atlas import Atlas\n"
        "Atlas.load().edit('my-smol', title='x' * 5000)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "the change cannot be written" in done.stderr
    assert atlas.overlay.journal.read_bytes() == journal
    assert make_atlas()["my-smol"].title == new_row["title"]


def test_a_home_that_cannot_be_written_works_in_memory(make_atlas, tmp_path, new_row, caplog):
    (tmp_path / "file").write_text("")
    atlas = make_atlas(overlay_dir=tmp_path / "file" / "overlay")
    atlas.add(new_row)
    atlas.edit("my-smol", title="In memory")
    assert atlas["my-smol"].title == "In memory"
    assert "changes last as long as this process" in caplog.text
    atlas.undo()
    assert atlas["my-smol"].title == new_row["title"]
    assert "my-smol" not in make_atlas(overlay_dir=tmp_path / "file" / "overlay")


def test_rows_that_two_processes_add_at_once_are_both_there(make_atlas, new_row):
    script = (
        "import json, sys\n"
        "from evolvent.methods.atlas.atlas import Atlas\n"
        "atlas = Atlas.load()\n"
        "for i in range(4):\n"
        "    atlas.add({**json.loads(sys.argv[2]), 'id': f'{sys.argv[1]}-{i}'})\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", script, name, json.dumps(new_row)]) for name in ("left", "right")
    ]
    assert [p.wait(timeout=60) for p in running] == [0, 0]
    ids = {e.id for e in make_atlas()}
    assert {f"{name}-{i}" for name in ("left", "right") for i in range(4)} <= ids
    assert [a.n for a in make_atlas().history()] == list(range(1, 9))


def test_a_killed_process_leaves_a_whole_journal(make_atlas, new_row):
    """Kill a process that writes without pause, at three instants: every line is whole, every row valid."""
    script = (
        "import json, sys, itertools\n"
        "from evolvent.methods.atlas.atlas import Atlas\n"
        "atlas = Atlas.load()\n"
        "for i in itertools.count():\n"
        "    atlas.add({**json.loads(sys.argv[2]), 'id': f'{sys.argv[1]}-{i}'})\n"
        "    print(i, flush=True)\n"
    )
    for run in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", script, f"run{run}", json.dumps(new_row)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(3 + 2 * run)]
        process.kill()
        process.wait()
        table = make_atlas()
        assert all(f"run{run}-{int(i)}" in table for i in said)
        assert table.validate() == []


def test_an_edit_with_an_unknown_cell_names_the_nearest(atlas):
    with pytest.raises(DataError, match="row scibert, titel: cannot be edited; nearest: title"):
        atlas.edit("scibert", titel="x")


def test_new_spellings_are_accepted_with_the_nearest_known_one(atlas, new_row, caplog):
    atlas.add({**new_row, "evaluation_tasks": ["retro-synthesis"], "pretraining_data": ["Pub Med"]})
    assert "'retro-synthesis' is new to the table; nearest known: retrosynthesis" in caplog.text
    assert "nearest known: PubMed" in caplog.text
    assert len(atlas.warnings()) == 2


def test_a_table_folder_with_a_bad_row_is_refused_with_its_line(tmp_path, make_atlas):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "models.jsonl").write_text('{"id": "x"}\n')
    with pytest.raises(DataError, match=r"models.jsonl, line 1, name: Field required"):
        make_atlas(data_dir=tmp_path / "t")


def test_loading_imports_no_torch():
    script = (
        "import sys\nfrom evolvent.methods.atlas.atlas import Atlas\n"
        "atlas = Atlas.load()\natlas.search('melting point', mode='lexical')\natlas.filter('field:physics')\n"
        "atlas.graph()\natlas.stats()\n"
        "assert not {'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_example_of_the_class_is_true():
    import doctest

    from evolvent.methods.atlas import atlas as module
    from evolvent.methods.atlas import budget, entry

    for one in (module, budget, entry):
        found = doctest.testmod(one)
        assert found.attempted >= 1
        assert found.failed == 0


def test_load_is_public():
    import evolvent

    assert evolvent.Atlas is Atlas
