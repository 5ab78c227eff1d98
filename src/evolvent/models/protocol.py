"""What speaks: the three calls through which everything here talks to a language model.

Order of results = order of inputs, always. A prompt that cannot be answered fails alone: the call finishes
the others and raises :class:`~evolvent.errors.PromptErrors`, which holds their results.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, TypedDict, runtime_checkable


class Message(TypedDict):
    """One chat turn, as everywhere: role is "system", "user" or "assistant"."""

    role: str
    content: str


Prompt = str | Sequence[Message]
Normalization = Literal["sum", "token", "character"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to continue a prompt.

    Attributes:
        max_tokens: upper bound of generated tokens.
        temperature: 0 means greedy.
        top_p: nucleus mass in (0, 1].
        n: continuations per prompt.
        stop: strings that end a continuation; they are cut off.
        seed: with the prompt's text it fixes every random choice, whatever the batch around it.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    n: int = 1
    stop: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """One continuation: its text, the natural log-probability of each generated token, why it ended."""

    text: str
    token_log_probs: tuple[float, ...]
    finish_reason: Literal["stop", "length"]

    @property
    def mean_nll(self) -> float:
        """Mean negative log-likelihood in nats per token; nan when the server gave no log-probabilities."""
        if not self.token_log_probs:
            return math.nan
        return -sum(self.token_log_probs) / len(self.token_log_probs)


@dataclass(frozen=True, slots=True)
class Score:
    """The log-probability (nats, summed over `tokens` tokens) of a given continuation.

    `greedy` is true when each of its tokens was the most probable one.
    """

    log_prob: float
    tokens: int
    greedy: bool


@dataclass(frozen=True)
class Choice:
    """The log-probabilities of a prompt's options.

    Attributes:
        log_probs: summed log-probability of each option as a continuation of the prompt.
        token_counts: tokens of each option.
        character_counts: characters of each option.
        greedy: whether each token of the option was the most probable one.
    """

    log_probs: tuple[float, ...]
    token_counts: tuple[int, ...]
    character_counts: tuple[int, ...]
    greedy: tuple[bool, ...] = ()

    def scores(self, normalization: Normalization = "sum") -> tuple[float, ...]:
        """Log-probabilities divided by 1, by the token count or by the character count of the option."""
        lengths = {
            "sum": (1,) * len(self.log_probs),
            "token": self.token_counts,
            "character": self.character_counts,
        }[normalization]
        return tuple(lp / max(1, n) for lp, n in zip(self.log_probs, lengths, strict=True))

    def probabilities(self, normalization: Normalization = "sum") -> tuple[float, ...]:
        """Softmax over the options' scores; sums to 1."""
        scores = self.scores(normalization)
        top = max(scores)
        weights = [math.exp(s - top) for s in scores]
        total = sum(weights)
        return tuple(w / total for w in weights)

    @cached_property
    def probs(self) -> tuple[float, ...]:
        """Probabilities of the options by their summed log-probability."""
        return self.probabilities()

    @property
    def best(self) -> int:
        """Index of the most probable option; the first one of equals."""
        return self.log_probs.index(max(self.log_probs))


@runtime_checkable
class LanguageModel(Protocol):
    """A language model: local weights or a server, it makes no difference to a caller."""

    name: str

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` continuations of each prompt."""
        ...

    def loglikelihood(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """Score each given continuation of its prompt."""
        ...

    def choose(self, prompts: Sequence[Prompt], options: Sequence[Sequence[str]]) -> list[Choice]:
        """Score each prompt's own options (continuations as written: mind the leading space)."""
        ...
