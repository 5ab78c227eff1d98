"""What a question looks like to a model, how its answer is read back, and when two answers are the same.

Prompts put the fixed text first, so that all rows share a prefix; demonstrations follow, the most similar one last,
next to the question.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, Self

import jinja2
from pydantic import BaseModel, ConfigDict, field_validator

from evolvent.data.parsing import parse_answer, parse_choice, parse_number, squash
from evolvent.data.records import Question
from evolvent.errors import ConfigError, DataError
from evolvent.models.protocol import Prompt

RELATIVE_TOLERANCE = 1e-2
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_WORD_LABELS = 10


class Task(Protocol):
    """How one kind of question is asked and marked."""

    @property
    def kind(self) -> Literal["choice", "numeric", "text"]:
        """Which kind of answer is expected."""
        ...

    @property
    def lists_options(self) -> bool:
        """Whether prompts show the options, so that their order matters."""
        ...

    def fitted(self, questions: Sequence[Question]) -> Self:
        """The task with everything that depends on the data decided, and the data checked against it."""
        ...

    def completed(self, questions: Sequence[Question]) -> list[Question]:
        """The questions with what the task knows about them and they do not say."""
        ...

    def prompt(
        self,
        question: Question,
        *,
        demonstrations: Sequence[Question] = (),
        order: Sequence[int] | None = None,
        wording: int = 0,
    ) -> Prompt:
        """What the model reads."""
        ...

    def options(self, question: Question, *, order: Sequence[int] | None = None, wording: int = 0) -> tuple[str, ...]:
        """The continuations that stand for the choices, in the order of `question.choices`."""
        ...

    def completion(self, question: Question, answer: str) -> str:
        """The continuation that gives `answer`: what is trained on."""
        ...

    def judge_prompt(self, question: Question, answers: Sequence[str], reasons: Sequence[str] = ()) -> Prompt:
        """The question together with what others answered; continued as :meth:`prompt` is."""
        ...

    def parse(self, text: str, question: Question) -> str | None:
        """The answer in a model's text; None when there is none."""
        ...

    def matches(self, a: str, b: str) -> bool:
        """Whether two answers are the same."""
        ...

    def cluster(self, answers: Sequence[str | None]) -> list[int]:
        """Number of the group of equal answers that each one belongs to; -1 for None."""
        ...

    def with_demonstrations(self, demonstrations: Mapping[str, Sequence[Question]]) -> Task:
        """The same task whose prompts show, for each question id, these solved questions."""
        ...

    def model_dump(self, *, mode: Literal["json"]) -> dict[str, Any]:
        """The task's settings."""
        ...


