"""Six real revisions of the list, in order; three-way merge; other people's files; bad input."""

from __future__ import annotations

import json

import pytest

from evolvent.errors import ConfigError, DataError
from evolvent.methods.atlas.atlas import Atlas
from evolvent.methods.atlas.source_list import SOURCE_COLUMNS, hub_link, paper_key, parse_list

LAST = "list-2025-06-21-dd5e953.md"

LIST = """## General
### Language
- **(Alpha)** _A Title_ ```ACL 2023 Findings```
[[Paper](https://arxiv.org/pdf/2301.00001v2)] [[GitHub](https://github.com/a/a)] [[Model (7B, LLaMA)](https://huggingface.co/a/alpha)]

- **(Beta)** _Another (with_underscores) Title_ ```Nature 2024```
[[Paper](https://www.nature.com/articles/s41586-024-00001-1)]
"""


@pytest.fixture
def expected(fixtures):
    return json.loads((fixtures / "expected.json").read_text())


def test_six_revisions_in_order_give_every_expected_figure(empty_atlas, fixtures, expected):
    """Acceptance 1, with edits of a user between two imports."""
    for number, want in enumerate(expected):
        snapshot = parse_list((fixtures / want["file"]).read_text(encoding="utf-8"))
        assert len(snapshot.entries) == want["entries"]
        assert len(snapshot.entries) - snapshot.complete == want["malformed"]
        assert (snapshot.badge, snapshot.with_code) == (want["badge"], want["with_code"])
        assert snapshot.model_links == want["model_links"]
        report = empty_atlas.refresh(fixtures / want["file"])
        if number == 0:
            assert len(report.added) == want["entries"]
            empty_atlas.edit("scibert", languages=["en"], title="My own title", code_url=None)
            continue
        told = want["diff_to_previous"]
        assert sorted([*report.added, *report.restored]) == sorted(told["added"])
        assert sorted(report.withdrawn) == sorted(told["withdrawn"])
        assert sorted(report.relinked) == sorted(told["relinked"])
        assert sorted(map(list, report.renamed)) == sorted(told["renamed"])
        if number == 4:
            assert report.restored == ["xTrimoPGLM"]
    mine = empty_atlas["scibert"]
    assert (mine.languages, mine.title, mine.code_url) == (["en"], "My own title", None)
    assert mine.provenance["title"] == "user"
    assert empty_atlas.validate() == []


def test_table_after_six_imports_is_the_bundled_one_in_the_lists_columns(atlas, empty_atlas, fixtures, expected):
    for want in expected:
        empty_atlas.refresh(fixtures / want["file"])
    active = [e for e in empty_atlas if e.status == "active"]
    assert len(active) == 296
    theirs = {e.paper_url: e for e in active}
    for e in atlas:
        found = theirs[e.paper_url].model_dump(mode="json")
        wanted = e.model_dump(mode="json")
        for column in SOURCE_COLUMNS:
            if column == "aliases":  # old names are kept as aliases
                assert set(wanted[column]) <= set(found[column])
            elif column in ("parameters", "n_params"):  # the bundled table adds the survey's sizes
                assert set(found[column]) <= set(wanted[column])
            else:
                assert found[column] == wanted[column], (e.id, column)


def test_last_revision_changes_nothing_in_the_bundled_table(atlas, fixtures):
    before = list(atlas)
    report = atlas.refresh(fixtures / LAST)
    assert sum(report.counts().values()) == 0
    assert list(atlas) == before


def test_ids_survive_renaming_and_old_names_become_aliases(empty_atlas, fixtures, expected):
    for want in expected[:2]:
        empty_atlas.refresh(fixtures / want["file"])
    entry = empty_atlas["bio-clinical-bert"]
    assert (entry.name, entry.aliases) == ("ClinicalBERT", ["Bio+Clinical BERT"])
    assert empty_atlas["Bio+Clinical BERT"] is entry


