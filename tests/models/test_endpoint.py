"""EndpointModel against a real llama.cpp server, and against everything that servers do wrong."""

from __future__ import annotations

import asyncio
import math
import urllib.request

import numpy as np
import pytest
import torch
from fault_proxy import FaultProxy
from llama_server import start

from evolvent.data.records import Question
from evolvent.data.tasks import ChoiceTask
from evolvent.errors import ConfigError, EndpointError, ModelError, NoLogProbsError, PromptErrors
from evolvent.evaluation.evaluate import evaluate
from evolvent.models.embedded import embedded_gguf
from evolvent.models.endpoint import EndpointModel, Prices
from evolvent.models.protocol import LanguageModel, Sampling
from evolvent.models.resolve import load

pytest.importorskip("xllamacpp")
pytestmark = [pytest.mark.real, pytest.mark.xdist_group("llama-server")]

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
CHATS = [
    FRANCE,
    [{"role": "user", "content": "What is 2+2?"}],
    [{"role": "user", "content": "Name three colours."}],
    [{"role": "system", "content": "Answer in one word."}, {"role": "user", "content": "Which animal barks?"}],
]
PROMPTS = ["The capital of France is", "News: Late goal wins the cup\nTopic:", "Two plus two equals"]
OPTIONS = [[" Paris", " Rome"], [" business", " entertainment", " sport"], [" four", " five", " 4"]]


@pytest.fixture(scope="session")
def exact_server(tmp_path_factory):
    """llama.cpp with the same weights in fp32."""
    import gguf

    target = tmp_path_factory.mktemp("gguf") / "fp32.gguf"
    reader = gguf.GGUFReader(embedded_gguf())
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = 0 if key == "general.file_type" else field.contents()
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_key_value(key, value, field.types[0], sub_type=field.types[-1])
        else:
            writer.add_key_value(key, value, field.types[0])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    process, url = start(target)
    yield url
    process.kill()
    target.unlink()


@pytest.fixture
def model(server):
    return EndpointModel("smollm2", server)


def quick(url: str, **options) -> EndpointModel:
    return EndpointModel("smollm2", url, timeout_seconds=options.pop("timeout_seconds", 30), **options)


def test_an_endpoint_speaks_the_protocol_and_is_found_by_its_reference(server):
    model = load(f"endpoint:smollm2@{server}")
    assert isinstance(model, LanguageModel)
    assert (model.name, model.base_url) == ("smollm2", server)
    with pytest.raises(ModelError, match="endpoint:NAME@URL"):
        load("endpoint:smollm2")


def test_chat_answers_equal_those_of_transformers_on_the_same_weights(exact_server, embedded_model):
    """With fp32 weights on both sides greedy chats are the same, up to ties within rounding."""
    sampling = Sampling(max_tokens=24)
    theirs = EndpointModel("smollm2", exact_server).generate(CHATS, sampling)
    ours = embedded_model.generate(CHATS, sampling)
    assert "Paris" in theirs[0][0].text
    for chat, [their], [our] in zip(CHATS, theirs, ours, strict=True):
        assert their.token_log_probs[0] == pytest.approx(our.token_log_probs[0], abs=0.01)
        if their.text != our.text:
            shared = len([1 for a, b in zip(their.text, our.text, strict=False) if a == b])
            ids = embedded_model.encode(chat) + embedded_model.tokenizer(our.text[:shared])["input_ids"]
            with torch.no_grad():
                best, second = embedded_model.module(torch.tensor([ids])).logits[0, -1].topk(2).values.tolist()
            assert best - second < 0.05, f"{their.text!r} is not {our.text!r}"


