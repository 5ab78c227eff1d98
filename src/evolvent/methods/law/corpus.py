"""General text: what is read of it, and what the model writes for those who have none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from evolvent.data.records import Fact
from evolvent.data.readers import numbered_rows
from evolvent.errors import DataError
from evolvent.methods.law.measurement import HELD_OUT_TEXTS
from evolvent.methods.law.wordings import PREFIX
from evolvent.models.local import LocalModel
from evolvent.models.protocol import Sampling

OPENINGS = (
    "The history of", "In the city of", "Scientists have", "The company", "In the early years", "The river",
    "According to", "The film was", "Music in the", "The law of", "Children often", "The war between", "In medicine,",
    "The economy of", "A common recipe", "The university", "In football,", "The planet", "Many animals", "The art of",
)  # fmt: skip
TOKENS = 128
SENTENCE_TOKENS = 16
TEXTS_PER_CALL = 2  # of each opening


def written_texts(model: LocalModel, tokens: int, *, seed: int) -> list[str]:
    """Texts of 128 sampled tokens each, at least `tokens` together, and enough for the held-out ones.

    Raises:
        DataError: the model writes nothing.
    """
    texts: list[str] = []
    while sum(map(len, texts)) < 3 * tokens or len(texts) < 2 * len(OPENINGS):  # a token is some 3 to 4 characters
        sampling = Sampling(max_tokens=TOKENS, temperature=1.0, n=TEXTS_PER_CALL, seed=seed + len(texts))
        found = model.generate(list(OPENINGS), sampling)
        fresh = [f"{o}{c.text}" for o, row in zip(OPENINGS, found, strict=True) for c in row if c.text.strip()]
        if not fresh:
            raise DataError("the model writes no text of its own: give a general corpus")
        texts += fresh
    return texts


def written_sentences(model: LocalModel, facts: Sequence[Fact], *, each: int, seed: int) -> list[list[str]]:
    """What the model goes on with after "This is a fact. SUBJECT": `each` continuations for every fact's subject."""
    sampling = Sampling(max_tokens=SENTENCE_TOKENS, temperature=1.0, n=each, seed=seed)
    found = model.generate([PREFIX + fact.subject for fact in facts], sampling)
    return [[c.text for c in row if c.text.strip()] for row in found]


def general_texts(
    corpus: str | Path | Iterable[str] | None, written: Callable[[], list[str]]
) -> tuple[list[str], list[str]]:
    """The texts that statistics are taken from, and the held-out ones for perplexity: the first 16.

    Args:
        corpus: a file with a column `text`, texts, or None.
        written: gives texts where there is no corpus.

    Raises:
        DataError: no column `text`, or too few texts.
    """
    if corpus is None:
        texts = written()
    elif isinstance(corpus, (str, Path)):
        texts = [str(row["text"]) for _, row in numbered_rows(corpus) if row.get("text")]
        if not texts:
            raise DataError(f"{corpus}: no column 'text'; general text is read from it")
    else:
        texts = [str(text) for text in corpus]
    if len(texts) < 2 * HELD_OUT_TEXTS:
        raise DataError(f"{len(texts)} general texts: give at least {2 * HELD_OUT_TEXTS}")
    return texts[HELD_OUT_TEXTS:], texts[:HELD_OUT_TEXTS]
