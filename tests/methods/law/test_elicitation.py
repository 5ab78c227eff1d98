"""Demonstrations and the logit lens, against prompts and norms that are written out here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from decoders import known_facts

from evolvent.methods.law.decoder import Decoder
from evolvent.methods.law.elicitation import few_shot, lens
from evolvent.methods.law.wordings import object_tokens


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_the_lens_is_the_models_own_norm_and_head_on_every_block(decoder_model, family):
    model = decoder_model(family)
    facts = known_facts(model, 3)
    facts = [f.model_copy(update={"prompt": f.prompt + " of" * i}) for i, f in enumerate(facts)]  # of many lengths
    found = lens(Decoder(model), facts)
    lm = model.causal_lm
    for i, fact in enumerate(facts):
        ids = torch.tensor([model.encode(fact.prompt.replace("{}", fact.subject))])
        with torch.inference_mode():
            output = lm(input_ids=ids, output_hidden_states=True)
            states = output.hidden_states[1:-1]  # the last one is behind the norm already
            norm = lm.transformer.ln_f if family == "gpt2" else lm.model.norm
            said = [int(lm.lm_head(norm(s[0, -1])).argmax()) for s in states] + [int(output.logits[0, -1].argmax())]
        assert found[i].tolist() == [token in object_tokens(model, fact) for token in said]
    assert found[0, -1]  # what the model says is what its last block holds
    assert not found.all()


def test_few_shot_prompts_show_five_facts_of_the_relation_and_never_the_fact_itself(decoder_model, monkeypatch):
    model = decoder_model()
    facts = known_facts(model, 8)
    other = [f.model_copy(update={"relation": "profit", "id": f"other-{f.id}"}) for f in facts[:1]]
    seen = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda text: seen.append(text) or encode(text))
    found = few_shot(model, [*facts[:2], *other], facts, seed=1)
    assert set(found) == {f.id for f in facts[:2]}  # nothing to show for the other relation
    for fact, text in zip(facts[:2], [t for t in seen if "\n" in t], strict=True):
        lines = text.splitlines()
        assert len(lines) == 6
        assert lines[-1] == fact.prompt.replace("{}", fact.subject)
        shown = [f for f in facts if f"{f.prompt.replace('{}', f.subject)} {f.object}." in lines]
        assert len(shown) == 5
        assert fact not in shown
        ids = torch.tensor([encode(text)])
        with torch.inference_mode():
            best = int(model.module(input_ids=ids).logits[0, -1].argmax())
        assert found[fact.id] == (best in object_tokens(model, fact))
    assert few_shot(model, facts[:2], [], seed=1) == {}
    assert isinstance(next(iter(found.values())), bool)
    assert np.array_equal(list(found), list(few_shot(model, facts[:2], facts, seed=1)))
