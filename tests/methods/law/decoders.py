"""Tiny decoders of every supported shape, and facts that a random model "knows"."""

from __future__ import annotations

import torch

from evolvent.data.records import Fact
from evolvent.methods.law.wordings import object_tokens
from evolvent.models.local import LocalModel

SIZES = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 128}
WIDE = {**SIZES, "num_key_value_heads": 2, "intermediate_size": 96}
FAMILIES = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "mistral", "phi3", "gpt2", "gptj")


def decoder_of(family: str, vocab_size: int, seed: int = 0):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    own = {"vocab_size": vocab_size, "pad_token_id": 0, "eos_token_id": 0, "bos_token_id": None}
    if family == "gpt2":
        own |= {"n_embd": 48, "n_layer": 4, "n_head": 4, "n_positions": 128}
    elif family == "gptj":
        own |= {"n_embd": 48, "n_layer": 4, "n_head": 4, "n_positions": 128, "rotary_dim": 8}
    else:
        own |= WIDE
        if family in ("qwen3", "gemma", "gemma2"):
            own |= {"head_dim": 16}
    config = AutoConfig.for_model(family, initializer_range=0.3, **own)
    return AutoModelForCausalLM.from_config(config).eval()


def known_facts(model: LocalModel, count: int, *, relation: str = "capital", start: int = 0) -> list[Fact]:
    """Facts whose object is what the model says anyway."""
    facts: list[Fact] = []
    number = start
    while len(facts) < count:
        subject = f"planet number {number}"
        prompt = "The phone of {} is" if relation == "capital" else "The profit of {} was"
        ids = torch.tensor([model.encode(prompt.replace("{}", subject))])
        with torch.inference_mode():
            best = int(model.module(input_ids=ids).logits[0, -1].argmax())
        said = model.tokenizer.decode([best]).strip() or "x"
        fact = Fact(id=f"{relation}{number}", subject=subject, relation=relation, object=said, prompt=prompt)
        if best in object_tokens(model, fact):
            facts.append(fact)
        number += 1
    return facts


TEXTS = [f"The team won the cup after goal {i} and the shares of the bank rose by {i} in the final." for i in range(48)]
