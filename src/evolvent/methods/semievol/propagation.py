"""Bi-level propagation: from labelled rows into the weights (S1) and into the context (S2)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from evolvent.data.records import Question
from evolvent.data.tasks import Task
from evolvent.methods.semievol.config import SemiEvolConfig
from evolvent.models.protocol import LanguageModel, Prompt
from evolvent.training.config import FineTuneConfig
from evolvent.training.examples import TrainingExample

OPTION_TOKENS = 32  # room that the longest option may take

_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # Thai ... CJK
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+|[^\w\s]")


def supervised_examples(task: Task, labeled: Sequence[Question]) -> list[TrainingExample]:
    """Labelled rows as they are learnt: the bare question, no demonstrations, loss on the answer only."""
    return [
        TrainingExample(task.prompt(q), task.completion(q, q.answer or ""), name=f"labeled row {q.id}") for q in labeled
    ]


def warmup_training(args: SemiEvolConfig, *, rows: int) -> FineTuneConfig:
    """S1: two epochs, but at least `min_steps` steps."""
    training = training_settings(args)
    steps = max(args.min_steps, training.model_copy(update={"epochs": args.warmup_epochs}).total_steps(rows))
    return training.model_copy(update={"steps": steps, "learning_rate": args.peak_lr})


def training_settings(args: SemiEvolConfig) -> FineTuneConfig:
    """What every training of a run has in common."""
    return FineTuneConfig(
        peft=args.peft,
        lora_r=args.lora_r,
        lora_alpha=args.lora_alpha,
        target_modules=args.target,
        trainable_layers=args.trainable_layers,
        batch_size=args.batch_size,
        micro_batch_size=args.micro_batch_size,
        warmup_ratio=args.warmup_ratio,
        max_length=args.max_length,
        label_smoothing=args.label_smoothing,
        precision=args.precision,
        save_steps=args.save_steps,
        seed=args.seed,
    )


class Retriever(Protocol):
    """Finds the labelled rows that are most like a question."""

    def similarities(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Similarity (texts, labelled rows)."""
        ...


class DenseRetriever:
    """Cosine of unit embeddings: exact, so fit for up to some 200,000 labelled rows.

    Args:
        corpus: texts of the labelled rows.
        folder: an encoder; None is the embedded MiniLM.
    """

    def __init__(self, corpus: Sequence[str], folder: str | Path | None = None) -> None:
        from evolvent.models.embedder import TextEmbedder

        self.embedder = TextEmbedder(folder)
        self.vectors = self.embedder.encode(corpus)

    def similarities(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Cosine (texts, labelled rows)."""
        return np.asarray(self.embedder.encode(texts) @ self.vectors.T)


class BM25Retriever:
    """Okapi BM25 over words, numbers and symbols, of one character too.

    Nothing is left out as a stop word: rarity decides what a word is worth, in any language. Scripts that write no
    spaces count character by character.

    Args:
        corpus: texts of the labelled rows.
    """

    def __init__(self, corpus: Sequence[str]) -> None:
        import bm25s

        self.index = bm25s.BM25()
        documents = [_words(text) or [""] for text in corpus]  # BM25 divides by the mean length
        self.index.index(documents, show_progress=False)

    def similarities(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """BM25 scores (texts, labelled rows); 0 for rows without a common word."""
        scores = np.zeros((len(texts), int(self.index.scores["num_docs"])), dtype=np.float32)
        for row, text in enumerate(texts):
            if words := _words(text):
                scores[row] = self.index.get_scores(words)
        return scores


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def build_retriever(kind: str, labeled: Sequence[Question]) -> Retriever:
    """The retriever that `SemiEvolConfig.retriever` names, over the labelled questions."""
    corpus = [q.question for q in labeled]
    if kind == "bm25":
        return BM25Retriever(corpus)
    return DenseRetriever(corpus, None if kind in ("auto", "dense") else kind)


def nearest_labeled(
    retriever: Retriever, questions: Sequence[Question], labeled: Sequence[Question], *, count: int
) -> list[tuple[int, ...]]:
    """Positions of each question's `count` most similar labelled rows, most similar first; never the row itself."""
    similarities = retriever.similarities([q.question for q in questions]).copy()
    position = {q.id: i for i, q in enumerate(labeled)}
    for row, question in enumerate(questions):
        if question.id in position:
            similarities[row, position[question.id]] = -np.inf
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :count]
    return [tuple(int(i) for i in row if np.isfinite(similarities[r, i])) for r, row in enumerate(order)]


def fitting_prompt(
    model: LanguageModel,
    task: Task,
    question: Question,
    demonstrations: Sequence[Question],
    *,
    room: int,
    order: Sequence[int] | None = None,
    wording: int = 0,
) -> tuple[Prompt, bool]:
    """A prompt within the model's context, and whether something had to go.

    Too long: the farthest demonstrations are dropped first, then the middle of the question.

    Args:
        model: whose context counts; a server cuts nothing here, it reports an error of its own.
        task: renders the prompt.
        question: what is asked.
        demonstrations: least similar first.
        room: tokens to leave for the answer, see :func:`answer_room`.
        order: order of the options.
        wording: phrasing.
    """
    how: dict[str, Any] = {"order": order, "wording": wording}
    shown = fitting_demonstrations(model, task, question, demonstrations, room=room, **how)
    cut = len(shown) < len(demonstrations)
    prompt = task.prompt(question, demonstrations=shown, **how)
    while (excess := _excess_tokens(model, prompt, room)) > 0 and len(question.question) > 8:
        cut = True
        words = question.question
        share = excess / max(1, _tokens(model, words))
        keep = max(4, int(len(words) * (1 - share)) - 8) // 2
        question = question.model_copy(update={"question": f"{words[:keep]} … {words[len(words) - keep :]}"})
        prompt = task.prompt(question, demonstrations=shown, **how)
    return prompt, cut


def answer_room(task: Task, max_tokens: int) -> int:
    """Tokens of the context that an answer may need: an option's, or those of a free-form answer."""
    return OPTION_TOKENS if task.kind == "choice" else max_tokens


def fitting_demonstrations(
    model: LanguageModel, task: Task, question: Question, demonstrations: Sequence[Question], *, room: int, **how: Any
) -> Sequence[Question]:
    """The most similar demonstrations that leave `room` tokens; arguments as of :func:`fitting_prompt`."""
    shown = demonstrations
    while shown and _excess_tokens(model, task.prompt(question, demonstrations=shown, **how), room) > 0:
        shown = shown[1:]
    return shown


def _excess_tokens(model: LanguageModel, prompt: Prompt, room: int) -> int:
    """Tokens by which a prompt and `room` exceed the context."""
    return _tokens(model, prompt) + room - int(getattr(model, "context_length", 1 << 30))


def _tokens(model: LanguageModel, prompt: Prompt) -> int:
    """Length of a prompt; 0 behind a server, which counts for itself."""
    encode = getattr(model, "encode", None)
    return len(encode(prompt)) if encode else 0