class _TaskBase(BaseModel):
    """What the three kinds of task share.

    Attributes:
        instruction: first words of every prompt.
        template: Jinja template of one question up to where its answer begins; variables: `question`, `context`,
            `options` (list), and the columns of the row that are none of these. Its last line ends with the cue after
            which the answer follows.
        wordings: further templates that ask the same in other words; some are derived when none are given.
        chat: ask with messages through the model's chat template instead of one string.
        strip_prefix: fixed text at the start of each question that the template replaces.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    instruction: str = ""
    template: str = "Question: {{ question }}\nAnswer:"
    wordings: tuple[str, ...] = ()
    chat: bool = False
    strip_prefix: str = ""

    @field_validator("template", "wordings")
    @classmethod
    def _compiles(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for template in (value,) if isinstance(value, str) else value:
            compiled_template(template)
        return value

    def prompt(
        self,
        question: Question,
        *,
        demonstrations: Sequence[Question] = (),
        order: Sequence[int] | None = None,
        wording: int = 0,
    ) -> Prompt:
        """What the model reads; see the class."""
        blocks = [
            self._block(d, wording=wording) + self.completion_after(d, d.answer or "", order=None)
            for d in demonstrations
        ]
        asked = self._block(question, order=order, wording=wording)
        if not self.chat:
            head = [self.instruction] if self.instruction else []
            return "\n\n".join([*head, *blocks, asked])
        system = self.instruction
        if blocks:
            system = "\n\n".join([*([system] if system else []), "Examples follow.", *blocks])
        messages = [{"role": "system", "content": system}] if system else []
        return [*messages, {"role": "user", "content": asked}]  # type: ignore[list-item]

    def completion(self, question: Question, answer: str) -> str:
        """The text that follows the prompt."""
        return (
            self.completion_after(question, answer).lstrip() if self.chat else self.completion_after(question, answer)
        )

    def completion_after(self, question: Question, answer: str, *, order: Sequence[int] | None = None) -> str:
        """The answer behind the cue of a block, with the space between them."""
        return f" {answer}"

    def parse(self, text: str, question: Question) -> str | None:
        """What follows the last "answer:", else the first line of the text."""
        answer = parse_answer(text)
        if answer is None:
            lines = text.strip().splitlines()
            answer = lines[0].strip() if lines else None
        return answer or None

    def matches(self, a: str, b: str) -> bool:
        """Equal but for case, spacing and wrapping punctuation."""
        return squash(a) == squash(b)

    def cluster(self, answers: Sequence[str | None]) -> list[int]:
        """Number of the group of equal answers that each one belongs to; -1 for None."""
        groups: list[str] = []
        numbers = []
        for answer in answers:
            if answer is None:
                numbers.append(-1)
                continue
            number = next((i for i, first in enumerate(groups) if self.matches(first, answer)), len(groups))
            if number == len(groups):
                groups.append(answer)
            numbers.append(number)
        return numbers

    @property
    def lists_options(self) -> bool:
        """Whether prompts show the options, so that their order matters."""
        return False

    def options(self, question: Question, *, order: Sequence[int] | None = None, wording: int = 0) -> tuple[str, ...]:
        """Only choice tasks have options."""
        raise ConfigError(f"a {type(self).__name__} has no options to choose from")

    def judge_prompt(self, question: Question, answers: Sequence[str], reasons: Sequence[str] = ()) -> Prompt:
        """The question together with what others answered."""
        lines = [f"- {answer}" + (f" ({reason})" if reason else "") for answer, reason in _paired(answers, reasons)]
        said = "These answers were proposed:\n" + "\n".join(lines) + "\nGive the single best final answer."
        prompt = self.prompt(question)
        if isinstance(prompt, str):
            return f"{said}\n\n{prompt}"
        return [*prompt[:-1], {"role": "user", "content": f"{prompt[-1]['content']}\n\n{said}"}]

    def with_demonstrations(self, demonstrations: Mapping[str, Sequence[Question]]) -> DemonstratedTask:
        """The same task whose prompts show, for each question id, these solved questions."""
        return DemonstratedTask(self, demonstrations)

    def fitted(self, questions: Sequence[Question]) -> Self:
        """Nothing to decide."""
        return self

    def completed(self, questions: Sequence[Question]) -> list[Question]:
        """Nothing to add."""
        return list(questions)

    def _block(self, question: Question, *, order: Sequence[int] | None = None, wording: int = 0) -> str:
        templates = (self.template, *(self.wordings or self._derived_wordings()))
        text = question.question
        if self.strip_prefix and text.startswith(self.strip_prefix):
            text = text[len(self.strip_prefix) :].lstrip()
        shown = self._listed(question, order)
        values = {**question.meta, "question": text, "context": question.context or "", "options": shown}
        return rendered(templates[wording % len(templates)], values, f"row {question.id}")

    def _derived_wordings(self) -> tuple[str, ...]:
        body, newline, cue = self.template.rpartition("\n")
        if not newline:
            return ()
        return (
            f"Read this carefully.\n{body}\n{cue}",
            f"{body}\nThe correct {cue[:1].lower()}{cue[1:]}",
        )

    def _listed(self, question: Question, order: Sequence[int] | None) -> list[str]:
        choices = list(question.choices or ())
        return [choices[i] for i in order] if order is not None else choices


class ChoiceTask(_TaskBase):
    """Multiple choice.

    Attributes:
        style: "words": the answer is the option's own text, fit for a few short labels that all rows share;
            "letters": options are listed as A, B, C ... and the answer is a letter; "auto" decides by the data.
        labels: the label set; rows that bring no choices of their own get these. When no row brings any, the answers
            that occur are the label set.
        list_options: in the words style, name the options in the prompt.

    Example:
        >>> task = ChoiceTask(style="words", template="News: {{ question }}\\nTopic:")
        >>> task.prompt(Question(id="1", question="Late goal wins cup", choices=("sport", "tech")))
        'News: Late goal wins cup\\nTopic:'
    """

    kind: Literal["choice"] = "choice"
    style: Literal["auto", "words", "letters"] = "auto"
    labels: tuple[str, ...] | None = None
    list_options: bool = False
    template: str = "Question: {{ question }}\nAnswer:"

    @property
    def lists_options(self) -> bool:
        """Whether prompts show the options, so that their order matters."""
        return self.style == "letters" or self.list_options

    def fitted(self, questions: Sequence[Question]) -> Self:
        """The task with its labels and its style decided.

        Raises:
            DataError: a row has no choices, or more than there are letters, or another answer than they allow.
        """
        task = self.model_copy(update={"labels": self.labels or _label_set(questions)})
        questions = task.completed(questions)
        for question in questions:
            if not question.choices:
                raise DataError(f"row {question.id}: no options; a choice task needs them (or labels=...)")
            if question.answer is not None and question.answer not in question.choices:
                raise DataError(f"row {question.id}: the answer {question.answer!r} is none of {question.choices}")
        style = self.style
        if style == "auto" and questions:
            first = questions[0].choices or ()
            shared = all(q.choices == first for q in questions)
            short = len(first) <= MAX_WORD_LABELS and all(len(c.split()) <= 3 for c in first)
            style = "words" if shared and short else "letters"
        for question in questions:
            if style == "letters" and len(question.choices or ()) > len(LETTERS):
                raise DataError(
                    f"row {question.id}: {len(question.choices or ())} options, and there are {len(LETTERS)} letters "
                    'to answer with; give style="words" (--style words)'
                )
        return task.model_copy(update={"style": style})

    def completed(self, questions: Sequence[Question]) -> list[Question]:
        """Rows that bring no choices of their own get the labels."""
        return [q if q.choices or not self.labels else q.model_copy(update={"choices": self.labels}) for q in questions]

    def options(self, question: Question, *, order: Sequence[int] | None = None, wording: int = 0) -> tuple[str, ...]:
        """Continuations in the order of `question.choices`, with the leading space that a string prompt needs."""
        return tuple(
            text.lstrip() if self.chat else text
            for text in (self.completion_after(question, c, order=order) for c in question.choices or ())
        )

    def completion_after(self, question: Question, answer: str, *, order: Sequence[int] | None = None) -> str:
        """The label, or the letter under which it is listed."""
        if self.style == "words":
            return f" {answer}"
        listed = self._listed(question, order)
        if answer not in listed:
            raise DataError(f"row {question.id}: answer {answer!r} is not among the options {listed}")
        return f" {LETTERS[listed.index(answer)]}"

    def parse(self, text: str, question: Question) -> str | None:
        """The choice that a text names; None when it names none."""
        index = parse_choice(text, question.choices or ())
        return None if index is None or not question.choices else question.choices[index]

    def matches(self, a: str, b: str) -> bool:
        """Choices are equal or not."""
        return a == b

    def _block(self, question: Question, *, order: Sequence[int] | None = None, wording: int = 0) -> str:
        block = super()._block(question, order=order, wording=wording)
        listed = self._listed(question, order)
        body, newline, cue = block.rpartition("\n")
        if self.style == "letters":
            lines = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, listed, strict=False))
            reply = "\nReply with the letter only." if self.chat else ""
            return f"{body}{newline}{lines}{reply}\n{cue}"
        if self.list_options:
            return f"{body}{newline}Options: {', '.join(listed)}\n{cue}"
        return block


def _label_set(questions: Sequence[Question]) -> tuple[str, ...] | None:
    """The answers that occur, where no row has choices and most answers occur again."""
    answers = [q.answer for q in questions if q.answer is not None]
    labels = tuple(sorted(set(answers)))
    if any(q.choices for q in questions) or len(labels) < 2 or 2 * len(labels) > len(answers):
        return None
    return labels


class NumericTask(_TaskBase):
    """A number as the answer; equal within a relative tolerance of 1 %."""

    kind: Literal["numeric"] = "numeric"
    instruction: str = "Answer with a number, in the form `Answer: VALUE`."

    def parse(self, text: str, question: Question) -> str | None:
        """The number as text; None when there is none."""
        number = parse_number(text)
        return None if number is None else f"{number:g}"

    def matches(self, a: str, b: str) -> bool:
        """Within 1 % of the larger one."""
        x, y = parse_number(f"answer: {a}"), parse_number(f"answer: {b}")
        if x is None or y is None:
            return False
        return abs(x - y) <= RELATIVE_TOLERANCE * max(abs(x), abs(y))


class TextTask(_TaskBase):
    """A short free text as the answer; equal when normalised texts are, or when one contains the other."""

    kind: Literal["text"] = "text"

    def matches(self, a: str, b: str) -> bool:
        """Normalised equality or containment of whole words."""
        x, y = squash(a), squash(b)
        if not x or not y:
            return x == y
        return x == y or f" {x} " in f" {y} " or f" {y} " in f" {x} "


class DemonstratedTask:
    """A task whose prompts show solved questions; everything else is the inner task's.

    Args:
        inner: the task.
        demonstrations: question id -> solved questions, most similar last.
    """

    def __init__(self, inner: Any, demonstrations: Mapping[str, Sequence[Question]]) -> None:
        self._inner = inner
        self._demonstrations = demonstrations

    def prompt(self, question: Question, **how: Any) -> Prompt:
        """The inner task's prompt with this question's demonstrations."""
        shown: Prompt = self._inner.prompt(question, demonstrations=self._demonstrations.get(question.id, ()), **how)
        return shown

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@functools.lru_cache(maxsize=256)
def compiled_template(template: str) -> jinja2.Template:
    """A Jinja template in which a missing variable is an error; render it with :func:`rendered`.

    Raises:
        ConfigError: it is not a valid template.
    """
    try:
        return jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False).from_string(template)
    except jinja2.TemplateError as error:
        raise ConfigError(f"template {template!r}: {error}") from error


def rendered(template: str, values: Mapping[str, Any], where: str) -> str:
    """A template's text for one row.

    Raises:
        ConfigError: it needs what the row does not have; names `where`, and what there is.
    """
    try:
        return compiled_template(template).render(values)
    except (jinja2.TemplateError, TypeError) as error:
        there = ", ".join(sorted(map(str, values)))
        raise ConfigError(f"template {template!r}, {where}: {error}; a template may use {there}") from error


def _paired(answers: Sequence[str], reasons: Sequence[str]) -> list[tuple[str, str]]:
    return [(a, reasons[i] if i < len(reasons) else "") for i, a in enumerate(answers)]
