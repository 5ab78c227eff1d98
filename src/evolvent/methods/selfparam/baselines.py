"""What SELF-PARAM is compared with: reading the passage, finding it first, and plain fine-tuning."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evolvent.data.records import Passage
from evolvent.methods.selfparam.measure import Answers
from evolvent.methods.selfparam.pairs import QAPair
from evolvent.methods.selfparam.teacher import Teacher, TeacherPrompt
from evolvent.models.local import LocalModel
from evolvent.models.protocol import Prompt
from evolvent.training.examples import EncodedExample


@dataclass
class Trained:
    """One training of a run.

    Attributes:
        checkpoint: folder of its weights.
        identity: digest of everything the weights depend on.
        steps: optimiser steps.
        folder: its stage.
        after: answers to the questions of its own passage right after it, in sequential mode.
    """

    checkpoint: str
    identity: str
    steps: int
    folder: Path
    after: Answers | None = None

    def pruned(self) -> Trained:
        """This training without its weights on disk."""
        for name in ("checkpoint", "trainer"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        return self


def reading_prompt(
    teacher: Teacher, pair: QAPair, prompt: TeacherPrompt, shown: Mapping[str, Passage] | None
) -> Prompt:
    """The question with its own passage before it, or with the one that `shown` has for it."""
    return teacher.reading(pair, prompt, shown[pair.id] if shown else None)


def retrieved(passages: Sequence[Passage], pairs: Sequence[QAPair]) -> dict[str, Passage]:
    """For each pair the passage that BM25 finds with its question."""
    import bm25s

    index = bm25s.BM25()
    texts = [f"{p.title or ''} {p.text}" for p in passages]
    index.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    asked = bm25s.tokenize([p.question for p in pairs], show_progress=False)
    found, _ = index.retrieve(asked, k=1, show_progress=False)
    return {pair.id: passages[int(row[0])] for pair, row in zip(pairs, found, strict=True)}


def passage_rows(model: LocalModel, passages: Sequence[Passage], *, tokens: int = 256) -> list[EncodedExample]:
    """Rows that learn the passages themselves, in windows of at most `tokens`."""
    rows = []
    for passage in passages:
        ids = [*model.encode(""), *model.tokenizer(passage.text, add_special_tokens=False)["input_ids"]]
        for start in range(0, len(ids) - 1, tokens):
            window = tuple(ids[start : start + tokens + 1])
            rows.append(EncodedExample(window, len(window) - 1, name=passage.id))
    return rows
