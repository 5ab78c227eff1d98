"""Triples that a model lists become facts; what is no triple about the text is dropped."""

from __future__ import annotations

import pytest

from evolvent.errors import NothingSelectedError
from evolvent.methods.law.documents import EXAMPLE, facts_in, triples
from evolvent.models.protocol import Completion

TEXT = "Lisbon is the capital of Portugal. The Tagus flows through Lisbon into the Atlantic. 1984 is a novel."


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("Lisbon | is the capital of | Portugal.", [("Lisbon", "is the capital of", "Portugal")]),
        ("- the tagus | flows through | Lisbon", [("the tagus", "flows through", "Lisbon")]),
        ("3. **Lisbon** | lies on | the Tagus", [("Lisbon", "lies on", "the Tagus")]),
        ("1984 | was written by | George Orwell", [("1984", "was written by", "George Orwell")]),
        ("Lisbon | Portugal", []),
        ("Lisbon | is | in | Portugal", []),
        ("Lisbon | | Portugal", []),
        ("Lisbon | is | .", []),
        ("Paris | is the capital of | France", []),  # not in the text
        ("Lisbon | has {} | hills", []),
        ("", []),
    ],
)
def test_a_line_is_a_triple_about_the_text_or_it_is_dropped(line, kept):
    assert triples(line, TEXT) == kept


def test_equal_lines_count_once_and_twenty_lines_at_most():
    answer = "\n".join(["Lisbon | is in | Portugal"] * 2 + [f"Lisbon | has hill | {i}" for i in range(30)])
    assert len(triples(answer, TEXT)) == 19


class Reader:
    """Answers with what stands between the marks of the passage that it is asked about."""

    name = "reader"

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers, self.asked = answers, []

    def generate(self, prompts, sampling):
        self.asked += prompts
        said = [next((a for word, a in self.answers.items() if word in p[-1]["content"]), "none") for p in prompts]
        return [[Completion(text, (), "stop")] for text in said]


def test_facts_of_all_passages_have_prompts_that_the_object_ends():
    reader = Reader({"Lisbon": "Lisbon | is the capital of | Portugal", "Tagus": "the river | flows into | the sea"})
    facts = facts_in([TEXT, "Lisbon is old. So they say.", "The Tagus? It is the river of Toledo."], reader)
    assert [(f.subject, f.prompt, f.object) for f in facts] == [
        ("Lisbon", "{} is the capital of", "Portugal"),
        ("the river", "{} flows into", "the sea"),
    ]
    assert len(reader.asked) == 3
    assert reader.asked[0][1] == {"role": "assistant", "content": EXAMPLE[1]}
    with pytest.raises(NothingSelectedError, match="reader listed no triple about 1 passages"):
        facts_in(["Nothing of the kind."], reader)


def test_the_example_of_the_prompt_is_of_the_form_that_is_read():
    assert len(triples(EXAMPLE[1], EXAMPLE[0])) == 2
