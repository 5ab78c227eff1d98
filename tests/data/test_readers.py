"""Files in every form that people have them, and errors that name the place."""

from __future__ import annotations

import csv
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolvent.data.exports import export_rows
from evolvent.data.files import read_jsonl
from evolvent.data.readers import read_questions
from evolvent.data.records import HIDDEN_ANSWER
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


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", b'[\n{"question": ', r"a\.json, line 2: not valid JSON"),
        ("a.json", b'["a"]', "expected a JSON list of objects"),
        ("a.json", b'{"question": "a"}', "expected a JSON list of objects"),
        ("a.jsonl", b'["a"]', r"a\.jsonl, line 1: expected a JSON object, got list"),
        ("a.parquet", b"PAR?", "not a readable Parquet file"),
        ("a.txt", b"text", r"not \.jsonl, \.json, \.csv"),
    ],
)
def test_files_that_are_not_what_they_are_called_are_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_questions(tmp_path / name)


def test_folders_and_names_that_hold_no_data_are_named(tmp_path):
    with pytest.raises(DataError, match=r"not a folder that `datasets` wrote"):
        read_questions(tmp_path)
    with pytest.raises(DataError, match=r"no-such-dataset: no such file, and no dataset of that name"):
        read_questions("no-such-dataset")


def test_several_splits_in_one_folder_must_be_told_apart(tmp_path):
    import datasets

    datasets.DatasetDict({"train": datasets.Dataset.from_list([row()])}).save_to_disk(tmp_path / "both")
    with pytest.raises(DataError, match=r"several splits \['train'\]"):
        read_questions(tmp_path / "both")
    assert len(read_questions(tmp_path / "both" / "train")) == 1


def test_what_a_row_of_parquet_does_not_have_is_missing_and_not_the_text_nan(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [*[{"question": f"q{i}", "answer": 3.0} for i in range(5)], {"question": None, "answer": float("nan")}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet, line 6, field 'question': expected a text, got nothing"):
        read_questions(tmp_path / "a.parquet")
    read = read_questions(tmp_path / "a.parquet", skip_bad_rows=True)
    assert [q.answer for q in read] == ["3"] * 5


@pytest.mark.parametrize(
    "broken", [{"messages": [{"role": "user"}]}, {"messages": "hello"}, {"messages": []}, {"prompt": 7}]
)
def test_a_broken_conversation_is_one_bad_row(broken):
    good = {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}
    with pytest.raises(DataError, match="rows, line 6, field 'question': expected a text"):
        read_questions([*[good] * 5, broken])
    assert len(read_questions([*[good] * 5, broken], skip_bad_rows=True)) == 5


def test_half_a_character_is_replaced_because_no_tokenizer_takes_it(tmp_path, tiny_model):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "goal \\ud83d", "options": ["a \\ud800", "b"], "answer": "b"}\n')
    question = read_questions(path)[0]
    assert (question.question, question.choices) == ("goal \ufffd", ("a \ufffd", "b"))
    assert tiny_model.choose([question.question], [question.choices])


def test_a_template_that_needs_another_column_names_the_row_and_the_columns():
    with pytest.raises(ConfigError, match=r"rows, line 1: 'title' is undefined; a template may use answer, document"):
        read_questions([{"document": "Long.", "answer": "yes"}], template="{{ title }} {{ document }}")


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (["0", "3"], "got '0'"),  # both ends occur, so neither convention fits
        (["7", "1"], "got '7'"),
        (["maybe", "A"], "got 'maybe'"),
    ],
)
def test_answers_that_no_convention_explains_are_named(answers, said):
    with pytest.raises(DataError, match=rf"field 'answer': expected one of \['negative'.*{said}"):
        read_questions([row(f"q{i}", a) for i, a in enumerate(answers)])


@given(st.integers(2, 9), st.data())
def test_every_way_to_write_an_answer_means_the_same(count, data):
    """Whatever the number of options, rows written with letters, from 0 or from 1 read alike."""
    options = [f"option {i}" for i in range(count)]
    right = [*range(count), *data.draw(st.lists(st.integers(0, count - 1), max_size=6))]
    for written in (
        [chr(ord("A") + i) for i in right],
        [chr(ord("a") + i) for i in right],
        [str(i) for i in right],
        [str(i + 1) for i in right],
        [options[i] for i in right],
    ):
        rows = [{"question": f"q{n}", "options": options, "answer": a} for n, a in enumerate(written)]
        assert [q.answer_index for q in read_questions(rows)] == right


def test_rows_may_have_different_numbers_of_options():
    rows = [
        {"question": "q", "options": OPTIONS[:2], "answer": "B"},
        {"question": "r", "options": OPTIONS, "answer": "C"},
    ]
    assert [q.answer for q in read_questions(rows)] == ["neutral", "positive"]
    rows[0]["answer"] = "C"
    with pytest.raises(DataError, match="line 1, field 'answer'"):
        read_questions(rows)


def test_ids_are_stable_and_unique():
    rows = [row("a"), row("a"), row("b", id=7)]
    first, second = read_questions(rows), read_questions(rows)
    assert [q.id for q in first] == [q.id for q in second]
    assert len({q.id for q in first}) == 3
    assert first[2].id == "7"


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
