"""Reading answers out of text, and how tasks render and mark questions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolvent.data.parsing import parse_answer, parse_choice, parse_number, squash
from evolvent.data.records import Question
from evolvent.data.tasks import ChoiceTask, NumericTask, TextTask
from evolvent.errors import ConfigError, DataError

CHOICES = ("negative", "neutral", "positive")
SENTIMENT = Question(id="1", question="Profit rose.", choices=CHOICES, answer="positive", meta={"year": "2008"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Answer: B", 1),
        ("answer: **B**.", 1),
        ("The answer is (c).", 2),
        ("First I thought Answer: A. But then Answer: B", 1),
        ("Answer: neutral", 1),
        ("Answer: Positive.", 2),
        ("Answer: B. neutral", 1),
        ("Answer: Z", None),
        ("Answer:", None),
        ("", None),
        ("I cannot say.", None),
        ("neutral", 1),
        ("Answer: ne", None),  # negative or neutral
        ("Answer: neu", 1),
        ("Answer: [A]", 0),
    ],
)
def test_choices_are_read_by_letter_text_or_unique_beginning(text, expected):
    assert parse_choice(text, CHOICES) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Answer: 3.14", 3.14),
        ("It is 1,234,567 in all. Answer: $1,234.50.", 1234.5),
        ("Answer: -2e-3", -0.002),
        ("Answer: 25%", 25.0),
        ("first 3, then 4 apples", 4.0),
        ("Answer: __import__('os')", None),
        ("none", None),
        ("Answer: −7", -7.0),
        ("Answer: E7", 7.0),
        ("it is .5", 0.5),
        ("page 3.", 3.0),
        ("Answer: e", None),
        ("1e999", None),  # more than a number can hold
    ],
)
def test_numbers_keep_their_decimals_and_nothing_is_evaluated(text, expected):
    assert parse_number(text) == expected


def test_only_the_line_of_the_last_answer_counts():
    assert parse_answer("Answer: one\nAnswer: `two`\nbecause") == "two"
    assert parse_answer("no such word") is None


@given(st.text(max_size=60))
def test_no_text_breaks_a_parser(text):
    index = parse_choice(text, CHOICES)
    assert index is None or 0 <= index < 3
    parse_number(text)
    assert squash(squash(text)) == squash(text)


@given(st.text(alphabet="0123456789eE.,+-−% $:answer\n", max_size=30))
def test_no_jumble_of_digits_breaks_the_number_parser(text):
    number = parse_number(text)
    assert number is None or math.isfinite(number)


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["{}", "The answer is {}.", "so: **{}**"]))
def test_a_number_that_is_written_is_read(number, words):
    assert parse_number(words.format(number)) == number


@given(st.sampled_from(CHOICES))
def test_what_a_task_writes_it_reads(answer):
    for style in ("words", "letters"):
        task = ChoiceTask(style=style)
        assert task.parse(task.completion(SENTIMENT, answer), SENTIMENT) == answer


def test_the_style_follows_the_data():
    shared = [SENTIMENT, SENTIMENT.model_copy(update={"id": "2"})]
    assert ChoiceTask().fitted(shared).style == "words"
    other = SENTIMENT.model_copy(update={"id": "2", "choices": ("one", "two"), "answer": "one"})
    assert ChoiceTask().fitted([SENTIMENT, other]).style == "letters"
    with pytest.raises(DataError, match="row 9: no options"):
        ChoiceTask().fitted([Question(id="9", question="?")])


def test_letters_list_the_options_and_follow_their_order():
    task = ChoiceTask(style="letters")
    assert task.prompt(SENTIMENT) == "Question: Profit rose.\nA. negative\nB. neutral\nC. positive\nAnswer:"
    assert task.options(SENTIMENT) == (" A", " B", " C")
    order = [2, 0, 1]
    assert "A. positive\nB. negative" in task.prompt(SENTIMENT, order=order)
    assert task.options(SENTIMENT, order=order) == (" B", " C", " A")


def test_demonstrations_come_before_the_question_most_similar_last():
    task = ChoiceTask(style="words", instruction="Judge.", template="News: {{ question }}\nTopic:")
    shown = [SENTIMENT.model_copy(update={"question": t}) for t in ("far", "near")]
    assert task.prompt(SENTIMENT, demonstrations=shown) == (
        "Judge.\n\nNews: far\nTopic: positive\n\nNews: near\nTopic: positive\n\nNews: Profit rose.\nTopic:"
    )
    chat = task.model_copy(update={"chat": True}).prompt(SENTIMENT, demonstrations=shown)
    assert [m["role"] for m in chat] == ["system", "user"]
    assert "near" in chat[0]["content"]


def test_templates_see_every_column_and_a_missing_one_is_named():
    task = TextTask(template="{{ year }}: {{ question }}\nAnswer:")
    assert task.prompt(SENTIMENT) == "2008: Profit rose.\nAnswer:"
    with pytest.raises(ConfigError, match=r"template .*\{\{ quest"):
        TextTask(template="{{ question")
    with pytest.raises(
        ConfigError, match=r"row 1: 'title' is undefined; a template may use context, options, question"
    ):
        TextTask(template="{{ title }}\nAnswer:").prompt(SENTIMENT)


def test_there_are_no_more_options_than_letters():
    many = SENTIMENT.model_copy(update={"choices": tuple(f"a long option {i}" for i in range(27)), "answer": None})
    with pytest.raises(
        DataError, match='row 1: 27 options, and there are 26 letters to answer with; give style="words"'
    ):
        ChoiceTask().fitted([many])
    assert ChoiceTask(style="words").fitted([many]).options(many)[26] == " a long option 26"


def test_wordings_differ_and_ask_for_the_same_cue():
    task = ChoiceTask(style="words")
    prompts = {task.prompt(SENTIMENT, wording=w) for w in range(3)}
    assert len(prompts) == 3
    assert all(p.rstrip(":").lower().endswith("answer") for p in prompts)


def test_a_fixed_prefix_is_taken_off():
    task = TextTask(strip_prefix="Judge this:\n")
    question = SENTIMENT.model_copy(update={"question": "Judge this:\nProfit rose."})
    assert task.prompt(question) == "Question: Profit rose.\nAnswer:"


def test_numbers_match_within_one_percent_and_texts_by_whole_words():
    numbers, texts = NumericTask(), TextTask()
    assert numbers.matches("100", "100.9")
    assert not numbers.matches("100", "102")
    assert not numbers.matches("3.14", "314")
    assert texts.matches("The Paris", "paris")
    assert not texts.matches("art", "party")
    assert numbers.cluster(["1.000", None, "1.001", "2"]) == [0, -1, 0, 1]


def test_the_judge_sees_the_proposed_answers():
    prompt = ChoiceTask(style="letters").judge_prompt(SENTIMENT, ["neutral", "positive"], ["flat", ""])
    assert "- neutral (flat)\n- positive\n" in prompt
    assert prompt.endswith("Answer:")
    chat = ChoiceTask(style="letters", chat=True).judge_prompt(SENTIMENT, ["neutral"])
    assert "- neutral" in chat[-1]["content"]


def test_rows_without_choices_get_the_labels_or_the_answers_that_occur():
    rows = [Question(id=str(i), question=f"row {i}", answer=("red", "blue")[i % 2]) for i in range(4)]
    raw = Question(id="r", question="no answer")
    fitted = ChoiceTask().fitted([*rows, raw])
    assert fitted.labels == ("blue", "red")
    assert [q.choices for q in fitted.completed([rows[0], raw])] == [("blue", "red")] * 2
    given = ChoiceTask(labels=("red", "blue", "green")).fitted([*rows, raw])
    assert given.completed([raw])[0].choices == ("red", "blue", "green")
    assert given.completed([SENTIMENT]) == [SENTIMENT]


def test_answers_that_hardly_recur_are_no_label_set():
    names = [Question(id=str(i), question="who?", answer=f"person {i}") for i in range(6)]
    with pytest.raises(DataError, match="row 0: no options"):
        ChoiceTask().fitted(names)


def test_an_answer_outside_the_labels_names_its_row():
    with pytest.raises(DataError, match="row 7: the answer 'pink' is none of"):
        ChoiceTask(labels=("red", "blue")).fitted([Question(id="7", question="?", answer="pink")])
