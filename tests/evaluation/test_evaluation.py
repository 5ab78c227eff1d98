"""Metrics, intervals, priors, guarantees: against slow references and simulations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvent.data.records import Question
from evolvent.data.tasks import ChoiceTask, TextTask
from evolvent.errors import DataError
from evolvent.evaluation.evaluate import Evaluation, compare, evaluate, summary
from evolvent.evaluation.guarantee import certified_threshold, upper_error_bound
from evolvent.evaluation.metrics import (
    accuracy,
    auroc,
    exact_match,
    expected_calibration_error,
    macro_f1,
    perplexity,
    squad_f1,
)
from evolvent.evaluation.priors import align_shares, correct, em_prior, mean_log_prior
from evolvent.evaluation.significance import bootstrap_interval, mcnemar_exact, paired_bootstrap

CHOICES = ("business", "sport")
QUESTIONS = [
    Question(id=str(i), question=f"The team {w}", choices=CHOICES, answer=CHOICES[i % 2])
    for i, w in enumerate(["won", "fell", "rose", "lost", "was cut", "won the cup"])
]
TASK = ChoiceTask(style="words", template="News: {{ question }}\nTopic:")


def test_squad_measures_ignore_case_articles_and_punctuation():
    assert exact_match("The  Eiffel-Tower!", ["eiffeltower"]) == 1.0
    assert squad_f1("in the city of Paris", ["Paris"]) == pytest.approx(2 * (1 / 4) * 1 / (1 / 4 + 1))
    assert squad_f1("London", ["Paris", "London"]) == 1.0
    assert squad_f1("", ["Paris"]) == 0.0


def test_macro_f1_is_the_mean_over_gold_classes_and_none_is_wrong():
    gold = ["a", "a", "b", "b"]
    assert macro_f1(["a", None, "b", "a"], gold) == pytest.approx((2 * 0.5 * 0.5 / (0.5 + 0.5) + 2 * 1 * 0.5 / 1.5) / 2)
    assert accuracy(["a", None], ["a", "b"]) == 0.5
    assert math.isnan(accuracy([], []))


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=30))
def test_auroc_is_the_share_of_pairs_in_right_order(rows):
    sure, right = zip(*rows, strict=True)
    good, bad = [s for s, r in rows if r], [s for s, r in rows if not r]
    if not good or not bad:
        assert math.isnan(auroc(sure, right))
        return
    pairs = [1.0 if g > b else 0.5 if g == b else 0.0 for g in good for b in bad]
    assert auroc(sure, right) == pytest.approx(np.mean(pairs))


def test_calibration_error_is_the_weighted_gap_of_the_bins():
    sure, right = [0.95, 0.92, 0.12, 0.14], [True, False, False, False]
    expected = 0.5 * abs(0.5 - (0.95 + 0.92) / 2) + 0.5 * abs(0 - 0.13)
    assert expected_calibration_error(sure, right, bins=10) == pytest.approx(expected)
    assert expected_calibration_error([1.0, 1.0], [True, True]) == 0


def test_perplexity_equals_the_loop_over_tokens(tiny_model):
    texts = ["The team won the cup", "Shares fell"]
    nats, tokens = 0.0, 0
    for text in texts:
        context, ids = tiny_model.encode_pair("", text)
        with torch.no_grad():
            rows = tiny_model.module(torch.tensor([context + ids])).logits[0].log_softmax(-1)[len(context) - 1 : -1]
        nats -= rows[range(len(ids)), ids].sum().item()
        tokens += len(ids)
    found = perplexity(tiny_model, texts)
    assert found.per_token == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert found.tokens == tokens
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / sum(len(t) for t in texts), rel=1e-4)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=14))
def test_mcnemar_equals_the_enumeration_of_all_sign_flips(pairs):
    a, b = zip(*pairs, strict=True)
    decided = [x - y for x, y in pairs if x != y]
    extreme = abs(sum(decided))
    flips = [abs(sum(f)) for f in itertools.product([-1, 1], repeat=len(decided))]
    assert mcnemar_exact(a, b) == pytest.approx(np.mean([f >= extreme for f in flips]))


def test_bootstrap_intervals_cover_the_truth_as_often_as_they_say():
    random = np.random.default_rng(0)
    hits = []
    for trial in range(200):
        values = random.random(150) < 0.7
        interval = bootstrap_interval(values, draws=400, seed=trial)
        hits.append(interval.low <= 0.7 <= interval.high)
    assert 0.89 <= np.mean(hits) <= 0.99


def test_paired_bootstrap_sees_a_difference_and_no_difference():
    random = np.random.default_rng(1)
    first = random.random((5, 200)) < 0.8
    better = first | (random.random((5, 200)) < 0.4)
    found = paired_bootstrap(first, better)
    assert found.difference == pytest.approx(better.mean() - first.mean())
    assert 0 < found.low < found.difference < found.high
    assert found.p_value < 0.01
    same = paired_bootstrap(first, first)
    assert (same.difference, same.p_value) == (0.0, 1.0)


def test_two_rows_that_differ_prove_nothing():
    assert paired_bootstrap([0.0, 0.0, 1.0], [1.0, 1.0, 1.0]).p_value == 0.5


def test_seeds_that_disagree_widen_the_interval():
    rows = np.zeros((4, 300))
    steady, jumpy = rows + 0.1, rows + np.array([[0.3], [0.3], [-0.1], [-0.1]])
    narrow, wide = paired_bootstrap(rows, steady), paired_bootstrap(rows, jumpy)
    assert narrow.high - narrow.low < 1e-9
    assert wide.low < 0 < wide.high


def test_aligned_shares_equal_the_target():
    random = np.random.default_rng(2)
    votes = random.dirichlet([2.0, 1.0, 0.3], size=400)
    target = np.array([0.2, 0.3, 0.5])
    offsets = align_shares(votes, target)
    assert correct(votes, -offsets).mean(0) == pytest.approx(target, abs=1e-5)
    assert offsets.sum() == pytest.approx(0)


def test_expectation_maximisation_finds_a_shifted_prior():
    random = np.random.default_rng(3)
    source, shifted = np.array([0.5, 0.5]), np.array([0.85, 0.15])
    labels = random.choice(2, size=6000, p=shifted)
    x = random.normal(labels * 2.0 - 1.0, 1.0)
    posterior = 1 / (1 + np.exp(-2 * x))  # exact under the source prior
    votes = np.stack([1 - posterior, posterior], 1)
    assert em_prior(votes, source) == pytest.approx(shifted, abs=0.02)
    assert abs(votes.mean(0)[0] - shifted[0]) > 0.05  # the plain average does not
    assert mean_log_prior(votes).shape == (2,)


def test_the_error_bound_is_exact():
    from scipy.stats import binom

    for errors, rows in ((0, 10), (3, 40), (12, 30)):
        assert binom.cdf(errors, rows, upper_error_bound(errors, rows, 0.1)) == pytest.approx(0.1, abs=1e-6)
    assert upper_error_bound(5, 5, 0.1) == 1.0


def test_the_certified_precision_holds_as_often_as_promised():
    """Over 300 calibration draws, the kept rows miss the promised precision in at most delta of them."""
    random = np.random.default_rng(4)

    def draw(rows):
        sure = random.random(rows)
        return sure, random.random(rows) < 0.6 + 0.4 * sure

    broken = certified = 0
    for _ in range(300):
        found = certified_threshold(*draw(300), 0.9, delta=0.1)
        if found.certified:
            certified += 1
            t = found.threshold
            broken += 0.6 + 0.4 * (1 + t) / 2 < 0.9  # the true precision of rows above t
    assert certified > 100
    assert broken / 300 <= 0.1 + 0.05


def test_nothing_is_certified_on_too_few_rows():
    assert not certified_threshold([0.9] * 10, [True] * 10, 0.95).certified
    assert not certified_threshold([], [], 0.9).certified
    assert certified_threshold(np.linspace(0, 1, 100), [True] * 100, 0.95).coverage == 1.0


def test_evaluation_equals_the_models_own_scores_and_survives_a_file(tiny_model, tmp_path):
    evaluation = evaluate(tiny_model, QUESTIONS, TASK)
    choices = tiny_model.choose([TASK.prompt(q) for q in QUESTIONS], [TASK.options(q) for q in QUESTIONS])
    for prediction, choice, question in zip(evaluation.predictions, choices, QUESTIONS, strict=True):
        assert prediction.answer == CHOICES[choice.best]
        assert prediction.confidence == pytest.approx(max(choice.probs))
        assert prediction.correct == (prediction.answer == question.answer)
    assert evaluation.metrics["accuracy"] == evaluation.correct.mean()
    evaluation.save(tmp_path / "e.json")
    assert Evaluation.load(tmp_path / "e.json") == evaluation
    assert summary(evaluation)["n"] == len(QUESTIONS)


def test_a_prior_moves_every_answer(tiny_model):
    for favoured in CHOICES:
        prior = {c: 0.0 if c == favoured else 1e3 for c in CHOICES}
        answers = {p.answer for p in evaluate(tiny_model, QUESTIONS, TASK, log_prior=prior).predictions}
        assert answers == {favoured}


def test_a_prompt_that_fails_is_wrong_and_says_why(tiny_model):
    long = Question(id="long", question="word " * 400, choices=CHOICES, answer="sport")
    evaluation = evaluate(tiny_model, [*QUESTIONS, long], TASK)
    assert evaluation.metrics["failed"] == 1
    assert not evaluation.predictions[-1].correct
    assert "256 tokens" in str(evaluation.predictions[-1].error)


def test_probabilities_that_are_not_numbers_are_no_answer(tiny_model):
    with torch.no_grad():
        tiny_model.module.model.norm.weight[0] = float("nan")
    evaluation = evaluate(tiny_model, QUESTIONS, TASK)
    assert evaluation.metrics["failed"] == len(QUESTIONS)
    assert evaluation.metrics["accuracy"] == 0
    assert {p.answer for p in evaluation.predictions} == {None}
    assert "not numbers" in str(evaluation.predictions[0].error)


def test_free_form_answers_are_generated_and_matched(tiny_model):
    text = tiny_model.generate(["Question: where?\nAnswer:"], __import__("evolvent").Sampling(max_tokens=8))[0][0].text
    gold = TextTask().parse(text, Question(id="1", question="where?"))
    question = Question(id="1", question="where?", answer=gold)
    evaluation = evaluate(tiny_model, [question], TextTask(), max_tokens=8)
    assert evaluation.metrics["accuracy"] == 1.0
    assert evaluation.metrics["f1"] > 0


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 5))
def test_comparison_lists_exactly_the_changed_answers(changed):
    def made(answers):
        from evolvent.evaluation.evaluate import Prediction, measure

        predictions = tuple(Prediction(str(i), a, "sport", a == "sport", 0.5) for i, a in enumerate(answers))
        return Evaluation(predictions, measure(predictions))

    before = made(["business"] * 6)
    after = made(["sport"] * changed + ["business"] * (6 - changed))
    comparison = compare(before, after)
    assert len(comparison.changed) == changed
    assert comparison.test.difference == pytest.approx(changed / 6)
    assert comparison.p_value == pytest.approx(min(1.0, 2 * 0.5**changed if changed else 1.0))


def test_only_the_same_questions_are_compared(tiny_model):
    with pytest.raises(DataError, match="not of the same questions"):
        compare(evaluate(tiny_model, QUESTIONS, TASK), evaluate(tiny_model, QUESTIONS[1:], TASK))
    with pytest.raises(DataError, match="no answer to compare with"):
        evaluate(tiny_model, [Question(id="1", question="?", choices=CHOICES)], TASK)