def test_a_curated_cell_that_contradicts_the_list_is_kept_and_reported(atlas, fixtures, tmp_path):
    atlas.edit("scibert", title="Mine")
    changed = (fixtures / LAST).read_text().replace("_SciBERT: A Pretrained Language Model for", "_SciBERT: A New")
    changed = changed.replace("https://github.com/Kel-Lu/SciGen", "https://github.com/other/SciGen")
    (tmp_path / "list.md").write_text(changed)
    report = atlas.refresh(tmp_path / "list.md")
    assert report.conflicts == [("scibert", "title", "Mine", "SciBERT: A New Scientific Text")]
    assert atlas["scibert"].title == "Mine"
    assert [c[:2] for c in report.changed] == [("scigpt2", "code_url")]
    assert "!title: SciBERT: A New Scientific Text" in report.to_diff()
    assert "+code_url: https://github.com/other/SciGen" in report.to_diff()


def test_an_edited_cell_survives_withdrawal_and_return(empty_atlas, tmp_path):
    file = tmp_path / "list.md"
    file.write_text(LIST)
    empty_atlas.refresh(file)
    empty_atlas.edit("beta", title="Mine")
    first, _, second = LIST.partition("- **(Beta)")
    file.write_text(first)
    empty_atlas.refresh(file, force=True)
    assert empty_atlas["beta"].status == "withdrawn"
    file.write_text(f"{first}- **(Beta){second.replace('Nature 2024', 'Nature 2025')}")
    report = empty_atlas.refresh(file)
    beta = empty_atlas["beta"]
    assert (beta.status, beta.title, beta.venue, beta.year) == ("active", "Mine", "Nature 2025", 2025)
    assert report.restored == ["Beta"]
    assert [c[:3] for c in report.conflicts] == [("beta", "title", "Mine")]


def test_dry_run_changes_nothing(atlas, fixtures, tmp_path):
    (tmp_path / "list.md").write_text((fixtures / LAST).read_text().replace("```EMNLP 2019```", "```EMNLP 2020```"))
    before = list(atlas)
    assert atlas.refresh(tmp_path / "list.md", dry_run=True).counts()["changed"] == 2
    assert list(atlas) == before
    assert not atlas.overlay.journal.exists()


def test_many_withdrawals_are_refused_unless_forced(atlas, fixtures, tmp_path):
    text = (fixtures / LAST).read_text()
    (tmp_path / "list.md").write_text(text[: text.index("## Biology and Medicine")])
    with pytest.raises(DataError, match="of 296 entries would be withdrawn, 20% or more"):
        atlas.refresh(tmp_path / "list.md")
    assert not atlas.overlay.journal.exists()
    report = atlas.refresh(tmp_path / "list.md", force=True)
    assert len(report.withdrawn) == sum(e.status == "withdrawn" for e in atlas) > 60


def test_an_edit_survives_undo_of_the_import_after_it(empty_atlas, fixtures, expected):
    empty_atlas.refresh(fixtures / expected[0]["file"])
    empty_atlas.edit("scibert", languages=["en"])
    empty_atlas.refresh(fixtures / expected[1]["file"])
    assert len(empty_atlas) > 150
    assert empty_atlas.undo().action == "refresh"
    assert len(empty_atlas) == 108
    assert empty_atlas["scibert"].languages == ["en"]
    report = empty_atlas.refresh(fixtures / expected[1]["file"])  # the base is the first revision again
    assert len(report.added) == len(expected[1]["diff_to_previous"]["added"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "0 of 0 bullets"),
        ("<html><body><ul><li>SciBERT</li></ul></body></html>", "0 of 0 bullets"),
        ("# Papers\n- SciBERT [paper](https://a.b)\n", "0 of 1 bullets were understood; first problem: line 2"),
        (LIST.replace("### Language", "### Telepathy"), "unknown section 'Telepathy'"),
        (LIST + "- **(Bad** _x_\n" * 3, "2 of 5 bullets were understood, less than 90%; first problem: line 8"),
        ("- " + "x" * 50_000_000, "0 of 1 bullets"),
    ],
)
def test_an_unknown_layout_is_refused_with_counts_and_the_first_bad_line(atlas, tmp_path, text, said):
    (tmp_path / "list.md").write_text(text)
    before = list(atlas)
    with pytest.raises(DataError) as caught:
        atlas.refresh(tmp_path / "list.md")
    assert said in str(caught.value)
    assert "list.md" in str(caught.value)
    assert list(atlas) == before