def test_why_the_quantised_server_answers_otherwise(server, embedded_model):
    """Same template, same greedy sampler; llama.cpp rounds activations to 8 bits, and "The" and "L" are nearly tied."""
    import json

    request = urllib.request.Request(
        server.removesuffix("/v1") + "/apply-template",
        json.dumps({"messages": FRANCE}).encode(),
        {"Content-Type": "application/json"},
    )
    rendered = json.loads(urllib.request.urlopen(request, timeout=30).read())["prompt"]
    assert rendered == embedded_model.render(FRANCE)
    starts = ["The", "L"]
    theirs = EndpointModel("smollm2", server).choose([FRANCE], [starts])[0].log_probs
    ours = embedded_model.choose([FRANCE], [starts])[0].log_probs
    assert abs(ours[0] - ours[1]) < 0.15
    assert theirs == pytest.approx(ours, abs=0.3)


def test_options_score_as_in_this_process(exact_server, embedded_model):
    theirs = EndpointModel("smollm2", exact_server, top_log_probs=2000).choose(PROMPTS, OPTIONS)
    for their, our in zip(theirs, embedded_model.choose(PROMPTS, OPTIONS), strict=True):
        assert their.best == our.best
        assert their.greedy == our.greedy
        assert their.log_probs[their.best] == pytest.approx(our.log_probs[our.best], abs=0.01)
    pair = (PROMPTS[0], " Paris.")
    [their], [our] = (m.loglikelihood([pair]) for m in (EndpointModel("s", exact_server), embedded_model))
    assert (their.tokens, their.greedy) == (our.tokens, our.greedy)
    assert their.log_prob == pytest.approx(our.log_prob, abs=0.01)


def test_samples_are_repeatable_whatever_was_asked_between_and_differ_from_each_other(model):
    sampling = Sampling(max_tokens=8, temperature=1.0, n=3, seed=5)
    first = model.generate([FRANCE], sampling)
    model.generate([[{"role": "user", "content": "List " + "many colours, " * 40}]] * 2, Sampling(max_tokens=4))
    second = model.generate([FRANCE], sampling)
    assert [c.text for c in first[0]] == [c.text for c in second[0]]
    assert len({c.text for c in first[0]}) > 1


def test_stop_strings_and_the_finish_reason(model):
    text = model.generate([PROMPTS[0]], Sampling(max_tokens=12))[0][0]
    assert text.finish_reason == "length"
    assert len(text.token_log_probs) == 12
    cut = model.generate([PROMPTS[0]], Sampling(max_tokens=12, stop=(".",)))[0][0]
    assert cut.text == text.text[: text.text.index(".")]
    assert cut.finish_reason == "stop"


def test_one_prompt_that_is_refused_fails_alone(model):
    with pytest.raises(PromptErrors, match="1 of 2 prompts failed: prompt 1") as caught:
        model.generate(["The capital", "word " * 5000], Sampling(max_tokens=2))
    assert caught.value.results[0][0].text
    assert caught.value.results[1] is None


def test_answers_come_from_the_cache_the_second_time(server, tmp_path):
    with FaultProxy(server) as proxy:
        first = quick(proxy.url, cache_dir=tmp_path).generate(PROMPTS, Sampling(max_tokens=3))
        assert len(proxy.requests) == 3
        again = quick(proxy.url, cache_dir=tmp_path)
        assert again.generate(PROMPTS, Sampling(max_tokens=3)) == first
        assert len(proxy.requests) == 3
        assert (again.usage.cached, again.usage.requests, again.usage.prompt_tokens) == (3, 0, 0)
        again.generate(PROMPTS, Sampling(max_tokens=4))
        assert len(proxy.requests) == 6


def test_bad_days_of_a_server_change_no_answer(server):
    calm = EndpointModel("smollm2", server).generate(PROMPTS, Sampling(max_tokens=4))
    faults = ["429", "500", "cut", "malformed", "empty", "429"]
    with FaultProxy(server, faults) as proxy:
        assert quick(proxy.url).generate(PROMPTS, Sampling(max_tokens=4)) == calm
        assert len(proxy.requests) == len(faults) + len(PROMPTS)


