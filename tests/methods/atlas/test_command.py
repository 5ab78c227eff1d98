"""`evolvent atlas`: every verb, its exit codes, and output that cannot be broken by a row."""

from __future__ import annotations

import json

import pytest

from evolvent.cli import main


@pytest.fixture
def run(capsys, monkeypatch):
    """Run the command line; gives (exit code, standard output, standard error)."""

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["evolvent", "atlas", *arguments])
        monkeypatch.setenv("EVOLVENT_ATLAS_ENCODER", "none")
        code = 0
        try:
            main()
        except SystemExit as left:
            code = int(left.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_reading_verbs_print_rows_and_json(run, tmp_path):
    code, out, _ = run("list", "--where", "field:physics", "--json")
    assert code == 0
    assert [r["id"] for r in json.loads(out)][:2] == ["astrobert", "astrollama"]
    assert "neither in nor out" in run("list", "--where", "params:<=1B field:general")[1]
    code, out, _ = run("search", "retrosynthesis", "-k", "2", "--json")
    assert all(set(h) == {"id", "name", "score", "parts", "why"} for h in json.loads(out))
    assert "SciBERT: A Pretrained Language Model" in run("show", "scibert")[1]
    assert json.loads(run("show", "scibert", "--json")[1])["id"] == "scibert"
    assert "SMolInstruct" in run("compare", "llasmol", "chemllm", "--diff-only")[1]
    assert json.loads(run("graph", "k2", "--cross-field", "--json")[1])[0]["target"] == "pmc-llama"
    assert json.loads(run("graph", "k2", "--to", "scgpt", "--json")[1])[-1]["target"] == "scgpt"
    edges = json.loads(run("graph", "galactica", "--view", "lineage", "--json")[1])
    assert {"from": "galactica", "to": "llasmol", "kind": "derived_from"} in edges
    assert "1308 edges" in run("graph")[1]
    assert json.loads(run("bridges", "physics", "maths", "-k", "1", "--json")[1])[0]["source"]
    assert len(json.loads(run("timeline", "--json")[1])) == 296
    assert json.loads(run("stats", "--json")[1])["entries"] == 296
    assert "theorem proving" in run("applications", "--stage", "theorem proving")[1]
    assert run("cite", "scibert")[1].startswith("@inproceedings{beltagy2019scibert,")
    for ending in ("json", "graphml", "gexf"):
        assert run("graph", "--out", str(tmp_path / f"g.{ending}"))[0] == 0
        assert (tmp_path / f"g.{ending}").stat().st_size > 1000


def test_recommend_prints_reasons_cautions_and_the_unknown(run):
    code, out, err = run(
        "recommend", "question answering", "--use", "semievol", "--vram-gb", "24", "--method", "qlora", "-k", "2"
    )
    assert code == 0
    assert "because" in out
    assert "licence unknown" in out
    assert "Unknown, so neither in nor out (2)" in out
    assert "no benchmark scores" in err
    asked = ("recommend", "question answering", "--field", "physics", "--json")
    assert set(json.loads(run(*asked)[1])) == {"choices", "unknown", "notices"}


def test_changing_verbs_and_undo(run, tmp_path):
    row = ["name=My Smol", "title=[bold]A[/] small model", "venue=arXiv 2025", "fields=[chemistry]"]
    row += ["modalities=[text]", "paper_url=https://arxiv.org/abs/2501.00001"]
    assert run("add", *row)[1] == "added my-smol\n"
    (tmp_path / "row.yaml").write_text("name: Other\ntitle: T\nvenue: ACL 2024\nfields: [maths]\nmodalities: [text]\n")
    assert run("add", str(tmp_path / "row.yaml"), "paper_url=https://a.b/c", "--draft")[1] == "added other\n"
    assert run("edit", "my-smol", "languages=[en]", "year=2025")[0] == 0
    assert "[bold]A[/] small model" in run("show", "my-smol")[1]
    assert "languages" in run("log")[1]
    assert json.loads(run("log", "--json")[1])[0]["action"] == "add"
    assert "+My Smol: [bold]A[/] small model (arXiv 2025)" in run("diff")[1]
    assert run("validate")[1] == "298 rows, no problem\n"
    assert run("remove", "other")[0] == 0
    assert "took back remove" in run("undo")[1]
    out = tmp_path / "all.csv"
    assert run("export", str(out))[1].startswith("298 rows")
    assert run("export", str(out), "--where", "status:draft")[1].startswith("1 rows")
    assert run("build", "--out", str(tmp_path / "page"))[0] == 0
    assert (tmp_path / "page" / "index.html").is_file()


def test_list_is_imported_and_compared(run, fixtures, tmp_path):
    (tmp_path / "none").mkdir()
    empty = ("--set", f"data_dir={tmp_path / 'none'}", "--set", f"overlay_dir={tmp_path / 'other'}")
    files = sorted(fixtures.glob("list-*.md"))
    assert "108 added" in run("import", str(files[0]), *empty)[1]
    out = run("diff", str(files[1]), *empty)[1]
    assert "+K2: " in out
    assert "-modalities: ['protein', 'dna']\n+modalities: ['protein', 'dna', 'rna']" in out
    assert "would be: 84 added" in out
    assert "2 withdrawn" in run("refresh", str(files[1]), *empty)[1]
    assert "nothing changed" in run("refresh", str(files[-1]))[1]


def test_nothing_of_ones_own_yet(run):
    assert run("mine")[0] == 1
    assert run("diff")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("list", "--where", "field:physics id:scibert"), 1, "nothing found"),
        (("search", "qqqq"), 1, "nothing found"),
        (("list", "--where", "colour:red"), 2, "no key 'colour'"),
        (("search", "x", "--mode", "hybrid"), 2, "no sentence encoder"),
        (("compare", "k2"), 2, "name two to six"),
        (("graph", "--view", "circles"), 2, "give similar, hub or lineage"),
        (("list", "--set", "graph_k=0"), 2, "graph_k"),
        (("export", "x.docx"), 2, "no form for this ending"),
        (("add", "nothing"), 2, "neither COLUMN=VALUE nor a file"),
        (("show", "scibertt"), 3, "nearest: scibert"),
        (("add", "name=x"), 3, "new row, title"),
        (("edit", "scibert", "code_url=javascript:alert(1)"), 3, "row scibert, code_url"),
        (("import", "missing.md"), 3, "no such file"),
        (("undo",), 3, "nothing to undo"),
        (("mine", "--card", "mine:x"), 3, "there are: none"),
        (("load", "scibert"), 4, "not in the local cache and the network is off"),
        (("load", "scigpt2"), 2, "pass path=FOLDER"),
        (("refresh",), 4, "needs the network, which is off"),
        (("hub", "scibert"), 4, "needs the network, which is off"),
        (("links", "--where", "id:scibert"), 4, "needs the network, which is off"),
    ],
)
def test_exit_codes_tell_what_went_wrong(run, arguments, code, said):
    found, out, err = run(*arguments)
    assert found == code
    assert said in (err + out).replace("\n", " ")
    assert "Traceback" not in err