def test_first_layouts_of_the_list_fail_cleanly():
    """The first four revisions had bold titles and links in another order."""
    with pytest.raises(DataError, match="not the list's layout"):
        parse_list("### SciBERT\n- **SciBERT: A Pretrained Language Model** EMNLP 2019 [[pdf](https://a.b/c)]\n")


def test_an_unknown_section_can_be_mapped():
    text = LIST.replace("### Language", "### Telepathy")
    snapshot = parse_list(text, sections={"Telepathy": ["text", "image"]})
    assert snapshot.entries[0].cells["modalities"] == ["language", "vision"]


def test_lines_of_the_list_are_read_as_they_are_meant():
    one, two = parse_list(LIST).entries
    assert one.cells["arxiv_id"] == "2301.00001"
    assert one.cells["doi"] == "10.48550/arXiv.2301.00001"
    assert (one.cells["venue_track"], one.cells["first_public"]) == ("Findings", "2023-01")
    assert one.cells["checkpoints"][0] == {
        "label": "7B, LLaMA",
        "size": "7B",
        "n_params": 7_000_000_000,
        "variant": "LLaMA",
        "url": "https://huggingface.co/a/alpha",
        "hf_id": "a/alpha",
        "hf_type": "model",
        "hf_file": None,
    }
    assert two.cells["title"] == "Another (with_underscores) Title"
    assert two.cells["doi"] == "10.1038/s41586-024-00001-1"


def test_same_name_other_paper_are_two_rows_and_same_paper_other_name_is_one(empty_atlas, tmp_path):
    file = tmp_path / "list.md"
    file.write_text(LIST + LIST.splitlines()[2] + "\n[[Paper](https://arxiv.org/abs/2309.09999)]\n")
    empty_atlas.refresh(file)
    assert [e.id for e in empty_atlas] == ["alpha", "beta", "alpha-2"]
    file.write_text(LIST.replace("(Beta)", "(Gamma)"))
    report = empty_atlas.refresh(file, force=True)
    assert (report.renamed, empty_atlas["beta"].name) == ([("Beta", "Gamma")], "Gamma")
    assert report.withdrawn == ["Alpha"]


def test_an_entry_without_venue_or_paper_becomes_a_draft(make_atlas, tmp_path):
    (tmp_path / "empty").mkdir()
    empty_atlas = make_atlas(data_dir=tmp_path / "empty", encoder="none")
    bad = "- **(Draft)** _No venue_\n[[Blog](https://a.b/c)] [[Model (2.7B)](https://huggingface.co/a/b)]\n"
    (tmp_path / "list.md").write_text(LIST + "\n" + bad)
    report = empty_atlas.refresh(tmp_path / "list.md", force=True)
    entry = empty_atlas["draft"]
    assert entry.status == "draft"
    assert "draft: no paper link" in entry.notes
    assert {line for line, _ in report.malformed} == {9}
    found = empty_atlas.recommend("no venue", weights="any")
    assert {c.entry.id for c in found.choices} == {"alpha"}


def test_alike_titles_are_reported_and_never_merged(empty_atlas, tmp_path):
    file = tmp_path / "list.md"
    file.write_text(LIST)
    empty_atlas.refresh(file)
    changed = LIST.replace("(Beta)", "(Delta)").replace("s41586-024-00001-1", "s41586-024-99999-9")
    file.write_text(changed.replace("Another (with_underscores) Title", "Another (with_underscores) Titles"))
    report = empty_atlas.refresh(file, force=True)
    assert report.unsure == [("Delta", "beta")]
    assert empty_atlas["beta"].status == "withdrawn"
    assert "delta" in empty_atlas


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("https://huggingface.co/a/b", ("a/b", "model", None)),
        ("https://huggingface.co/spaces/a/b", ("a/b", "space", None)),
        ("https://huggingface.co/a/b/blob/main/x/pytorch_model.bin", ("a/b", "model", "x/pytorch_model.bin")),
        ("https://example.org/a/b", (None, None, None)),
    ],
)
def test_hub_links(url, kind):
    assert tuple(hub_link(url).values()) == kind


