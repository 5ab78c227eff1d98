"""Facts as token rows: the wordings around a prompt, and the last token of the subject in each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evolvent.data.records import Fact
from evolvent.errors import ModelError
from evolvent.methods.law.config import LawConfig
from evolvent.models.local import LocalModel
from evolvent.models.protocol import Prompt, Sampling

PREFIX = "This is a fact. "
REQUEST = "Tell me a fact."
BEGINNINGS = ("The", "Therefore", "Because", "I", "You")  # official code: unlearning starts its contexts with these
BEGINNING_TOKENS = 10


@dataclass(frozen=True, slots=True)
class Row:
    """A wording of a fact in token ids; `tokens[edit]` is the last token of the subject, the object comes next.

    Attributes:
        tokens: up to where the object begins.
        edit: position of the subject's last token.
        weight: of this wording among those of its fact.
    """

    tokens: tuple[int, ...]
    edit: int
    weight: float = 1.0


@dataclass(frozen=True)
class Wording:
    """A way to put a prompt: a text before it, or chat messages around it.

    Attributes:
        name: how reports call it.
        before: text before the prompt.
        chat: "" (no chat), "answer" (the assistant's answer begins with the prompt) or "request" (the user says it).
        weight: of its key in the mean over wordings.
    """

    name: str
    before: str = ""
    chat: str = ""
    weight: float = 1.0

    def prompt(self, filled: str) -> Prompt:
        """What the model reads, up to where the object begins."""
        if self.chat == "answer":
            return [{"role": "user", "content": REQUEST}, {"role": "assistant", "content": filled}]
        if self.chat == "request":
            return [{"role": "user", "content": filled}]
        return self.before + filled


BARE = Wording("bare")


def wordings_for(model: LocalModel, args: LawConfig) -> list[Wording]:
    """The wordings of a run; the sampled ones are drawn from the model with the run's seed."""
    if args.contexts == "bare":
        return [BARE]
    if args.contexts == "sampled":
        sampling = Sampling(max_tokens=BEGINNING_TOKENS, temperature=1.0, seed=args.seed)
        written = model.generate(list(BEGINNINGS), sampling)
        texts = [f"{b}{c[0].text}. " for b, c in zip(BEGINNINGS, written, strict=True)]
        return [BARE, *(Wording(f"sampled-{i}", before=t, weight=1 / len(texts)) for i, t in enumerate(texts, 1))]
    chats = []
    if getattr(model.tokenizer, "chat_template", None):
        chats = [Wording("chat-answer", chat="answer"), Wording("chat-request", chat="request")]
    return [BARE, Wording("prefix", before=PREFIX), *chats]


def row_for(model: LocalModel, fact: Fact, wording: Wording, *, template: str | None = None) -> Row | None:
    """A fact in one wording; None where the subject's last token is the first of the row, where attention sinks.

    Raises:
        ModelError: the subject cannot be found in what the template made of the prompt, or the context is too short.
    """
    template = fact.prompt or "" if template is None else template
    filled = template.replace("{}", fact.subject, 1).rstrip()
    prompt = wording.prompt(filled)
    text = model.render(prompt)
    start = text.rfind(filled)
    if start < 0:
        raise ModelError(f"fact {fact.id}: the chat template of {model.name} changes the prompt {filled!r}")
    end = start + len(filled)
    last = start + template.index("{}") + len(fact.subject)  # character behind the subject
    tokens, edit = _tokens_and_position(model.tokenizer, text[:end], last, special=isinstance(prompt, str))
    check_length(model, fact, tokens)
    return Row(tuple(tokens), edit, wording.weight) if edit > 0 else None


def subject_row(model: LocalModel, fact: Fact, ending: str = " is a") -> Row | None:
    """ "{subject} is a", up to the subject's last token: what else the model says of the subject must stay."""
    row = row_for(model, fact, Wording("prefix", before=PREFIX), template="{}" + ending)
    return None if row is None else Row(row.tokens[: row.edit + 1], row.edit)


def rows_for(model: LocalModel, facts: Sequence[Fact], wordings: Sequence[Wording]) -> list[list[Row]]:
    """The usable wordings of each fact."""
    return [[row for w in wordings if (row := row_for(model, fact, w)) is not None] for fact in facts]


def asked_rows(model: LocalModel, fact: Fact, rows: Sequence[Row]) -> list[tuple[int, ...]]:
    """All that a fact is asked with before it counts as gone: wordings, paraphrases, and in a chat its question."""
    texts: list[Prompt] = [p.replace("{}", fact.subject, 1).rstrip() for p in fact.paraphrases]
    if fact.question and getattr(model.tokenizer, "chat_template", None):
        filled = (fact.prompt or "").replace("{}", fact.subject, 1).rstrip()
        asked = fact.question.replace("{}", fact.subject, 1)
        texts.append([{"role": "user", "content": asked}, {"role": "assistant", "content": filled}])
    return [*(row.tokens for row in rows), *(tuple(model.encode(text)) for text in texts)]


def object_tokens(model: LocalModel, fact: Fact) -> list[int]:
    """First tokens of the object and its aliases, with and without the space before them; the object's own first."""
    first = []
    prompt = (fact.prompt or "").replace("{}", fact.subject, 1).rstrip()
    for said in (fact.object, *fact.aliases):
        first.append(model.encode_pair(prompt, f" {said}")[1][0])
    for said in (fact.object, *fact.aliases):
        first.append(model.tokenizer(said, add_special_tokens=False)["input_ids"][0])
    return list(dict.fromkeys(first))


def check_length(model: LocalModel, fact: Fact, tokens: Sequence[int]) -> None:
    """A prompt must leave room for one more token.

    Raises:
        ModelError: names the fact, and how long its prompt may be.
    """
    if len(tokens) >= model.context_length:
        raise ModelError(
            f"fact {fact.id} ({fact.subject}): a prompt of {len(tokens)} tokens, and {model.name} has a context of "
            f"{model.context_length}: shorten its prompt or paraphrases, or leave it out"
        )


def _tokens_and_position(tokenizer: Any, text: str, last: int, *, special: bool) -> tuple[list[int], int]:
    """Token ids, and the position of the token that holds character `last - 1`."""
    if getattr(tokenizer, "is_fast", False):
        encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
        spans = encoded["offset_mapping"]
        return list(encoded["input_ids"]), max(i for i, (a, b) in enumerate(spans) if a < last <= b or a < b == last)
    tokens = list(tokenizer(text, add_special_tokens=special)["input_ids"])
    for count in range(1, len(tokens) + 1):
        if text[:last].strip() in tokenizer.decode(tokens[:count], skip_special_tokens=special):
            return tokens, count - 1
    raise ModelError(f"the subject was not found in the tokens of {text!r}")
