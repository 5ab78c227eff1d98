"""General text for those who have none: the model writes it."""

from __future__ import annotations

from evolvent.errors import DataError
from evolvent.models.local import LocalModel
from evolvent.models.protocol import Sampling

OPENINGS = (
    "The history of", "In the city of", "Scientists have", "The company", "In the early years", "The river",
    "According to", "The film was", "Music in the", "The law of", "Children often", "The war between", "In medicine,",
    "The economy of", "A common recipe", "The university", "In football,", "The planet", "Many animals", "The art of",
)  # fmt: skip
TOKENS = 128
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
