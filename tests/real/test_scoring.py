"""The real model on real questions: the same scores as a plain loop, and the same accuracy as lm-eval."""

from __future__ import annotations

import random

import pytest
import torch

from evolvent.data.readers import read_questions
from evolvent.data.tasks import ChoiceTask
from evolvent.evaluation.evaluate import evaluate
from evolvent.evaluation.lm_eval_bridge import run_lm_eval, write_task

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("real-scoring")]

TOLERANCE = 1e-4
PREFIX = "Please jusitfy the sentiment of the following sentence:"
OPTION_TEXTS = ChoiceTask(style="words")


@pytest.fixture(scope="module")
def arc(shared_data):
    """Science questions with 3 to 5 options each (ARC)."""
    return list(read_questions(shared_data / "semievol" / "arc" / "test.csv"))


@pytest.fixture(scope="module")
def news_of_markets(shared_data):
    """Sentences with one of three sentiments (Financial PhraseBank)."""
    return list(read_questions(shared_data / "semievol" / "fpb" / "test.csv"))


def plain_score(model, prompt: str, continuation: str) -> tuple[float, int, bool]:
    """One row, no batch, no cache, no sharing: the definition."""
    context, tokens = model.encode_pair(prompt, continuation)
    with torch.no_grad():
        rows = model.module(torch.tensor([context + tokens])).logits[0].log_softmax(-1)[len(context) - 1 : -1]
    return rows[range(len(tokens)), tokens].sum().item(), len(tokens), rows.argmax(-1).tolist() == tokens


@pytest.fixture(scope="module")
def asked(embedded_model, arc):
    """12 questions as prompts, their options as texts and as letters, and their plain scores."""
    questions = arc[:12]
    letters = ChoiceTask(style="letters")
    prompts = [OPTION_TEXTS.prompt(q) for q in questions[:6]] + [letters.prompt(q) for q in questions[6:]]
    options = [OPTION_TEXTS.options(q) for q in questions[:6]] + [letters.options(q) for q in questions[6:]]
    scores = [
        [plain_score(embedded_model, prompt, text) for text in texts]
        for prompt, texts in zip(prompts, options, strict=True)
    ]
    return prompts, options, scores


@pytest.mark.parametrize("budget", [1, 300, 100_000])
def test_choose_equals_the_plain_loop_whatever_the_batches(embedded_model, monkeypatch, asked, budget):
    prompts, options, scores = asked
    monkeypatch.setattr(embedded_model, "max_batch_tokens", budget)
    order = random.Random(budget).sample(range(len(prompts)), len(prompts))
    choices = embedded_model.choose([prompts[i] for i in order], [options[i] for i in order])
    for i, choice in zip(order, choices, strict=True):
        assert choice.log_probs == pytest.approx([s for s, _, _ in scores[i]], abs=TOLERANCE)
        assert choice.token_counts == tuple(n for _, n, _ in scores[i])
        assert choice.greedy == tuple(g for _, _, g in scores[i])


@pytest.mark.parametrize("budget", [1, 300, 100_000])
def test_loglikelihood_equals_the_plain_loop_whatever_the_batches(embedded_model, monkeypatch, asked, budget):
    monkeypatch.setattr(embedded_model, "max_batch_tokens", budget)
    pairs = [(p, text, s) for p, texts, row in zip(*asked, strict=True) for text, s in zip(texts, row, strict=True)]
    random.Random(budget).shuffle(pairs)
    found = embedded_model.loglikelihood([(prompt, text) for prompt, text, _ in pairs])
    for score, (_, _, (log_prob, tokens, greedy)) in zip(found, pairs, strict=True):
        assert score.log_prob == pytest.approx(log_prob, abs=TOLERANCE)
        assert (score.tokens, score.greedy) == (tokens, greedy)


def test_prompts_that_share_their_demonstrations_score_as_alone(embedded_model, news_of_markets):
    """Few-shot prompts with a long common beginning, which is computed once."""
    task = ChoiceTask(style="words", template="Sentence: {{ question }}\nSentiment:", strip_prefix=PREFIX)
    short = [q for q in news_of_markets if len(q.question) - len(PREFIX) < 80]
    shown, questions = short[:2], short[2:5]
    prompts = [task.prompt(q, demonstrations=shown) for q in questions]
    options = [task.options(q) for q in questions]
    for prompt, texts, choice in zip(prompts, options, embedded_model.choose(prompts, options), strict=True):
        expected = [plain_score(embedded_model, prompt, text)[0] for text in texts]
        assert choice.log_probs == pytest.approx(expected, abs=TOLERANCE)


def test_accuracy_on_40_real_questions_equals_that_of_lm_eval(embedded_model, arc, tmp_path):
    pytest.importorskip("lm_eval")
    questions = [q for q in arc if len(q.question) < 100 and sum(map(len, q.choices)) < 60][:40]
    assert len(questions) == 40
    write_task(questions, OPTION_TEXTS, tmp_path, name="arc_sample")
    theirs = run_lm_eval(
        "embedded", ["arc_sample"], task_folder=tmp_path, dtype="float32", device="cpu", bootstrap_iters=0
    )["arc_sample"]
    ours = {
        n: evaluate(embedded_model, questions, OPTION_TEXTS, normalization=n).metrics["accuracy"]
        for n in ("sum", "character")
    }
    assert theirs["acc"] == pytest.approx(ours["sum"])
    assert theirs["acc_norm"] == pytest.approx(ours["character"])
    assert 0 < ours["sum"] < 1
