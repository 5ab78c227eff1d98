"""One record type for each shape of data."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

HIDDEN_ANSWER = "_hidden_answer"


class Record(BaseModel):
    """Base of all records: immutable, with whatever else the file held in `meta`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    meta: dict[str, Any] = {}


class Question(Record):
    """A question, with what is known about its answer.

    Attributes:
        id: unique within a file; a hash of the text when the file gives none.
        question: the text.
        choices: the options of a multiple-choice question.
        answer: the correct answer's text (for a choice question one of `choices`); None when unknown.
        context: a passage to read first.
        rationale: the reasoning behind the answer.
    """

    question: str
    choices: tuple[str, ...] | None = None
    answer: str | None = None
    context: str | None = None
    rationale: str | None = None

    @property
    def answer_index(self) -> int | None:
        """Position of the answer among the choices."""
        if self.choices is None or self.answer is None:
            return None
        return self.choices.index(self.answer)


class Passage(Record):
    """A text to be learnt or retrieved."""

    text: str
    title: str | None = None


class Fact(Record):
    """A (subject, relation, object) triple, and the prompts that ask for its object.

    Attributes:
        subject: what the fact is about, as it stands in the prompts.
        relation: name of the relation; facts of one relation are compared with each other.
        object: the answer.
        prompt: text with one `{}` for the subject, ending where the object begins.
        aliases: other wordings of the object.
        paraphrases: further prompts.
        question: a question with one `{}`, for chats.
    """

    subject: str
    relation: str = ""
    object: str
    prompt: str | None = None
    aliases: tuple[str, ...] = ()
    paraphrases: tuple[str, ...] = ()
    question: str | None = None


class Preference(Record):
    """A prompt with a better and a worse answer."""

    prompt: str
    chosen: str
    rejected: str
