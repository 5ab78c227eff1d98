"""Choosing the next tokens of continuations that grow side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from evolvent.models.protocol import Completion, Sampling


class Growing:
    """One continuation in the making.

    Args:
        tokenizer: turns its tokens into text.
        generator: its own random stream.
        limit: most tokens.
        stop: strings that end it.
    """

    def __init__(self, tokenizer: Any, generator: torch.Generator, limit: int, stop: Sequence[str]) -> None:
        self.tokenizer, self.generator, self.limit, self.stop = tokenizer, generator, limit, stop
        self.tokens: list[int] = []
        self.log_probs: list[float] = []
        self.stopped = False

    @property
    def text(self) -> str:
        """Its text so far."""
        return str(self.tokenizer.decode(self.tokens, skip_special_tokens=True))

    def grow(self, token: int, log_prob: float, stop_tokens: set[int]) -> bool:
        """Take the next token; whether there is more to come."""
        self.log_probs.append(log_prob)
        if token in stop_tokens:
            self.stopped = True
            return False
        self.tokens.append(token)
        self.stopped = bool(self.stop) and any(s in self.text for s in self.stop)
        return not self.stopped and len(self.tokens) < self.limit

    def completion(self) -> Completion:
        """What it has become, cut at the first stop string."""
        text = self.text
        cuts = [text.index(s) for s in self.stop if s in text]
        return Completion(
            text=text[: min(cuts)] if cuts else text,
            token_log_probs=tuple(self.log_probs),
            finish_reason="stop" if self.stopped else "length",
        )


def random_stream(seed: int, prompt: Sequence[int], sample: int) -> torch.Generator:
    """A random stream that depends on the seed, the prompt and the sample's number, not on the batch."""
    digest = hashlib.sha256(repr((seed, list(prompt), sample)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def pick_tokens(log_probs: torch.Tensor, generators: Sequence[torch.Generator], sampling: Sampling) -> torch.Tensor:
    """Next token of each row: greedy, or a sample by the Gumbel trick within the nucleus. (rows,)"""
    if sampling.temperature == 0:
        return log_probs.argmax(-1)
    scaled = log_probs / sampling.temperature
    if sampling.top_p < 1:
        ordered, order = scaled.log_softmax(-1).sort(-1, descending=True)
        outside = ordered.exp().cumsum(-1) - ordered.exp() >= sampling.top_p
        scaled = scaled.masked_fill(outside.scatter(1, order, outside), -torch.inf)
    uniform = torch.stack([torch.rand(scaled.shape[1], generator=g) for g in generators]).to(scaled.device)
    return (scaled - (-uniform.clamp_min(1e-20).log()).log()).argmax(-1)
