"""The last token of a subject, found by characters in the final text, in every script and wording."""

from __future__ import annotations

import pytest

from evolvent.data.records import Fact
from evolvent.errors import ModelError
from evolvent.methods.law.config import LawConfig
from evolvent.methods.law.probe import mentions, probe
from evolvent.methods.law.wordings import BARE, Wording, object_tokens, row_for, wordings_for

SUBJECTS = ["planet", "the old phone", "Zürich", "東京", "القاهرة", "naïve café", "🚀🌍", "B", "goal.", "A  B"]
FORMS = [BARE, Wording("before", before="Text. "), Wording("answer", chat="answer"), Wording("request", chat="request")]


def fact(subject: str, **more: object) -> Fact:
    values = {"id": "x", "subject": subject, "object": "Paris", "prompt": "The capital of {} is", **more}
    return Fact.model_validate(values)


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("wording", FORMS, ids=[w.name for w in FORMS])
def test_the_edit_token_holds_the_last_character_of_the_subject(decoder_model, subject, wording):
    model = decoder_model()
    row = row_for(model, fact(subject), wording)
    decode = model.tokenizer.decode
    text = decode(row.tokens)
    assert text.endswith(f"The capital of {subject} is")
    end = text.rindex(subject) + len(subject)
    assert len(decode(row.tokens[: row.edit + 1]).rstrip("\ufffd")) >= end - 1
    assert len(decode(row.tokens[: row.edit]).rstrip("\ufffd")) < end


@pytest.mark.parametrize("subject", ["planet", "the old phone", "Zürich"])
def test_a_slow_tokenizer_finds_the_same_token(decoder_model, subject):
    model = decoder_model()
    fast = row_for(model, fact(subject), BARE)

    class Slow:
        is_fast = False
        chat_template = None

        def __call__(self, text, add_special_tokens=True):
            return model.tokenizer(text, add_special_tokens=add_special_tokens)

        def decode(self, tokens, skip_special_tokens=False):
            return model.tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens)

    from evolvent.methods.law.wordings import _tokens_and_position

    filled = f"The capital of {subject} is"
    found = _tokens_and_position(Slow(), filled, filled.index(subject) + len(subject), special=True)
    assert found == (list(fast.tokens), fast.edit)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_prompt_longer_than_the_context_names_its_fact(decoder_model, family):
    model = decoder_model(family)  # 128 tokens
    long = fact("planet", prompt="The phone of the bank " * 40 + "of {} is")
    for asked in (long, fact("planet", paraphrases=(long.prompt,))):
        with pytest.raises(ModelError, match=r"fact x \(planet\): a prompt of \d+ tokens, and .* context of 128"):
            probe(model, [asked])
    with pytest.raises(ModelError, match="fact x"):
        row_for(model, long, BARE)


def test_a_subject_on_the_attention_sink_is_edited_in_other_wordings_only(decoder_model):
    model = decoder_model()
    first = fact("9", prompt="{} is a phone by")
    assert row_for(model, first, BARE) is None
    assert row_for(model, first, FORMS[1]).edit > 0


def test_sampled_wordings_come_from_the_model_and_the_seed(decoder_model, tmp_path):
    model = decoder_model()
    same = [wordings_for(model, LawConfig(output_dir=tmp_path, contexts="sampled", seed=s)) for s in (0, 0, 1)]
    assert same[0] == same[1] != same[2]
    assert [len(w) for w in same] == [6, 6, 6]
    model.tokenizer = model.tokenizer.__class__(tokenizer_object=model.tokenizer._tokenizer)
    assert [w.name for w in wordings_for(model, LawConfig(output_dir=tmp_path))] == ["bare", "prefix"]


@pytest.mark.parametrize(
    ("text", "said", "expected"),
    [
        ("It is PARIS.", "Paris", True),
        ("The symbol is C.", "C", True),
        ("Carbon", "C", False),
        ("the symbol is c", "C", False),
        ("It is Lyon.", "Paris", False),
    ],
)
def test_short_objects_must_stand_alone(text, said, expected):
    assert mentions(text, fact("x", object=said)) is expected


def test_probing_agrees_with_one_forward_pass_for_each_prompt(decoder_model):
    import torch

    model = decoder_model()
    facts = [
        fact(f"planet {i}", id=str(i), paraphrases=("A goal of {} was",), question="What of {}?") for i in range(5)
    ]
    found = probe(model, facts)
    for f, k in zip(facts, found, strict=True):
        for prompt, hit in zip((f.prompt, *f.paraphrases), (k.known, *k.paraphrases), strict=True):
            ids = torch.tensor([model.encode(prompt.replace("{}", f.subject))])
            with torch.inference_mode():
                probabilities = model.module(input_ids=ids).logits[0, -1].softmax(-1)
            own = object_tokens(model, f)
            assert hit == (int(probabilities.argmax()) in own)
        assert k.chat is not None
    near = probe(model, facts, margin=1e9)
    assert all(k.known for k in near)
