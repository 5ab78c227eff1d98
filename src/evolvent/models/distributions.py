"""What a model predicts at every token of a given text: the most probable next tokens, and how much is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from evolvent.errors import ModelError
from evolvent.models.batching import run_batches, token_budget_batches
from evolvent.models.local import HELD_BATCHES, MAX_SCORED_POSITIONS, LocalModel
from evolvent.models.prefixes import Tokens, in_chunks, length_of, past

IMPOSSIBLE = -60000.0  # least stored log-probability: float16 ends at -65504, and -inf would make 0 * inf of it


@dataclass(frozen=True, slots=True)
class TokenDistributions:
    """The predictions of `tokens` tokens, compressed to the `k` most probable ones.

    Attributes:
        ids: (tokens, k) int32, most probable first; None when the whole vocabulary is kept, in its own order.
        log_probs: (tokens, k) float16, natural, of the whole vocabulary's softmax: they do not sum to 1, and what is
            missing is the tail.
        gold: (tokens,) float32, log-probability of the token that really follows, at temperature 1.
        entropy: (tokens,) float32, nats, of the distribution as stored (after the temperature).
        greedy: (tokens,) bool, whether the token that follows is the most probable one.
    """

    ids: torch.Tensor | None
    log_probs: torch.Tensor
    gold: torch.Tensor
    entropy: torch.Tensor
    greedy: torch.Tensor

    @property
    def tail(self) -> float:
        """Mean probability per token that is not among the kept ones."""
        return float((1 - self.log_probs.float().exp().sum(-1)).clamp(min=0).mean())

    @property
    def size(self) -> int:
        """Bytes of ids and log-probabilities."""
        tensors = [self.log_probs] if self.ids is None else [self.log_probs, self.ids]
        return sum(t.numel() * t.element_size() for t in tensors)


@torch.inference_mode()
def token_distributions(
    model: LocalModel,
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    top_k: int | None = 64,
    temperature: float = 1.0,
    on_rows: Callable[[int], None] | None = None,
) -> list[TokenDistributions]:
    """Predictions of each row's target tokens after its context. What contexts share is computed once.

    Args:
        model: local weights.
        rows: (context ids, target ids), neither empty.
        top_k: tokens kept a position; None keeps the vocabulary.
        temperature: the distributions are softmax(logits / temperature).
        on_rows: called with the number of finished rows.

    Raises:
        ModelError: a row is empty on one side, or longer than the model's context; names its number.
    """
    for number, (context, target) in enumerate(rows):
        if not context or not target:
            raise ModelError(f"row {number}: context and target need at least one token each")
        if len(context) + len(target) > model.context_length:
            raise ModelError(
                f"row {number}: {len(context)} + {len(target)} tokens exceed the context of {model.context_length} "
                f"tokens of {model.name}: use shorter passages (chunk_words) or fewer demonstrations"
            )
    found: dict[int, TokenDistributions] = {}
    by_context: dict[Tokens, list[int]] = {}
    for number, (context, _) in enumerate(rows):
        by_context.setdefault(tuple(context), []).append(number)
    for contexts in in_chunks(list(by_context), HELD_BATCHES * model.max_batch_tokens):
        behind = dict(zip(contexts, model.shared_prefixes(contexts), strict=True))
        chosen = [(context, number) for context in contexts for number in by_context[context]]
        costs = [len(c) - length_of(behind[c]) + len(rows[n][1]) + length_of(behind[c]) // 8 for c, n in chosen]
        most = max(len(rows[n][1]) for _, n in chosen)

        def run(batch: list[int], chosen: list[tuple[Tokens, int]] = chosen, behind: dict = behind) -> None:  # type: ignore[type-arg]
            group = [chosen[b] for b in batch]
            prefixes = [behind[context] for context, _ in group]
            tails = [
                [*context[length_of(p) :], *rows[n][1]][:-1] for (context, n), p in zip(group, prefixes, strict=True)
            ]
            kept = max(len(rows[n][1]) for _, n in group)
            cache, mask = past(prefixes, model.device)
            logits = model.forward(tails, cache if any(prefixes) else None, mask, kept)  # (rows, kept, vocab)
            for (_, n), row in zip(group, logits, strict=True):
                target = torch.tensor(list(rows[n][1]), device=row.device)
                found[n] = _compress(row[-len(target) :], target, top_k, temperature)
            if on_rows:
                on_rows(len(found))

        most_rows = max(1, MAX_SCORED_POSITIONS // most)
        run_batches(token_budget_batches(costs, model.max_batch_tokens, max_rows=most_rows), run)
    return [found[number] for number in range(len(rows))]


def _compress(logits: torch.Tensor, target: torch.Tensor, top_k: int | None, temperature: float) -> TokenDistributions:
    """Keep the `top_k` most probable tokens of logits (tokens, vocab)."""
    plain = logits.log_softmax(-1)
    gold = plain.gather(-1, target[:, None])[:, 0]
    log_probs = plain if temperature == 1 else (logits / temperature).log_softmax(-1)
    entropy = -(log_probs.exp() * log_probs.clamp(min=-100)).sum(-1)
    ids = None
    if top_k is not None and top_k < logits.shape[-1]:
        kept, order = log_probs.topk(top_k, dim=-1)
        ids, log_probs = order.int().cpu(), kept
    stored = log_probs.clamp(min=IMPOSSIBLE).half().cpu()
    return TokenDistributions(ids, stored, gold.cpu(), entropy.cpu(), (logits.argmax(-1) == target).cpu())
