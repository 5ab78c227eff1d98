"""What SELF-PARAM is compared with: reading the passage, finding it first, and plain fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from evolvent.data.records import Passage
from evolvent.methods.selfparam.injection import put_first
from evolvent.methods.selfparam.measure import Answers, answer
from evolvent.methods.selfparam.pairs import QAPair
from evolvent.methods.selfparam.teacher import Teacher
from evolvent.models.distributions import IMPOSSIBLE
from evolvent.models.local import LocalModel
from evolvent.training.distillation import SoftTargets
from evolvent.training.examples import EncodedExample

if TYPE_CHECKING:
    from evolvent.methods.selfparam.selfparam import SelfParam


def found_by_words(passages: Sequence[Passage], pairs: Sequence[QAPair]) -> dict[str, Passage]:
    """For each pair the passage that BM25 finds with its question."""
    import bm25s

    index = bm25s.BM25()
    index.index(bm25s.tokenize(_texts(passages), show_progress=False), show_progress=False)
    asked = bm25s.tokenize([p.question for p in pairs], show_progress=False)
    found, _ = index.retrieve(asked, k=1, show_progress=False)
    return {pair.id: passages[int(row[0])] for pair, row in zip(pairs, found, strict=True)}


def found_by_vectors(passages: Sequence[Passage], pairs: Sequence[QAPair]) -> dict[str, Passage]:
    """For each pair the passage whose MiniLM vector is nearest to that of its question."""
    from evolvent.models.embedder import TextEmbedder

    embedder = TextEmbedder()
    scores = embedder.encode([p.question for p in pairs]) @ embedder.encode(_texts(passages)).T  # (pairs, passages)
    return {pair.id: passages[int(best)] for pair, best in zip(pairs, scores.argmax(1), strict=True)}


RETRIEVERS = {"retrieval": found_by_words, "dense": found_by_vectors}
PROMPTED = ("base", "in_context", *RETRIEVERS)  # what needs no training


def prompted(method: SelfParam, name: str) -> Answers:
    """What the original model says, alone or reading a passage; no prompt is answered twice."""
    asked, model = method.asked, method.base
    if name == "base":
        return method.asked_alone(model)
    shown = RETRIEVERS[name](method.passages, asked) if name in RETRIEVERS else {}
    read = method.answers.get("in_context")
    known = dict(zip((p.id for p in asked), read.texts, strict=True)) if read else {}
    said = {p.id: known[p.id] for p in asked if p.id in known and shown[p.id].id == p.passage}
    rest = [p for p in asked if p.id not in said]
    teacher = Teacher(model, method.passages, method.pairs)
    prompts = [teacher.reading(p, method.reading, shown.get(p.id)) for p in rest]
    texts = answer(model, prompts, max_tokens=method.args.max_answer_tokens)
    said |= dict(zip((p.id for p in rest), texts, strict=True))
    return Answers.of([said[p.id] for p in asked], asked)


def hard(row: EncodedExample) -> EncodedExample:
    """The same row without the teacher: its label is learnt by cross-entropy."""
    return replace(row, targets=None)


def certain(row: EncodedExample) -> EncodedExample:
    """The same row under a teacher that is certain of the label, so that it can stand in one batch with soft rows.

    The divergence from it is the cross-entropy, up to a tail of 1e-6.
    """
    assert row.targets is not None
    log_probs = torch.full_like(row.targets.log_probs, IMPOSSIBLE)
    gold = torch.tensor(row.tokens[-row.answer_tokens :])[:, None]  # (tokens, 1)
    if row.targets.ids is None:
        return replace(row, targets=SoftTargets(None, log_probs.scatter(1, gold, 0.0)))
    log_probs[:, 0] = 0.0
    return replace(row, targets=SoftTargets(put_first(row.targets.ids, gold), log_probs))


def passage_rows(model: LocalModel, passages: Sequence[Passage], *, tokens: int = 256) -> list[EncodedExample]:
    """Rows that learn the passages themselves, in windows of at most `tokens`."""
    rows = []
    for passage in passages:
        ids = [*model.encode(""), *model.tokenizer(passage.text, add_special_tokens=False)["input_ids"]]
        for start in range(0, len(ids) - 1, tokens):
            window = tuple(ids[start : start + tokens + 1])
            rows.append(EncodedExample(window, len(window) - 1, name=passage.id))
    return rows


def _texts(passages: Sequence[Passage]) -> list[str]:
    return [f"{p.title or ''} {p.text}" for p in passages]
