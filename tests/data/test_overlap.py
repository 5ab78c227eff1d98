"""The data gate: what it removes, what it counts, and what it must leave alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evolvent.data.overlap import NEAR_DUPLICATE, data_gate, normalize_text, text_key
from evolvent.data.records import HIDDEN_ANSWER, Question


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


texts = st.lists(st.sampled_from(["one", "One!", "two", "three", "  THREE", "four", "five", "!!!", "???"]), max_size=8)


@given(texts, texts, texts, st.booleans())
def test_whatever_comes_in_nothing_is_left_in_two_places(labeled, unlabeled, test, keep):
    given_labeled = [question(t, "yes", id=f"l{i}") for i, t in enumerate(labeled)]
    given_raw = [question(t, id=f"u{i}") for i, t in enumerate(unlabeled)]
    tested = [question(t, "no", id=f"t{i}") for i, t in enumerate(test)]
    kept, raw, left, report = data_gate(given_labeled, given_raw, tested, keep_overlap=keep)
    keys = [{text_key(q.question) for q in rows} for rows in (kept, raw, left)]
    assert (len(keys[0]), len(keys[1])) == (len(kept), len(raw))  # no duplicates
    assert not keys[0] & keys[1]
    if not keep:
        assert not (keys[0] | keys[1]) & keys[2]
    assert left == tested
    # Every row is accounted for.
    removed = 0 if keep else report.overlap_labeled_test
    assert len(kept) + report.duplicates["labeled"] + removed == len(labeled)
    removed = report.overlap_labeled_unlabeled + (0 if keep else report.overlap_unlabeled_test)
    assert len(raw) + report.duplicates["unlabeled"] + removed == len(unlabeled)
    # What is kept is the first of its kind, in the given order.
    assert [q.id for q in kept] == sorted((q.id for q in kept), key=lambda name: int(name[1:]))
    first = {text_key(q.question): q.id for q in reversed(given_labeled)}
    assert all(first[text_key(q.question)] == q.id for q in kept)
    assert bool(report.warnings) == bool(
        any(report.duplicates.values())
        or report.overlap_labeled_test
        or report.overlap_unlabeled_test
        or report.overlap_labeled_unlabeled
        or report.missing_classes
    )


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=10, max_size=14).map(" ".join), min_size=2, max_size=8))
def test_near_duplicates_are_at_least_as_alike_as_promised(rows):
    """Pairs that MinHash reports are checked exactly; a pair that shares nothing is never one of them."""
    given_rows = [question(t, "yes", id=f"l{i}") for i, t in enumerate(rows[:-1])]
    tested = question(rows[-1], "no", id="t")
    kept, *_, report = data_gate(given_rows, [], [tested])
    text = {q.id: q.question for q in kept}

    def shingles(value):
        words = normalize_text(value).split()
        return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}

    for name, other in report.near_duplicates:
        mine, theirs = shingles(text[name]), shingles(tested.question)
        assert other == "t"
        assert len(mine & theirs) / len(mine | theirs) >= NEAR_DUPLICATE


def test_the_context_is_part_of_a_question():
    one = question("what?", "yes", id="1", context="a passage")
    other = question("what?", "no", id="2", context="another passage")
    kept, *_, report = data_gate([one, other], [question("raw")])
    assert kept == [one, other]
    assert report.conflicts == 0


def test_hidden_answers_neither_conflict_nor_choose_between_equal_rows():
    raw = [question("raw", id=str(i), meta={HIDDEN_ANSWER: a}) for i, a in enumerate(["yes", "no"])]
    _, kept, _, report = data_gate([question("a", "yes"), question("b", "no")], raw)
    assert [q.id for q in kept] == ["0"]
    assert report.conflicts == 0


def test_a_class_without_labels_is_told_by_the_choices_or_by_the_caller():
    labeled = [question("a", "yes")]
    assert data_gate(labeled, [])[-1].missing_classes == ["no"]
    assert data_gate(labeled, [], labels=["yes", "no", "maybe"])[-1].missing_classes == ["no", "maybe"]
    own = [Question(id=str(i), question=f"q{i}", choices=(f"a{i}", f"b{i}"), answer=f"a{i}") for i in range(2)]
    assert data_gate(own, [])[-1].missing_classes == []  # options of their own are no classes


def test_a_real_leak_between_real_files_is_found(shared_data):
    """The MMLU splits of the paper share 14 questions between labelled and test rows."""
    from evolvent.data.readers import read_questions

    folder = shared_data / "semievol" / "mmlu"
    labeled, test = (read_questions(folder / f"{n}.csv", skip_bad_rows=True) for n in ("labeled", "test"))
    kept, _, _, report = data_gate(labeled, [], test)
    exact = {q.question for q in labeled} & {q.question for q in test}
    assert len(exact) >= 14
    assert report.overlap_labeled_test >= len(exact)
    assert not exact & {q.question for q in kept}
