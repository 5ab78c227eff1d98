"""Tree, queue, ratings, programs, proposers, what is read out of a model's answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvent.errors import ConfigError, DataError
from evolvent.methods.strategist.baselines.learning import ridge
from evolvent.methods.strategist.dialogue.acts import Act, heard, parse_act
from evolvent.methods.strategist.dialogue.spoken import Heard, mean_evidence, read_evidence, speech_score
from evolvent.methods.strategist.games.avalon_rules import ROLES
from evolvent.methods.strategist.games.registry import make_game
from evolvent.methods.strategist.ideas import IdeaQueue
from evolvent.methods.strategist.matches import Seat, play_pairs
from evolvent.methods.strategist.proposers import Replay
from evolvent.methods.strategist.proposers.prompting import key_states, parse_code, parse_ideas, parse_json
from evolvent.methods.strategist.proposers.residual import ResidualProposer
from evolvent.methods.strategist.proposers.uniform import UniformProposer
from evolvent.methods.strategist.ratings import Match, margin_ratings, side_ratings
from evolvent.methods.strategist.sandbox.language import SkillError
from evolvent.methods.strategist.sandbox.workers import Limits
from evolvent.methods.strategist.search.evaluators import Rollouts
from evolvent.methods.strategist.search.settings import SearchSettings
from evolvent.methods.strategist.skills import skill_from
from evolvent.methods.strategist.skills.code import reachable_states
from evolvent.methods.strategist.skills.guide import GuideSkill
from evolvent.methods.strategist.skills.program import Edit, Expression, ProgramSkill, expressions, seed_program
from evolvent.methods.strategist.tournament import Player, self_play
from evolvent.methods.strategist.tree import Node, StrategyTree, draw_softmax

GAME = make_game("gops", num_cards=6)


@pytest.fixture(scope="module")
def replay():
    player = Player.of("seed", seed_program(GAME))
    return Replay.for_team_zero(GAME, self_play(GAME, player, SearchSettings(budget=8), Limits(), 60, 3))


def match(first: str, second: str, margins: list[float]) -> Match:
    column = np.array(margins, float)
    return Match(first, second, column, np.stack([column, column], 1))


# ---------------------------------------------------------------------------------------------------------- ratings


def test_ratings_are_the_minimum_of_their_sum_of_squares():
    random = np.random.default_rng(0)
    matches = [
        match(a, b, random.normal(i - j, 2, 20).tolist())
        for i, a in enumerate("abc")
        for j, b in enumerate("abc")
        if i < j
    ]
    rated = margin_ratings(matches, list("abc"), l2=1.0)

    def loss(theta):
        squares = [
            (m.margins.mean() - theta["abc".index(m.first)] + theta["abc".index(m.second)]) ** 2 for m in matches
        ]
        return sum(20 / rated.spread**2 * s for s in squares) + (theta**2).sum() / rated.spread**2

    for step in np.vstack([np.eye(3), -np.eye(3)]) * 1e-3:
        assert loss(rated.theta) < loss(rated.theta + step)


def test_ratings_of_draws_alone_are_equal_and_finite():
    rated = margin_ratings([match("a", "b", [0.0] * 8)], ["a", "b"])
    assert rated.theta.tolist() == [0.0, 0.0]
    assert np.isfinite(rated.error("a"))
    assert not rated.behind("a", "b")


def test_whoever_is_clearly_worse_is_behind():
    rated = margin_ratings([match("a", "b", [3.0, 4.0, 5.0] * 20)], ["a", "b"])
    assert rated.behind("b", "a")
    assert not rated.behind("a", "b")


def test_side_ratings_find_a_skill_that_is_good_on_one_side_only():
    good_only = np.tile([[1.0, -1.0]], (40, 1))  # a wins as team 0, loses as team 1
    effects = side_ratings([Match("a", "b", good_only.mean(1), good_only)], ["a", "b"])
    even = side_ratings([Match("a", "b", np.zeros(40), np.tile([[1.0, 1.0], [-1.0, -1.0]], (20, 1)))], ["a", "b"])
    assert abs(effects["a"][0] - effects["b"][0]) < 1e-6  # whoever is team 0 wins: a property of the game
    assert abs(even["a"][0] - even["b"][0]) < 1e-6
    always = np.tile([[1.0, 1.0]], (40, 1))
    assert side_ratings([Match("a", "b", always.mean(1), always)], ["a", "b"])["a"][0] > 0.5


# ------------------------------------------------------------------------------------------------------ tree and queue


def test_credit_is_the_mean_gain_and_untried_ideas_are_drawn():
    queue = IdeaQueue()
    first = queue.add("Count aces.", None, source="s0", evolution=1, proposer="x", prior=0.0)
    assert queue.add("count  ACES", None, source="s1", evolution=2, proposer="x", prior=0.0) is None
    second = queue.add("Count kings.", None, source="s0", evolution=1, proposer="x", prior=0.0)
    for gain in (1.0, 3.0, -1.0):
        queue.credit(first.id, gain)
    assert (first.score, first.tries) == (pytest.approx(1.0), 3)
    random = np.random.default_rng(0)
    drawn = [queue.select(random, c=1.4, temperature=1.0).id for _ in range(200)]
    assert 20 < drawn.count(second.id) < 180  # an untried idea is neither ignored nor always preferred
    assert queue.select(random, c=1.4, temperature=1.0, but=[first.id, second.id]) is None


def test_parents_are_drawn_from_the_best_two_of_the_whole_tree():
    tree = StrategyTree()
    root = tree.add(seed_program(GAME))
    for score in (1.0, 3.0, 2.0):
        tree.add(seed_program(GAME), parent=root).score = score
    tree.add(None, parent=root, failed="no").score = 9.0
    random = np.random.default_rng(1)
    assert {tree.select(random, topk=2, temperature=1.0).score for _ in range(60)} == {3.0, 2.0}
    assert tree.best.score == 3.0
    assert [n.id for n in tree.lineage(tree.best)] == ["s0", "s2"]


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=6), st.integers(0, 99))
def test_a_softmax_draw_is_one_of_the_options(scores, seed):
    assert draw_softmax(range(len(scores)), scores, 1.0, np.random.default_rng(seed)) in range(len(scores))


# ------------------------------------------------------------------------------------------------------------ programs


def test_a_program_survives_storage_and_its_evaluator_gives_its_values(replay):
    skill = ProgramSkill(
        {Expression("score_difference"): 1.0, Expression("sorted_match", "highest_card_difference"): 0.3,
         Expression("carry_to_stronger_hand", None, (1, 3)): -0.5}
    )  # fmt: skip
    again = skill_from(json.loads(json.dumps(skill.to_json())))
    assert again == skill
    from evolvent.methods.strategist.search.evaluators import batch_values

    ours = skill.values(GAME, replay.states, GAME.features(replay.states))
    assert np.allclose(batch_values(GAME, skill.evaluator(GAME), replay.states)[:, 0], ours)


def test_edits_change_one_thing_and_refuse_what_is_not_there():
    skill = seed_program(GAME)
    e = Expression("sorted_match")
    raised = skill.apply(Edit("shift", e, 0.5))
    assert raised.weights == {**skill.weights, e: 0.5}
    assert raised.apply(Edit("shift", e, -0.5)) == skill
    assert raised.apply(Edit("scale", e, 2.0)).weights[e] == 1.0
    assert raised.apply(Edit("drop", e)) == skill
    with pytest.raises(ConfigError, match="has no sorted_match"):
        skill.apply(Edit("drop", e))
    with pytest.raises(ConfigError, match="no feature 'nonsense'"):
        ProgramSkill({Expression("nonsense"): 1.0}).evaluator(GAME)
    with pytest.raises(DataError, match="kind must be one of"):
        skill_from({"kind": "magic"})


def test_refitted_weights_are_those_of_a_ridge_by_hand(replay):
    e = Expression("sorted_match")
    fitted = ProgramSkill({Expression("score_difference"): 9.0, e: 9.0}).refit(
        GAME, replay.states, replay.outcome, ridge=20.0
    )
    features = GAME.features(replay.states)
    x = e.column(GAME, replay.states, features)
    y = replay.outcome - features[:, 0]
    size = np.sqrt((x**2).mean())
    expected = (x / size @ y) / ((x / size) @ (x / size) + 20.0) / size
    assert fitted.weights[Expression("score_difference")] == 1.0
    assert fitted.weights[e] == pytest.approx(expected)


def test_the_residual_proposer_finds_the_feature_that_was_left_out(replay):
    truth = ProgramSkill({Expression("score_difference"): 1.0, Expression("sorted_match"): 0.7})
    planted = truth.values(GAME, replay.states, GAME.features(replay.states))
    table = Replay(replay.game, replay.states, replay.search, replay.value, replay.actions, planted)
    ideas = ResidualProposer(1.0, structure=False).ideas(
        GAME, Node("s0", seed_program(GAME)), table, 3, np.random.default_rng(0)
    )
    assert ideas[0].edit == Edit("shift", Expression("sorted_match"), pytest.approx(0.7, abs=1e-5))
    assert len({d.edit.expression.feature for d in ideas}) == 3


def test_the_control_draws_sensible_edits(replay):
    ideas = UniformProposer(structure=True).ideas(
        GAME, Node("s0", seed_program(GAME)), replay, 5, np.random.default_rng(0)
    )
    assert len(ideas) == 5
    assert all(d.edit.expression in expressions(GAME, structure=True) for d in ideas)


def test_ridge_beats_the_seed():
    search = SearchSettings(budget=16, move="visits")
    learnt = ridge(GAME, search, episodes=100, iterations=2)
    margins = play_pairs(
        GAME, Seat(learnt.evaluator(GAME), search), Seat(seed_program(GAME).evaluator(GAME), search), 150, 5
    )
    assert margins.mean() > 1.0


@pytest.mark.parametrize("setting", ["paper", "strong"])
def test_a_value_net_learns_and_evaluates_for_both_players(setting):
    from evolvent.methods.strategist.baselines.value_net import value_net

    search = SearchSettings(budget=4, move="visits")
    net = value_net(GAME, search, setting=setting, episodes=40, iterations=2)
    again = value_net(GAME, search, setting=setting, episodes=40, iterations=2)
    states = GAME.encode([GAME.step(GAME.initial(0), {-1: 4})])
    assert np.array_equal(net(states), again(states))
    assert net(states)[0, 0] == -net(states)[0, 1]
    margins = play_pairs(GAME, Seat(net, search), Seat(Rollouts(1), search), 4, 5)
    assert np.isfinite(margins).all()


# -------------------------------------------------------------------------------------------------- models' answers


def test_key_states_are_the_largest_gaps_but_never_first_and_at_most_two_of_a_game(replay):
    rows = key_states(replay, 6, "discrepancy", np.random.default_rng(0))
    games = [int(replay.game[r]) for r in rows]
    assert all(games.count(g) <= 2 for g in games)
    assert all(replay.game[r] == replay.game[r - 1] for r in rows)
    gaps = (replay.search - replay.value) ** 2
    assert gaps[rows[0]] >= np.quantile(np.nan_to_num(gaps), 0.95)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Idea 1: a\nb\nIdea 2) c", ["a b", "c"]),
        ("idea 1. Same!\nIdea 2: same", ["same"]),
        ("1. nothing", []),
        ("**Idea 1:** x", ["** x"]),
    ],
)
def test_ideas_are_read(text, expected):
    assert parse_ideas(text, 5) == expected


def test_code_is_read_from_fences_and_without():
    body = "def evaluate_state(state):\n    return (1, 2), {}\n"
    assert parse_code(f"First\n```python\nx\n```\nthen\n```python\n{body}```") == body
    assert parse_code(f"Here you are:\n{body}I hope it helps.") == body
    assert parse_code("def evaluate_state(state):\n    x = 1\n") == ""
    assert parse_code("I cannot do that.") == ""


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=120))
def test_any_answer_of_a_listener_is_read_or_counted(text):
    found = read_evidence(text, 5)
    assert found.unread == (parse_json(text) is None)
    assert all(0 <= p < 5 and -2 <= e <= 2 for p, e in found.evidence.items())


def test_a_listeners_numbers_are_clamped_and_strangers_ignored():
    found = read_evidence('He lies. {"0": 5, "player 1": -1, "9": 2, "2": "much", "3": NaN}', 5)
    assert found.evidence == {0: 2.0, 1: -1.0}
    assert found.ignored == 3
    assert read_evidence("{0: 1, 1: -2}", 5).evidence == {0: 1.0, 1: -2.0}


def test_a_speech_that_makes_servants_suspicious_scores_below_zero():
    roles = [ROLES.index(r) for r in ("merlin", "servant", "servant", "assassin", "minion")]
    doubted = {p: Heard({3: 2.0, 0: -1.0}) for p in range(5)}
    hidden, found = ({p: Heard({0: e}) for p in range(5)} for e in (-1.0, 2.0))
    assert speech_score(3, roles, doubted, {}) == -2.0
    assert speech_score(0, roles, doubted, hidden) == 1.0
    assert speech_score(0, roles, doubted, found) == -2.0
    assert mean_evidence([Heard({1: 2.0}), Heard({})]) == {1: 1.0}


@given(st.sampled_from(["claim", "accuse", "vouch", "propose", "reject", "pass"]), st.integers(1, 1023))
def test_typed_acts_are_parsed_back_exactly(kind, seats):
    act = Act(kind, seats if kind in ("accuse", "vouch", "propose", "reject") else 0)
    assert parse_act(str(act)) == act


def test_words_of_one_who_looks_evil_count_for_nothing():
    act = Act("accuse", 1 << 2)
    assert heard(act, 0, np.array([0.9, 0.5, 0.5, 0.5, 0.5])) == {}
    assert heard(act, 0, np.array([0.0, 0.5, 0.5, 0.5, 0.5])) == {2: 2.0}


def test_guides_are_read_and_cut_to_six_questions():
    text = "\n".join(f"Q{i}: Who did what in round {i}?" for i in range(1, 9))
    guide = GuideSkill.parse("evil", text)
    assert len(guide.questions) == 6
    assert skill_from(guide.to_json()) == guide
    with pytest.raises(SkillError):
        GuideSkill.parse("evil", "I would rather not.")


def test_where_winning_counts_the_score_so_far_is_fitted_like_everything_else():
    game = make_game("gops", num_cards=6, win_loss=True)
    encoded = reachable_states(game, 130)
    features = game.features(encoded).astype(float)
    outcome = 0.1 * features[:, 0] + 0.05 * features[:, 1]
    skill = ProgramSkill({Expression("score_difference"): 1.0, Expression("hand_sum_difference"): 1.0})
    fitted = skill.refit(game, encoded, outcome, ridge=1e-6)
    assert list(fitted.weights.values()) == pytest.approx([0.1, 0.05], abs=1e-3)
