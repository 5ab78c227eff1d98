"""Attacks that only ask: after demonstrations of the relation, and inside the residual stream."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evolvent.data.records import Fact
from evolvent.methods.law.decoder import Decoder, states_of
from evolvent.methods.law.probe import filled, ranks
from evolvent.methods.law.wordings import object_tokens
from evolvent.models.batching import run_batches, token_budget_batches
from evolvent.models.local import LocalModel

SHOTS = 5


def few_shot(model: LocalModel, facts: Sequence[Fact], shown: Sequence[Fact], *, seed: int = 0) -> dict[str, bool]:
    """Whether each fact's object is the most probable next token after five facts of the same relation.

    Args:
        model: who is asked.
        facts: what is asked for.
        shown: facts that may be shown; a fact never demonstrates itself.
        seed: of which are shown.

    Returns:
        fact id -> whether it came; facts of relations of which none can be shown are absent.
    """
    random = np.random.default_rng(seed)
    asked, contexts = [], []
    for fact in facts:
        same = [f for f in shown if f.relation == fact.relation and f.subject.casefold() != fact.subject.casefold()]
        chosen = [same[i] for i in random.permutation(len(same))[:SHOTS]]
        if chosen:
            lines = [f"{filled(f.prompt or '', f)} {f.object}." for f in chosen]
            asked.append(fact)
            contexts.append(tuple(model.encode("\n".join([*lines, filled(fact.prompt or "", fact)]))))
    hits, _ = ranks(model, contexts, [object_tokens(model, fact) for fact in asked])
    return {fact.id: bool(hit) for fact, hit in zip(asked, hits, strict=True)}


@torch.inference_mode()
def lens(decoder: Decoder, facts: Sequence[Fact]) -> NDArray[np.bool_]:
    """Whether the object is what the final norm and head make of each block's state after the prompt (facts, blocks).

    The logit lens of nostalgebraist (2020). The model's own last steps are used, soft-capping and all: every block
    is replaced by the state that is looked at.
    """
    model = decoder.model
    prompts = [tuple(model.encode(filled(f.prompt or "", f))) for f in facts]
    objects = [object_tokens(model, fact) for fact in facts]
    found = np.zeros((len(facts), len(decoder)), dtype=bool)

    def run(batch: list[int]) -> None:
        caught: list[Any] = []
        handles = [b.register_forward_hook(lambda _, __, out: caught.append(out)) for b in decoder.blocks]
        nothing = torch.zeros(len(batch), 0, dtype=torch.long, device=model.device)
        try:
            model.forward([prompts[i] for i in batch], None, nothing, 1)
        finally:
            for handle in handles:
                handle.remove()
        for layer, output in enumerate(caught):
            states = states_of(output)[:, -1:]
            seen = (states, *output[1:]) if isinstance(output, tuple) else states
            with decoder.starting_behind(len(decoder) - 1, partial(_given, seen)):
                best = model.forward([[model.pad_token]] * len(batch), None, nothing, 1)[:, -1].argmax(-1).tolist()
            for i, token in zip(batch, best, strict=True):
                found[i, layer] = token in objects[i]

    run_batches(token_budget_batches([len(p) for p in prompts], model.max_batch_tokens), run)
    return found


def _given(value: Any) -> Any:
    return value
