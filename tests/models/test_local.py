"""LocalModel against a slow, unbatched, uncached reference."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evolvent.errors import ModelError, PromptErrors
from evolvent.models.batching import common_prefix_length, run_batches, token_budget_batches
from evolvent.models.local import LocalModel
from evolvent.models.protocol import LanguageModel, Sampling

PROMPTS = [
    "The bank raised its profit",
    "",
    "a",
    "Shares fell after the company cut its outlook. " * 3,
    [{"role": "user", "content": "what is the capital of France?"}],
    "The team won the cup after",
]
OPTIONS = [" sport", " business news", " a", " The team won the cup after a late goal"]
TOLERANCE = 1e-4


def reference_score(model: LocalModel, prompt, continuation: str) -> tuple[float, int, bool]:
    context, tokens = model.encode_pair(prompt, continuation)
    with torch.no_grad():
        logits = model.module(torch.tensor([context + tokens])).logits[0].float().log_softmax(-1)
    rows = logits[len(context) - 1 : -1]
    picked = rows[range(len(tokens)), tokens]
    return picked.sum().item(), len(tokens), bool((rows.argmax(-1) == torch.tensor(tokens)).all())


def test_local_model_speaks_the_protocol(tiny_model):
    assert isinstance(tiny_model, LanguageModel)


@pytest.mark.parametrize("budget", [1, 40, 10_000])
def test_loglikelihood_equals_unbatched_loop_for_every_batch_size(tiny_model, budget):
    tiny_model.max_batch_tokens = budget
    pairs = [(p, o) for p in PROMPTS for o in OPTIONS] + [("The bank", " raised its profit forecast")]
    for pair, score in zip(pairs, tiny_model.loglikelihood(pairs), strict=True):
        log_prob, tokens, greedy = reference_score(tiny_model, *pair)
        assert score.log_prob == pytest.approx(log_prob, abs=TOLERANCE)
        assert (score.tokens, score.greedy) == (tokens, greedy)


@pytest.mark.parametrize("budget", [1, 40, 10_000])
def test_choose_equals_unbatched_loop_for_every_batch_size(tiny_model, budget):
    tiny_model.max_batch_tokens = budget
    options = [OPTIONS, OPTIONS[:1], [" A", " B", " C"], OPTIONS[::-1], OPTIONS, [" A", " A B"]]
    for prompt, texts, choice in zip(PROMPTS, options, tiny_model.choose(PROMPTS, options), strict=True):
        expected = [reference_score(tiny_model, prompt, text)[0] for text in texts]
        assert choice.log_probs == pytest.approx(expected, abs=TOLERANCE)
        assert sum(choice.probs) == pytest.approx(1)
        assert choice.best == max(range(len(texts)), key=lambda i: expected[i])


def test_a_prefix_shared_by_all_prompts_changes_nothing(tiny_model):
    fixed = "Question: which of the following is a planet? A B C D\n"
    prompts = [fixed + tail for tail in ("Answer:", "The team won the cup. Answer:", "a")]
    options = [[" A", " B", " positive", " the late goal"]] * 3
    for prompt, texts, choice in zip(prompts, options, tiny_model.choose(prompts, options), strict=True):
        expected = [reference_score(tiny_model, prompt, text)[0] for text in texts]
        assert choice.log_probs == pytest.approx(expected, abs=TOLERANCE)
    for prompt, completions in zip(prompts, tiny_model.generate(prompts, Sampling(max_tokens=8)), strict=True):
        assert completions[0].text == tiny_model.generate([prompt], Sampling(max_tokens=8))[0][0].text


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompts=st.lists(st.text(alphabet="abc é\n ", max_size=30), min_size=1, max_size=5),
    option=st.text(alphabet="abz\u200b", min_size=1, max_size=6),
)
def test_any_text_scores_as_in_the_loop(tiny_model, prompts, option):
    pairs = [(p, " " + option) for p in prompts]
    for pair, score in zip(pairs, tiny_model.loglikelihood(pairs), strict=True):
        assert score.log_prob == pytest.approx(reference_score(tiny_model, *pair)[0], abs=TOLERANCE)


def test_greedy_generation_equals_a_plain_argmax_loop(tiny_model):
    for prompt, completions in zip(PROMPTS, tiny_model.generate(PROMPTS, Sampling(max_tokens=12)), strict=True):
        ids, log_probs, stopped = tiny_model.encode(prompt), [], False
        start = len(ids)
        for _ in range(12):
            with torch.no_grad():
                row = tiny_model.module(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            token = int(row.argmax())
            log_probs.append(row[token].item())
            if token in tiny_model.stop_tokens:
                stopped = True
                break
            ids.append(token)
        assert completions[0].text == tiny_model.tokenizer.decode(ids[start:], skip_special_tokens=True)
        assert completions[0].token_log_probs == pytest.approx(log_probs, abs=TOLERANCE)
        assert completions[0].finish_reason == ("stop" if stopped else "length")


def test_samples_depend_on_the_seed_and_not_on_the_batch(tiny_model):
    sampling = Sampling(max_tokens=10, temperature=1.0, n=3, seed=7)
    together = tiny_model.generate(PROMPTS, sampling)
    alone = [tiny_model.generate([p], sampling)[0] for p in PROMPTS]
    assert [[c.text for c in row] for row in together] == [[c.text for c in row] for row in alone]
    assert len({c.text for c in together[0]}) == 3
    other = tiny_model.generate(PROMPTS, Sampling(max_tokens=10, temperature=1.0, n=3, seed=8))
    assert [[c.text for c in row] for row in together] != [[c.text for c in row] for row in other]


def test_samples_follow_the_model_distribution(tiny_model):
    prompt = "The team won"
    with torch.no_grad():
        logits = tiny_model.module(torch.tensor([tiny_model.encode(prompt)])).logits[0, -1]
    probabilities = logits.softmax(-1)
    completions = tiny_model.generate([prompt], Sampling(max_tokens=1, temperature=1.0, n=600, seed=1))[0]
    mean = sum(c.token_log_probs[0] for c in completions) / len(completions)
    entropy = -(probabilities * probabilities.log()).sum().item()
    spread = math.sqrt((probabilities * (probabilities.log() + entropy) ** 2).sum().item() / len(completions))
    assert -mean == pytest.approx(entropy, abs=4 * spread)


def test_top_p_keeps_only_the_nucleus(tiny_model):
    prompt = "The team won"
    with torch.no_grad():
        probabilities = tiny_model.module(torch.tensor([tiny_model.encode(prompt)])).logits[0, -1].softmax(-1)
    ordered, order = probabilities.sort(descending=True)
    nucleus = order[: int((ordered.cumsum(0) < 0.3).sum()) + 1].tolist()
    sampling = Sampling(max_tokens=1, temperature=1.0, top_p=0.3, n=100)
    allowed = [probabilities[t].log().item() for t in nucleus]
    for completion in tiny_model.generate([prompt], sampling)[0]:
        assert min(abs(completion.token_log_probs[0] - a) for a in allowed) < TOLERANCE


def test_stop_strings_end_and_are_cut_off(tiny_model):
    text = tiny_model.generate(["The team"], Sampling(max_tokens=20))[0][0].text
    stop = text[5:7]
    completion = tiny_model.generate(["The team"], Sampling(max_tokens=20, stop=(stop,)))[0][0]
    assert completion.text == text[: text.index(stop)]
    assert completion.finish_reason == "stop"


def test_a_prompt_longer_than_the_context_fails_alone(tiny_model):
    prompts = ["The bank", "word " * 400, "The team"]
    with pytest.raises(PromptErrors, match=r"1 of 3 prompts failed: prompt 1: .*256 tokens") as caught:
        tiny_model.choose(prompts, [[" A", " B"]] * 3)
    alone = tiny_model.choose(["The bank"], [[" A", " B"]])[0]
    assert caught.value.results[1] is None
    assert caught.value.results[0].log_probs == pytest.approx(alone.log_probs, abs=TOLERANCE)
    with pytest.raises(PromptErrors) as caught:
        tiny_model.generate(prompts, Sampling(max_tokens=2))
    assert [r is None for r in caught.value.results] == [False, True, False]


def test_generation_stops_at_the_end_of_the_context(tiny_model):
    prompt = "a" * 250
    assert len(tiny_model.encode(prompt)) < 256
    completion = tiny_model.generate([prompt], Sampling(max_tokens=50))[0][0]
    assert len(tiny_model.encode(prompt)) + len(completion.token_log_probs) <= 256


def test_messages_without_a_chat_template_say_what_to_do(tiny_model):
    tiny_model.tokenizer.chat_template, kept = None, tiny_model.tokenizer.chat_template
    try:
        with pytest.raises(PromptErrors, match="no chat template"):
            tiny_model.generate([[{"role": "user", "content": "hi"}]], Sampling())
    finally:
        tiny_model.tokenizer.chat_template = kept


def test_prompts_and_options_must_pair_up(tiny_model):
    with pytest.raises(ModelError, match="2 prompts but 1 lists of options"):
        tiny_model.choose(["a", "b"], [[" A"]])


@given(lengths=st.lists(st.integers(1, 50), max_size=40), budget=st.integers(1, 200))
def test_batches_cover_every_row_once_within_the_budget(lengths, budget):
    batches = token_budget_batches(lengths, budget)
    assert sorted(i for b in batches for i in b) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


@given(st.lists(st.lists(st.integers(0, 1), max_size=6), max_size=5))
def test_common_prefix_is_what_all_rows_begin_with(rows):
    n = common_prefix_length(rows)
    if rows:
        assert all(row[:n] == rows[0][:n] for row in rows)
        assert any(len(row) == n for row in rows) or len({row[n] for row in rows}) > 1


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost():
    done: list[int] = []

    def run(batch: list[int]) -> None:
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        done.extend(batch)

    run_batches([list(range(10)), [10]], run)
    assert done == list(range(11))
    with pytest.raises(RuntimeError, match="something else"):
        run_batches([[1, 2]], lambda _: (_ for _ in ()).throw(RuntimeError("something else")))
