"""Search: that the compiled form is the readable one bit for bit, and that what it finds is right."""

from __future__ import annotations

import numpy as np
import pytest

from evolvent.errors import ConfigError
from evolvent.methods.strategist.games.avalon import Avalon
from evolvent.methods.strategist.games.gops import Gops, GopsState
from evolvent.methods.strategist.games.protocol import CHANCE, draw_outcome
from evolvent.methods.strategist.games.rng import Stream, key_of
from evolvent.methods.strategist.search.avalon_forest import AvalonForest
from evolvent.methods.strategist.search.evaluators import (
    LinearProgram,
    Rollouts,
    Term,
    Zero,
    batch_values,
    by_player,
    program,
)
from evolvent.methods.strategist.search.gops_forest import GopsForest
from evolvent.methods.strategist.search.information_set import InformationSetSearch
from evolvent.methods.strategist.search.settings import SearchSettings, move_policy
from evolvent.methods.strategist.search.simultaneous import Tree

compiled = pytest.mark.skipif(not Gops(2).kernels(), reason="the compiled engine needs numba")


def random_program(game, seed, bound=float("inf")):
    draw = np.random.default_rng(seed)
    features = len(game.feature_names)
    terms = [
        Term(float(draw.normal()), int(draw.integers(features)), int(draw.integers(-1, features)), (0, int(gate)))
        for gate in draw.integers(1, 9, size=15)
    ]
    return LinearProgram(tuple(terms), bias=0.25, bound=bound)


def evaluators(game):
    weights = np.arange(1, len(game.encoding) + 1)
    return {
        "program": random_program(game, 0, bound=6.0),
        "rollouts": Rollouts(2),
        "zero": Zero(),
        "batch": lambda rows: by_player(game, rows, np.sin(rows.astype(float) @ weights)),
    }


def same(one, other):
    assert one.actions == other.actions
    for p in one.actions:
        np.testing.assert_array_equal(one.visits[p], other.visits[p])
        np.testing.assert_array_equal(one.values[p], other.values[p])
        np.testing.assert_array_equal(one.policy[p], other.policy[p])
    np.testing.assert_array_equal(one.value, other.value)


@compiled
@pytest.mark.parametrize("kind", ["program", "rollouts", "zero", "batch"])
@pytest.mark.parametrize("selection", ["duct", "rm", "serial"])
@pytest.mark.parametrize("settings", [(4, "carry", False), (6, "discard", True)])
def test_sm_mcts_compiled_is_the_readable_one_through_a_whole_warm_game(settings, selection, kind):
    game = Gops(*settings)
    evaluator = evaluators(game)[kind]
    search = SearchSettings(budget=40, selection=selection, move="average" if selection == "rm" else "sample")
    tree, forest = Tree(game, evaluator, search), GopsForest(game, evaluator, search, trees=3)
    state, chance, ply = game.initial(), Stream(1), 0
    while actors := game.actors(state):
        if actors == (CHANCE,):
            state = game.step(state, {CHANCE: draw_outcome(game, state, chance)})
            continue
        seed, ply = key_of(7, ply), ply + 1
        slow = tree.search(state, seed)
        seeds = np.array([seed, seed + 1], np.uint64)
        fast = forest.search(game.encode([state, state]), np.array([2, 0]), seeds)
        same(slow, fast[0])
        state = game.step(state, {p: slow.best(p) for p in (0, 1)})


@compiled
@pytest.mark.parametrize("kind", ["program", "rollouts", "zero", "batch"])
@pytest.mark.parametrize(("players", "roles"), [(5, ()), (7, ("percival", "morgana", "oberon"))])
def test_mo_ismcts_compiled_is_the_readable_one(players, roles, kind):
    game = Avalon(players, roles)
    evaluator, settings = evaluators(game)[kind], SearchSettings(budget=40)
    belief = np.random.default_rng(1).random(len(game.role_set.assignments))
    wanted, stream = [], Stream(3)
    for deal in range(3):
        state = game.initial(deal)
        while actors := game.actors(state):
            legal = {p: game.legal(state, p) for p in actors}
            for p, options in legal.items():
                if len(options) > 1 and stream.below(6) == 0:
                    info = game.info(state, p)
                    known = game.role_set.knowledge[:, p] == info.role | info.seen << 4
                    wanted.append((state, p, np.cumsum(belief * known), key_of(deal, len(wanted))))
            state = game.step(state, {p: options[stream.below(len(options))] for p, options in legal.items()})
    assert len({game.phase(w[0]) for w in wanted}) >= 3
    fast = AvalonForest(game, evaluator, settings).search(*map(list, zip(*wanted, strict=True)))
    for (state, p, running, seed), found in zip(wanted, fast, strict=True):
        slow = InformationSetSearch(game, evaluator, settings, game.role_set.assignments, running)
        same(slow.search(state, p, seed), found)


LAST_TWO = GopsState((1, 3), (1, 2), (1,), 5, 0, 0, 0)  # the 3 wins the 5 for sure; the 1 gives it away or ties


