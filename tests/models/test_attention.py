"""Grouped attention against transformers' unfused one, values and gradients."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

from evolvent.models.attention import grouped_attention, plain_attention


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_it_is_the_unfused_attention_without_its_copies(heads, softcap):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, count, places, 8, generator=generator, dtype=torch.float64).requires_grad_(True)
        for count, places in ((heads[0], 3), (heads[1], 7), (heads[1], 7))
    )
    mask = torch.zeros(2, 1, 3, 7, dtype=torch.float64).masked_fill(
        torch.rand(2, 1, 3, 7, generator=generator) < 0.3, -1e9
    )
    module = SimpleNamespace(num_key_value_groups=heads[0] // heads[1], training=False, head_dim=8)
    results = []
    for attention in (grouped_attention, eager_attention_forward):
        mixed, weights = attention(module, query, key, value, mask, scaling=0.3, softcap=softcap)
        gradients = torch.autograd.grad(mixed.square().sum(), (query, key, value))
        results.append((mixed, weights, *gradients))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_model_attends_as_before_outside(tiny_model):
    module = tiny_model.module
    ids = torch.tensor([[5, 6, 7, 8]])
    before = module(input_ids=ids).logits
    with plain_attention(module, torch.device("cpu")):
        inside = module(input_ids=ids).logits
        assert module.config._attn_implementation != "sdpa"
    assert module.config._attn_implementation == "sdpa"
    torch.testing.assert_close(inside, before, rtol=1e-4, atol=1e-4)
