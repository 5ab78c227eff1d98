"""How much of the passages a model knows without them, and how far it has moved elsewhere."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import torch

from evolvent.errors import DataError
from evolvent.evaluation.metrics import exact_match, squad_f1
from evolvent.methods.selfparam.pairs import QAPair, contains
from evolvent.methods.selfparam.teacher import Format
from evolvent.models.distributions import token_distributions
from evolvent.models.local import LocalModel
from evolvent.models.protocol import LanguageModel, Prompt, Sampling

PIECES_AT_ONCE = 8  # of general text whose whole distributions are in memory


@dataclass(frozen=True)
class Answers:
    """What a model answered, and how right it is; one value a question, in their order."""

    texts: list[str]
    f1: list[float]
    exact: list[float]
    contains: list[float]

    @classmethod
    def of(cls, texts: Sequence[str], pairs: Sequence[QAPair]) -> Self:
        """Scored against the pairs' answers: SQuAD F1 and exact match, and whether the answer occurs in the text."""
        gold = [[pair.answer] for pair in pairs]
        return cls(
            list(texts),
            [squad_f1(t, g) for t, g in zip(texts, gold, strict=True)],
            [exact_match(t, g) for t, g in zip(texts, gold, strict=True)],
            [float(contains(t, g[0])) for t, g in zip(texts, gold, strict=True)],
        )

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote."""
        return cls(**json.loads(path.read_text()))


@dataclass(frozen=True, slots=True)
class Drift:
    """How a model predicts general text.

    Attributes:
        nll: nats per token of the text.
        kl: KL(original || model) per token, in nats, over the stored tokens and the tail.
    """

    nll: float
    kl: float

    @property
    def perplexity(self) -> float:
        """Per token."""
        return math.exp(self.nll)


def question_prompt(pair: QAPair, form: Format) -> Prompt:
    """The question without its passage."""
    if form == "plain":
        return f"Question: {pair.question}\nAnswer:"
    return [{"role": "user", "content": pair.question}]


def answer(model: LanguageModel, prompts: Sequence[Prompt], *, max_tokens: int) -> list[str]:
    """Greedy answers, up to the first line's end."""
    done = model.generate(prompts, Sampling(max_tokens=max_tokens, stop=("\n",)))
    return [completions[0].text.strip() for completions in done]


def answered_exactly(model: LocalModel, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[bool]:
    """Whether greedy decoding after each row's question would give just its answer; nothing is generated.

    Args:
        model: local weights.
        rows: token ids of question and answer.
    """
    return [bool(row.greedy.all()) for row in token_distributions(model, rows, top_k=1)]


def drift(model: LocalModel, pieces: Sequence[tuple[int, ...]], original: Mapping[str, torch.Tensor]) -> Drift:
    """Measure on pieces of general text against what :func:`original_predictions` stored of the model before."""
    from evolvent.training.distillation import divergence

    divergences, nll = [], []
    for start in range(0, len(pieces), PIECES_AT_ONCE):
        batch = pieces[start : start + PIECES_AT_ONCE]
        rows = token_distributions(model, [(t[:1], t[1:]) for t in batch], top_k=None)
        for index, row in enumerate(rows, start):
            divergences.append(divergence(row.log_probs, original[f"ids/{index}"], original[f"log_probs/{index}"]))
            nll.append(-row.gold)
    return Drift(float(torch.cat(nll).mean()), float(torch.cat(divergences).mean()))


def original_predictions(model: LocalModel, pieces: Sequence[tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """The top 64 predictions of every token of the pieces, and the log-probabilities of those that follow."""
    rows = token_distributions(model, [(t[:1], t[1:]) for t in pieces], top_k=64)
    stored = {"gold": torch.cat([row.gold for row in rows])}
    for index, row in enumerate(rows):
        assert row.ids is not None
        stored |= {f"ids/{index}": row.ids, f"log_probs/{index}": row.log_probs}
    return stored


def undrifted(original: Mapping[str, torch.Tensor]) -> Drift:
    """Where the model before stands."""
    return Drift(-float(original["gold"].mean()), 0.0)


def held_out(
    model: LocalModel, texts: Sequence[str], tokens: int, measured: int, trained: int
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Pieces of general text to measure on, and other ones to train on.

    A quarter of the texts is held out whole; of fewer than four texts, or when none of that quarter is long enough, the
    first quarter of the pieces.

    Raises:
        DataError: no text is `tokens` long.
    """
    cut = -(-len(texts) // 4)
    parts = text_pieces(model, texts[:cut], tokens, measured), text_pieces(model, texts[cut:], tokens, trained)
    if len(texts) < 4 or not parts[0]:
        pieces = [piece for text in texts for piece in text_pieces(model, [text], tokens, measured + trained)]
        cut = min(measured, -(-len(pieces) // 4))
        parts = pieces[:cut], pieces[cut : cut + trained]
    if not parts[0]:
        raise DataError(f"general text: no text of {tokens} tokens to measure on: give longer texts (--retention)")
    return parts


def text_pieces(model: LocalModel, texts: Sequence[str], tokens: int, count: int) -> list[tuple[int, ...]]:
    """At most `count` pieces of `tokens` token ids, cut out of the texts one after the other, first of each first.

    Where the tokenizer begins every text with a token of its own, each piece does so too.
    """
    cut, bos = [], model.tokenizer.bos_token_id
    start = (bos,) if bos is not None and model.encode("a")[0] == bos else ()
    for text in texts:
        ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        cut.append([(*start, *ids[i : i + tokens]) for i in range(0, len(ids) - tokens + 1, tokens)])
    rounds = max(map(len, cut), default=0)
    return [pieces[r] for r in range(rounds) for pieces in cut if r < len(pieces)][:count]


def sampled_texts(model: LanguageModel, count: int, tokens: int, seed: int) -> list[str]:
    """What the model itself writes from nothing, for when no general text is given (pseudo-rehearsal, Robins 1995)."""
    sampling = Sampling(max_tokens=tokens + 8, temperature=1.0, n=count, seed=seed)
    return [completion.text for completion in model.generate([""], sampling)[0]]
