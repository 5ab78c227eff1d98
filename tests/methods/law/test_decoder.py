"""Down-projections, keys and displaced states of every decoder shape, against plain forward passes."""

from __future__ import annotations

import pytest
import torch
from decoders import FAMILIES

from evolvent.errors import ModelError
from evolvent.methods.law.decoder import Decoder
from evolvent.methods.law.protected import ProtectedPrompts
from evolvent.methods.law.targets import Suffixes, suffix_form_agrees
from evolvent.methods.law.wordings import Row
from evolvent.models.local import LocalModel

LAYER = 1


@pytest.fixture(params=FAMILIES)
def decoder(request, decoder_model):
    return Decoder(decoder_model(request.param))


def rows(decoder: Decoder) -> list[Row]:
    texts = ["the bank raised its profit", "a new phone was", "the bank raised the cup after a goal in the final"]
    return [Row(tuple(decoder.model.encode(t)), edit) for t, edit in zip(texts, (3, 2, 5), strict=True)]


def test_the_down_projection_is_found_by_shape_and_writes_through(decoder):
    assert len(decoder.projections) == 4
    projection = decoder.projections[LAYER]
    assert projection.weight.shape == (48, decoder.width)
    assert "attn" not in projection.name
    prompt = torch.tensor([decoder.model.encode("the bank raised")])
    before = decoder.model.module(input_ids=prompt).logits
    projection.write(projection.weight + torch.randn(48, decoder.width))
    assert not torch.allclose(decoder.model.module(input_ids=prompt).logits, before)
    stored = decoder.model.causal_lm.state_dict()[projection.name]
    assert torch.equal(stored.T if projection.transposed else stored, projection.weight)


def test_keys_and_states_read_in_batches_are_those_of_one_row_at_a_time(decoder):
    own = rows(decoder)
    contexts = [r.tokens[: r.edit + 1] for r in own] * 2  # twice: equal rows are computed once
    keys, states = decoder.read(contexts, keys=[0, LAYER], residual=2)
    for i, context in enumerate(contexts):
        caught = {}
        hook = decoder.projections[LAYER].module.register_forward_pre_hook(lambda _, x, c=caught: c.update(key=x[0]))
        found = decoder.model.module(input_ids=torch.tensor([context]), output_hidden_states=True)
        hook.remove()
        assert torch.allclose(keys[LAYER][i], caught["key"][0, -1], atol=1e-4)
        assert torch.allclose(states[i], found.hidden_states[3][0, -1], atol=1e-4)
    assert not decoder.projections[LAYER].module._forward_pre_hooks