def test_an_answer_that_hangs_is_asked_for_again(server):
    with FaultProxy(server, ["hang"]) as proxy:
        answer = quick(proxy.url, timeout_seconds=2.0).generate(PROMPTS[:1], Sampling(max_tokens=2))
        assert answer[0][0].text
        assert len(proxy.requests) == 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("500", "failed 2 times"),
        ("hang", "did not answer within 1 s, 2 times"),
        ("malformed", "3 malformed answers in a row"),
        ("401", "set OPENAI_API_KEY"),
        ("404", "use chat=True tasks"),
    ],
)
def test_a_server_that_stays_down_is_one_clear_error_with_exit_code_3(server, fault, message):
    with FaultProxy(server, always=fault) as proxy:
        model = quick(proxy.url, timeout_seconds=1.0, max_retries=1)
        with pytest.raises(EndpointError, match=message) as caught:
            model.generate(PROMPTS[:1], Sampling(max_tokens=1))
        assert caught.value.exit_code == 3


def test_a_model_that_changes_behind_its_name_is_noticed(server):
    with FaultProxy(server, ["", "other-model"]) as proxy:
        model = quick(proxy.url)
        model.generate(PROMPTS[:1], Sampling(max_tokens=1))
        with pytest.raises(EndpointError, match="somebody-else"):
            model.generate(PROMPTS[1:2], Sampling(max_tokens=1))


def test_what_was_answered_before_a_failure_is_kept(server, tmp_path):
    with FaultProxy(server, ["", "", "500", "500"], always="500") as proxy:
        model = quick(proxy.url, cache_dir=tmp_path, concurrency=1, max_retries=0)
        with pytest.raises(EndpointError, match="answers so far are kept"):
            model.generate(PROMPTS, Sampling(max_tokens=2))
        proxy.always, proxy.faults = None, []
        before = len(proxy.requests)
        model.generate(PROMPTS, Sampling(max_tokens=2))
        assert len(proxy.requests) == before + 1


@pytest.mark.parametrize("fault", ["no-logprobs", "refuse-logprobs"])
def test_a_server_without_log_probabilities_still_answers(server, fault):
    task = ChoiceTask(style="letters", chat=True)
    question = Question(id="1", question="What barks?", choices=("a dog", "a cat"), answer="a dog")
    with FaultProxy(server, always=fault) as proxy:
        model = quick(proxy.url)
        assert math.isnan(model.generate([FRANCE], Sampling(max_tokens=2))[0][0].mean_nll)
        with pytest.raises(NoLogProbsError, match="options cannot be scored"):
            model.choose([FRANCE], [["A", "B"]])
        assert len(evaluate(model, [question], task).predictions) == 1


def test_chat_options_that_begin_alike_are_refused(model):
    with pytest.raises(PromptErrors, match='style="letters"'):
        model.choose([FRANCE], [["The capital", "The city"]])


def test_no_more_requests_in_flight_than_allowed(server):
    with FaultProxy(server) as proxy:
        quick(proxy.url, concurrency=2).generate(
            [f"{p} {i}" for p in PROMPTS for i in range(4)], Sampling(max_tokens=1)
        )
        assert proxy.most_in_flight == 2


def test_costs_are_counted_and_bounded(server):
    with FaultProxy(server) as proxy:
        model = quick(proxy.url, prices=Prices(prompt=1.0, completion=2.0), max_cost=1e-4)
        model.generate(PROMPTS[:1], Sampling(max_tokens=2))
        assert model.usage.cost(model.prices) == pytest.approx((5 * 1.0 + 2 * 2.0) / 1e6)
        with pytest.raises(EndpointError, match="nothing was sent"):
            model.generate(PROMPTS, Sampling(max_tokens=50))
        assert len(proxy.requests) == 1
    with pytest.raises(ConfigError, match="prices"):
        EndpointModel("m", server, max_cost=1.0)


def test_it_works_inside_a_running_event_loop(model):
    async def notebook():
        return model.generate(PROMPTS[:1], Sampling(max_tokens=2))

    assert asyncio.run(notebook())[0][0].text
