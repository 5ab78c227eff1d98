"""The same weights in llama.cpp and in transformers: the same chat text and, up to rounding, the same greedy answers.

llama.cpp computes with the Q4_1 weights and rounds activations to 8 bits; transformers computes with the dequantised
weights in fp32. So two tokens that are nearly tied may change places, and from there on the texts are free to differ:
for the capital of France "The" and "L" are such a pair. (tests/models/test_endpoint.py compares on fp32 weights.)
"""

from __future__ import annotations

import json
import urllib.request

import pytest
import torch

from evolvent.models.endpoint import EndpointModel
from evolvent.models.protocol import Sampling

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("llama-server")]

TOKENS = 12
NOISE = 0.3  # nats between two tokens that rounding may swap; 0.08 is the largest such gap in these chats


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


CHATS = [
    [user("What is the capital of France?")],
    [user("What is 2+2?")],
    [user("Which planet is known as the Red Planet?")],
    [user("Write the word hello in upper case.")],
    [user("¿Cuál es la capital de España?")],
    [{"role": "system", "content": "You answer in one word."}, user("Which animal barks?")],
    [
        user("My name is Ada."),
        {"role": "assistant", "content": "Nice to meet you, Ada."},
        user("What is my name?"),
    ],
]


def rendered_there(server: str, chat: list[dict[str, str]]) -> str:
    request = urllib.request.Request(
        server.removesuffix("/v1") + "/apply-template",
        json.dumps({"messages": chat}).encode(),
        {"Content-Type": "application/json"},
    )
    return json.loads(urllib.request.urlopen(request, timeout=30).read())["prompt"]


def test_every_chat_becomes_the_same_text(server, embedded_model):
    for chat in CHATS:
        assert rendered_there(server, chat) == embedded_model.render(chat)


def test_greedy_answers_are_the_same_up_to_ties(server, embedded_model):
    sampling = Sampling(max_tokens=TOKENS)
    theirs = [c[0] for c in EndpointModel("smollm2", server).generate(CHATS, sampling)]
    ours = [c[0] for c in embedded_model.generate(CHATS, sampling)]
    assert "Paris" in ours[0].text
    same = 0
    for chat, their, our in zip(CHATS, theirs, ours, strict=True):
        if their.text == our.text:
            same += 1
            assert their.token_log_probs == pytest.approx(our.token_log_probs[: len(their.token_log_probs)], abs=NOISE)
            continue
        margin, shared = margin_where_they_part(embedded_model, chat, our.text, their.text)
        assert margin < NOISE, f"after {shared!r}: {their.text!r} is not {our.text!r}"
    assert same >= len(CHATS) // 2


def margin_where_they_part(model, chat, ours: str, theirs: str) -> tuple[float, str]:
    """By how much our model prefers its own next token to theirs at the first token that differs."""
    context = model.encode(chat)
    mine, other = (model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (ours, theirs))
    length = next((i for i, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), min(len(mine), len(other)))
    end = model.tokenizer.eos_token_id
    next_mine, next_other = ([*ids, end][length] for ids in (mine, other))
    with torch.no_grad():
        row = model.module(torch.tensor([context + mine[:length]])).logits[0, -1].log_softmax(-1)
    return float(row[next_mine] - row[next_other]), model.tokenizer.decode(mine[:length])
