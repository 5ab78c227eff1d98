"""Attention for gradients on a CPU, where torch's fused kernel is slow backwards.

Transformers' own unfused attention copies keys and values once for each query head that shares them, forwards and
backwards. Here the query heads of one key head are one matrix instead, and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

GROUPED = "grouped"


def grouped_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """softmax(QKᵀ·scaling + mask) V, as transformers' attention functions.

    Args:
        module: the attention layer.
        query: (rows, heads, columns, size).
        key, value: (rows, key heads, places, size); the number of key heads divides that of heads.
        attention_mask: (rows, 1, columns, places), added to the scores.
        scaling: default one over the square root of the size.
        dropout: of the weights, while the layer is in training.
        softcap: scores are squeezed into ± this (Gemma 2).

    Returns:
        Values (rows, columns, heads, size), and the weights (rows, heads, columns, places).
    """
    rows, heads, columns, size = query.shape
    shared, places = key.shape[1:3]
    scores = query.reshape(rows, shared, -1, size) @ key.transpose(-1, -2)
    scores = scores.view(rows, heads, columns, places) * (size**-0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if attention_mask is not None:
        scores = scores + attention_mask[..., :places]
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    weights = torch.nn.functional.dropout(weights, p=dropout, training=module.training)
    mixed = weights.view(rows, shared, -1, places) @ value
    return mixed.view(rows, heads, columns, value.shape[-1]).transpose(1, 2).contiguous(), weights


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, eager_mask)


@contextmanager
def plain_attention(module: Any, device: torch.device) -> Iterator[None]:
    """Inside, a model on a CPU that would attend with torch's fused kernel attends with :func:`grouped_attention`."""
    fused = device.type == "cpu" and getattr(module.config, "_attn_implementation", None) == "sdpa"
    if fused:
        module.set_attn_implementation(GROUPED)
    try:
        yield
    finally:
        if fused:
            module.set_attn_implementation("sdpa")