def test_keys_stay_with_their_rows_when_memory_ends_inside_a_batch(decoder_model):
    decoder = Decoder(decoder_model())
    decoder.model.max_batch_tokens = 64  # several batches
    contexts = [tuple(decoder.model.encode(f"The phone of planet number {i} is")) for i in range(12)]
    expected = decoder.read(contexts, keys=[0], residual=2)
    full = iter([True])

    def run_out(*_):
        if next(full, False):
            raise torch.OutOfMemoryError("out of memory")

    decoder.blocks[1].register_forward_pre_hook(run_out)  # when the keys of block 0 have been caught
    keys, states = decoder.read(contexts, keys=[0], residual=2)
    assert next(full, None) is None
    torch.testing.assert_close(keys[0], expected[0][0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(states, expected[1], rtol=1e-4, atol=1e-4)


def test_the_moment_counts_shared_beginnings_once_and_leaves_out_what_is_washed(decoder):
    rows = [(5, 6, 7), (5, 6, 8, 9), (5, 6, 7), (4,)]
    prompts = ProtectedPrompts(decoder, rows, [2, None, None, None])
    once = [(5,), (5, 6), (5, 6, 8), (5, 6, 8, 9), (4,)]
    for layer, active, also in ((1, None, []), (2, None, []), (3, [False] * 4, [(5, 6, 7)])):
        keys = decoder.read([*once, *also], keys=[layer])[0][layer].double()
        torch.testing.assert_close(prompts.moment(layer, active=active), keys.T @ keys, rtol=1e-4, atol=1e-5)
        decoder.projections[layer].write(1.1 * decoder.projections[layer].weight)  # as an edit does


def test_a_visit_goes_on_behind_the_blocks_of_the_last_one(decoder):
    prompts, ran = ProtectedPrompts(decoder, [(5, 6, 7), (4,)], [None, None]), []
    for layer in (1, 3):
        handles = [
            m.module.register_forward_hook(lambda *_, n=n: ran.append(n)) for n, m in enumerate(decoder.projections)
        ]
        prompts.moment(layer)
        for handle in handles:
            handle.remove()
    assert ran[:2] == [0, 1]
    assert ran[2:] == [1, 2, 3]


def test_without_memory_a_visit_begins_at_the_tokens(decoder):
    prompts = ProtectedPrompts(decoder, [(5, 6, 7), (4,)], [None, None])
    prompts.states.memory = 0
    wanted = ProtectedPrompts(decoder, [(5, 6, 7), (4,)], [None, None]).moment(2)
    prompts.moment(1)
    assert torch.equal(prompts.moment(2), wanted)


def test_suffixes_give_the_log_probabilities_and_gradients_of_whole_rows(decoder):
    own = rows(decoder)
    deltas = torch.randn(len(own), 48, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    results = []
    for whole in (False, True):
        log_probs = Suffixes(decoder, LAYER, own, whole=whole).log_probs(deltas)[:, -1]
        (gradient,) = torch.autograd.grad(log_probs[:, :7].sum(), deltas)
        results.append((log_probs, gradient))
    (part, part_gradient), (full, full_gradient) = results
    assert torch.allclose(part, full, atol=1e-3)
    assert (part_gradient - full_gradient).norm() <= 1e-4 * full_gradient.norm()
    clean = Suffixes(decoder, LAYER, own).clean[:, -1]
    assert not torch.allclose(clean, part, atol=1e-2)
    plain = decoder.model.module(input_ids=torch.tensor([own[0].tokens])).logits[0, -1].log_softmax(-1)
    assert torch.allclose(clean[0], plain, atol=1e-3)
    assert "forward" not in vars(decoder.blocks[0])


def test_adapters_endpoints_and_unknown_blocks_are_refused(decoder_model):
    from peft import LoraConfig, get_peft_model

    model = decoder_model()
    adapted = get_peft_model(decoder_model().module, LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ModelError, match="merge it first"):
        Decoder(LocalModel(adapted, model.tokenizer, name="adapted"))
    with pytest.raises(ModelError, match="endpoint"):
        Decoder(object())
    for block in model.module.model.layers:
        block.mlp.down_proj = torch.nn.Identity()
    with pytest.raises(ModelError, match=r"block 0: 0 MLP down-projections .*gate_proj"):
        Decoder(model)


def test_experts_beside_a_shared_one_are_refused(decoder_model):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"intermediate_size": 96, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 96}
    config = AutoConfig.for_model("qwen2_moe", vocab_size=400, num_experts=4, num_experts_per_tok=2, **sizes)
    module = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ModelError, match=r"block 0: .*down_proj.* mixture of experts"):
        Decoder(LocalModel(module, decoder_model().tokenizer, name="experts"))


def test_the_blocks_of_a_model_that_reads_images_too_are_those_of_its_text(decoder_model):
    from transformers import AutoConfig, AutoModelForCausalLM

    model = decoder_model()
    sizes = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 96}
    text = {**sizes, "vocab_size": 400, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128}
    vision = {**sizes, "image_size": 28, "patch_size": 14}
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4)
    module = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    found = Decoder(LocalModel(module, model.tokenizer, name="images"))
    assert [p.name for p in found.projections] == [
        f"model.language_model.layers.{n}.mlp.down_proj.weight" for n in range(4)
    ]
    row = rows(found)[2]
    states = found.read([row.tokens], keys=[], residual=2)[1]
    plain = module(input_ids=torch.tensor([row.tokens]), output_hidden_states=True).hidden_states[3][0, -1]
    assert torch.allclose(states[0], plain, atol=1e-4)
    assert suffix_form_agrees(found, LAYER, [row])
    assert found.goes_on()