@pytest.mark.parametrize("selection", ["duct", "rm", "serial"])
def test_a_dominant_bid_is_found(selection):
    tree = Tree(Gops(6), Zero(), SearchSettings(budget=400, selection=selection, move="average"))
    found = tree.search(LAST_TWO, seed=1)
    assert found.best(0) == 3
    assert found.policy[0][1] > 0.8
    assert found.values[0][1] > found.values[0][0]


def test_values_are_true_returns_where_the_tree_reaches_the_end():
    state = GopsState((3,), (2,), (), 5, 2, 1, 4)
    calls = []

    def evaluator(rows):
        calls.append(rows)
        return np.zeros((len(rows), 2))

    found = Tree(Gops(6), evaluator, SearchSettings(budget=10, selection="duct")).search(state, seed=1)
    assert found.value.tolist() == [4, -4]  # 1 + 5 + 2 against 4
    assert calls == []


def test_auto_is_duct_below_300_simulations_and_regret_matching_from_there():
    assert [SearchSettings(budget=b).resolved(hidden=False) for b in (299, 300)] == ["duct", "rm"]
    assert SearchSettings(budget=1000).resolved(hidden=True) == "ismcts"
    assert SearchSettings(selection="rm").resolved(hidden=True) == "ismcts"
    with pytest.raises(ConfigError, match="ismcts is for hidden information"):
        SearchSettings(selection="ismcts").resolved(hidden=False)


def test_regret_matching_plays_the_equilibrium_of_a_matrix_game():
    # With hands {1, 2}, carry and a sure last prize the subgame has the mixed equilibrium that a linear program finds.
    from evolvent.methods.strategist.exploitability import solve_matrix

    game, state = Gops(4, ties="discard"), GopsState((1, 2, 4), (1, 2, 3), (3, 4), 2, 0, 0, 0)
    found = Tree(game, Zero(), SearchSettings(budget=6000, selection="rm", move="average")).search(state, seed=2)

    def value(s):
        if not game.actors(s):
            return game.returns(s)[0]
        if not s.prize:
            return np.mean([value(game.step(s, {CHANCE: prize})) for prize in s.deck])
        return solve_matrix(np.array([[value(game.step(s, {0: a, 1: b})) for b in s.hand1] for a in s.hand0]))[0]

    matrix = np.array([[value(game.step(state, {0: a, 1: b})) for b in state.hand1] for a in state.hand0])
    worst = (found.policy[0] @ matrix).min()  # what the found strategy secures
    assert worst > solve_matrix(matrix)[0] - 0.25


def test_a_programs_gates_products_and_bound_mean_what_they_say():
    game = Gops(6)
    early = GopsState((1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 3), 6, 0, 5, 2)
    late = GopsState((1, 4), (1, 2), (1,), 6, 0, 5, 2)
    skill = LinearProgram((Term(2.0, 0), Term(-1.0, 0, times=1, gate=(3, 9))))
    lead, hand = 3, -1  # score difference of both states, hand-sum difference of the early one
    expected = [2.0 * lead - lead * abs(hand), 2.0 * lead]
    assert batch_values(game, skill, game.encode([early, late])).tolist() == [[v, -v] for v in expected]
    bounded = LinearProgram(skill.terms, bound=2.0)
    assert batch_values(game, bounded, game.encode([late])).tolist() == [[2.0, -2.0]]


def test_programs_name_features_of_the_game():
    assert program(Gops(4), {"sorted_match": 2.0}).terms == (Term(2.0, 8),)
    with pytest.raises(ConfigError, match="luck"):
        program(Gops(4), {"luck": 1.0})


@pytest.mark.parametrize("values", [np.zeros(3), np.full((1, 2), np.nan)])
def test_an_evaluator_of_wrong_shape_or_value_is_refused(values):
    tree = Tree(Gops(4), lambda rows: values, SearchSettings(budget=5))
    with pytest.raises(ConfigError, match="finite values of shape"):
        tree.search(GopsState((1, 2), (1, 2), (2,), 1, 0, 0, 0), seed=1)


def test_hidden_information_is_not_for_public_trees():
    with pytest.raises(ConfigError, match="hidden information"):
        Tree(Gops(4), Zero(), SearchSettings(selection="ismcts"))


@pytest.mark.parametrize("wrong", [{"budget": 0}, {"temperature": 0.0}, {"gamma": 1.5}])
def test_settings_out_of_bounds_are_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SearchSettings(**wrong)


def test_moves_are_drawn_from_visits_or_the_average_strategy():
    visits, average = np.array([6.0, 3.0, 1.0]), np.array([0.0, 1.0, 3.0])
    assert move_policy(visits, average, SearchSettings(move="visits")).tolist() == [1, 0, 0]
    assert move_policy(visits, average, SearchSettings(move="sample")).tolist() == [0.6, 0.3, 0.1]
    cold = move_policy(visits, average, SearchSettings(move="sample", temperature=0.5))
    np.testing.assert_allclose(cold, np.array([36, 9, 1]) / 46)
    assert move_policy(visits, average, SearchSettings(move="average")).tolist() == [0, 0.25, 0.75]
