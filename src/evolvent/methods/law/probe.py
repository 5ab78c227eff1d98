"""What a model knows: whether it says the object after a prompt, in other words, and in a chat."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evolvent.data.records import Fact
from evolvent.methods.law.wordings import check_length, object_tokens
from evolvent.models.batching import run_batches, token_budget_batches
from evolvent.models.local import LocalModel
from evolvent.models.prefixes import Tokens, in_chunks, length_of, past
from evolvent.models.protocol import Prompt, Sampling

SHORT_OBJECT = 3  # characters up to which an object must be a word of its own, not a part of one


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What a model says of one fact.

    Attributes:
        id: of the fact.
        known: by its prompt.
        probability: of the object's first token after the prompt.
        paraphrases: for each paraphrase, whether the object comes.
        chat: whether the object is in the answer to the fact's question; None without a question or chat template.
        answer: that answer, or with probe_mode "generate" the prompt's continuation.
    """

    id: str
    known: bool
    probability: float
    paraphrases: tuple[bool, ...] = ()
    chat: bool | None = None
    answer: str = ""

    @property
    def anywhere(self) -> bool:
        """Known by prompt, by a paraphrase, or in the chat."""
        return self.known or any(self.paraphrases) or bool(self.chat)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Knowledge:
        """Of what :meth:`to_dict` made."""
        return cls(**{**stored, "paraphrases": tuple(stored["paraphrases"])})


def probe(
    model: LocalModel,
    facts: Sequence[Fact],
    *,
    paraphrases: bool = True,
    chat: bool = True,
    mode: str = "rank",
    max_new_tokens: int = 12,
    margin: float = 0.0,
) -> list[Knowledge]:
    """Ask for every fact.

    Args:
        model: who is asked.
        facts: what is asked for.
        paraphrases: ask in other words too.
        chat: ask the questions through the chat template too (greedy answers).
        mode: "rank": the object's first token is the most probable one; "generate": the object is in the greedy text.
        max_new_tokens: of generated texts.
        margin: nats below the best token at which an object still counts as known ("rank").

    Raises:
        ModelError: a prompt is longer than the model's context; names the fact.
    """
    prompts = [(i, p) for i, fact in enumerate(facts) for p in _prompts(fact, paraphrases)]
    objects = [object_tokens(model, fact) for fact in facts]
    contexts = [tuple(model.encode(p)) for _, p in prompts]
    for (i, _), context in zip(prompts, contexts, strict=True):
        check_length(model, facts[i], context)
    hits, probabilities = ranks(model, contexts, [objects[i] for i, _ in prompts], margin=margin)
    by_fact: list[list[tuple[bool, float]]] = [[] for _ in facts]
    for (i, _), hit, probability in zip(prompts, hits.tolist(), probabilities.tolist(), strict=True):
        by_fact[i].append((hit, probability))
    said = [""] * len(facts)
    known = [rows[0][0] for rows in by_fact]
    if mode == "generate":
        completions = model.generate([p for _, p in _firsts(prompts)], Sampling(max_tokens=max_new_tokens))
        said = [c[0].text for c in completions]
        known = [mentions(text, fact) for text, fact in zip(said, facts, strict=True)]
    chats: list[bool | None] = [None] * len(facts)
    if chat and getattr(model.tokenizer, "chat_template", None):
        asked = [i for i, fact in enumerate(facts) if fact.question]
        answers = chat_answers(model, [facts[i] for i in asked], max_new_tokens)
        for i, answer in zip(asked, answers, strict=True):
            chats[i], said[i] = mentions(answer, facts[i]), answer
    return [
        Knowledge(fact.id, known[i], by_fact[i][0][1], tuple(hit for hit, _ in by_fact[i][1:]), chats[i], said[i])
        for i, fact in enumerate(facts)
    ]


def chat_answers(model: LocalModel, facts: Sequence[Fact], max_new_tokens: int) -> list[str]:
    """Greedy answers to the facts' questions."""
    prompts: list[Prompt] = [
        [{"role": "user", "content": (f.question or "").replace("{}", f.subject, 1)}] for f in facts
    ]
    return [c[0].text for c in model.generate(prompts, Sampling(max_tokens=max_new_tokens))] if prompts else []


@torch.inference_mode()
def ranks(
    model: LocalModel, contexts: Sequence[Tokens], objects: Sequence[Sequence[int]], *, margin: float = 0.0
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Whether one of the object tokens is (within `margin`) the most probable next one, and their probability."""
    hits = np.zeros(len(contexts), dtype=bool)
    probabilities = np.zeros(len(contexts))
    rows_of: dict[Tokens, list[int]] = {}
    for i, context in enumerate(contexts):
        rows_of.setdefault(context, []).append(i)
    for chunk in in_chunks(list(rows_of), 16 * model.max_batch_tokens):
        behind = model.shared_prefixes(chunk)

        def run(batch: list[int], chunk: Sequence[Any] = chunk, behind: Sequence[Any] = behind) -> None:
            rows = [behind[b] for b in batch]
            cache, mask = past(rows, model.device)
            tails = [chunk[b][length_of(p) :] for b, p in zip(batch, rows, strict=True)]
            log_probs = model.forward(tails, cache if any(rows) else None, mask, 1)[:, -1].log_softmax(-1)
            for b, row in zip(batch, log_probs, strict=True):
                for i in rows_of[chunk[b]]:
                    mine = row[list(objects[i])]
                    hits[i] = bool(mine.max() >= row.max() - margin)
                    probabilities[i] = float(mine.exp().sum())

        lengths = [len(c) - length_of(p) for c, p in zip(chunk, behind, strict=True)]
        run_batches(token_budget_batches(lengths, model.max_batch_tokens), run)
    return hits, probabilities


def mentions(text: str, fact: Fact) -> bool:
    """Whether a text names the object; a short object, such as a chemical symbol, must stand alone, in its own case."""
    for said in (fact.object, *fact.aliases):
        if len(said) <= SHORT_OBJECT:
            if re.search(rf"(?<!\w){re.escape(said)}(?!\w)", text):
                return True
        elif said.casefold() in text.casefold():
            return True
    return False


def filled(template: str, fact: Fact) -> str:
    """A prompt with its subject, without spaces at its end."""
    return template.replace("{}", fact.subject, 1).rstrip()


def _prompts(fact: Fact, paraphrases: bool) -> list[str]:
    return [filled(p, fact) for p in (fact.prompt or "", *(fact.paraphrases if paraphrases else ()))]


def _firsts(prompts: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    return [p for n, p in enumerate(prompts) if n == 0 or prompts[n - 1][0] != p[0]]