def test_links_of_one_paper_have_one_key():
    assert paper_key("https://arxiv.org/pdf/2301.00001v3.pdf") == paper_key("http://arxiv.org/abs/2301.00001")
    assert paper_key("https://www.example.org/a/") == paper_key("http://example.org/a")


# ------------------------------------------------------------------------------------------------ other files


def test_own_csv_and_jsonl_come_back_equal(atlas, make_atlas, tmp_path):
    (tmp_path / "empty").mkdir()
    empty_atlas = make_atlas(data_dir=tmp_path / "empty", overlay_dir=tmp_path / "other")
    atlas.edit("scibert", title="=HYPERLINK(1)", first_author="'quoted", pretraining_data=["a; b", "c"])
    for name in ("all.csv", "all.jsonl"):
        atlas.export(tmp_path / name)
        assert empty_atlas.import_rows(tmp_path / name) == list(atlas)
        empty_atlas.undo()
        assert len(empty_atlas) == 0


def test_any_csv_with_a_column_map_becomes_drafts(atlas, tmp_path):
    (tmp_path / "x.csv").write_text("Model,Paper,Where,Link\nFoo,On foo,ACL 2024,https://a.b/c\n")
    columns = {"name": "Model", "title": "Paper", "venue": "Where", "paper_url": "Link"}
    defaults = {"fields": ["physics"], "modalities": ["text"]}
    (row,) = atlas.import_rows(tmp_path / "x.csv", columns=columns, defaults=defaults)
    assert (row.id, row.status, row.year, row.modalities) == ("foo", "draft", 2024, ["language"])
    with pytest.raises(DataError, match=r"x.csv, line 2, fields: the file does not say it; .* with --field"):
        atlas.import_rows(tmp_path / "x.csv", columns=columns)
    with pytest.raises(ConfigError, match="no column 'nme'; nearest: name"):
        atlas.import_rows(tmp_path / "x.csv", columns={"nme": "Model"}, defaults=defaults)


def test_bibtex_becomes_drafts(atlas, tmp_path):
    (tmp_path / "x.bib").write_text(
        "@article{k1, author={Doe, Jane and Roe, R}, title={{BarBERT}: On bars}, journal={Nature}, year={2024}, "
        "doi={10.1038/x1}}"
    )
    (row,) = atlas.import_rows(tmp_path / "x.bib", defaults={"fields": ["physics"], "modalities": ["text"]})
    assert (row.name, row.venue, row.first_author, row.paper_url) == (
        "BarBERT",
        "Nature 2024",
        "Doe",
        "https://doi.org/10.1038/x1",
    )
    (tmp_path / "bad.bib").write_text("@article{k1, title={unclosed")
    with pytest.raises(DataError, match=r"bad.bib: not BibTeX"):
        atlas.import_rows(tmp_path / "bad.bib")


def test_an_epoch_table_becomes_drafts_and_keeps_its_other_columns(atlas, tmp_path):
    (tmp_path / "e.csv").write_text(
        "Model,Domain,Task,Publication date,Parameters,Training dataset,Model accessibility,Link,Confidence\n"
        'ProtX,Biology,"Proteins, Folding",2024-05-01,1.5e9,UniRef,Open weights,https://arxiv.org/abs/2405.01234,High\n'
    )
    (row,) = atlas.import_rows(tmp_path / "e.csv")
    assert (row.fields, row.modalities, row.n_params) == (["biology_medicine"], ["protein"], [1_500_000_000])
    assert (row.first_public, row.arxiv_id, row.evaluation_tasks) == ("2024-05", "2405.01234", ["Proteins", "Folding"])
    assert row.extra == {"Model accessibility": "Open weights", "Confidence": "High"}


def test_import_is_all_or_nothing(atlas, tmp_path, new_row):
    rows = [json.dumps(new_row), json.dumps({**new_row, "fields": ["alchemy"]})]
    (tmp_path / "x.jsonl").write_text("\n".join(rows))
    with pytest.raises(DataError, match="line 2, fields"):
        atlas.import_rows(tmp_path / "x.jsonl")
    assert "my-smol" not in Atlas.load(atlas.args)
