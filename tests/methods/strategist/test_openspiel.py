"""Games of OpenSpiel here, and ours there."""

from __future__ import annotations

import random

import numpy as np
import pytest

from evolvent.errors import ConfigError
from evolvent.methods.strategist.games.openspiel import describe
from evolvent.methods.strategist.games.openspiel_export import register
from evolvent.methods.strategist.games.protocol import CHANCE, IllegalActionError
from evolvent.methods.strategist.games.registry import make_game
from evolvent.methods.strategist.matches import Seat, pair_seeds, play, play_pairs
from evolvent.methods.strategist.search.evaluators import Rollouts
from evolvent.methods.strategist.search.settings import SearchSettings

pyspiel = pytest.importorskip("pyspiel", reason="OpenSpiel is not installed (pip install open_spiel)")
GOOFSPIEL = "openspiel:goofspiel(num_cards=3,points_order=random,returns_type=point_difference)"


@pytest.mark.parametrize("name", [GOOFSPIEL, "openspiel:tic_tac_toe", "openspiel:leduc_poker"])
def test_their_games_are_played_here_to_their_own_returns(name):
    game, choose = make_game(name), random.Random(1).choice
    for _ in range(5):
        state, twin = game.initial(0), pyspiel.load_game(name.removeprefix("openspiel:")).new_initial_state()
        while actors := game.actors(state):
            actions = {p: choose(game.legal(state, p)) for p in actors}
            if twin.is_simultaneous_node():
                twin.apply_actions([actions[p] for p in range(game.num_players)])
            else:
                twin.apply_action(next(iter(actions.values())))
            before, state = state, game.step(state, actions)
            assert before != state
            assert game.view(game.encode([state])[0])["text"] == str(twin)
        assert game.returns(state).tolist() == twin.returns()


def test_search_plays_their_games_well():
    seat = Seat(Rollouts(1), SearchSettings(budget=60, move="visits"))
    margins = play_pairs(make_game("openspiel:tic_tac_toe"), seat, Seat(None), 10, seed=1)
    assert margins.mean() > 0.4
    assert play_pairs(make_game(GOOFSPIEL), seat, Seat(None), 20, seed=1).mean() > 0.1


def test_a_game_with_hidden_cards_can_be_played_but_not_searched():
    game = make_game("openspiel:leduc_poker")
    assert not describe("leduc_poker")["searchable"]
    assert play(game, [Seat(None)], np.zeros((3, 2), int), pair_seeds(0, 3)).returns.sum() == 0
    with pytest.raises(ConfigError, match="hides information"):
        play(game, [Seat(Rollouts(1))], np.zeros((1, 2), int), pair_seeds(0, 1))


@pytest.mark.parametrize("name", ["openspiel:no_such_game", "chess960"])
def test_an_unknown_game_is_named(name):
    with pytest.raises(ConfigError, match=name.removeprefix("openspiel:")):
        make_game(name)


def test_an_illegal_action_is_refused():
    game = make_game("openspiel:tic_tac_toe")
    with pytest.raises(IllegalActionError):
        game.step(game.initial(0), {0: 99})


@pytest.mark.parametrize(
    "name",
    ["evolvent_gops(num_cards=4,ties=discard)", "evolvent_avalon(num_players=5)", "evolvent_avalon(roles=morgana)"],
)
def test_our_games_are_played_there_to_our_returns(name):
    register()
    spiel, choose = pyspiel.load_game(name), random.Random(2).choice
    for _ in range(10):
        state = spiel.new_initial_state()
        while not state.is_terminal():
            if state.is_chance_node():
                state.apply_action(choose([outcome for outcome, _ in state.chance_outcomes()]))
            elif state.is_simultaneous_node():
                state.apply_actions([choose(state.legal_actions(p)) for p in range(spiel.num_players())])
            else:
                state.apply_action(choose(state.legal_actions()))
            copied = state.clone()
            assert str(copied) == str(state)
        assert min(state.returns()) >= spiel.min_utility()
        assert max(state.returns()) <= spiel.max_utility()
        assert any(state.returns()) or "gops" in name


def test_openspiels_own_algorithms_run_on_our_game():
    from open_spiel.python.algorithms import expected_game_score
    from open_spiel.python.policy import UniformRandomPolicy

    register()
    ours = pyspiel.load_game("evolvent_gops(num_cards=3,ties=discard)")
    theirs = pyspiel.load_game("goofspiel(num_cards=3,points_order=random,returns_type=point_difference)")
    scores = [expected_game_score.policy_value(g.new_initial_state(), UniformRandomPolicy(g)) for g in (ours, theirs)]
    np.testing.assert_allclose(scores, 0, atol=1e-9)
    assert CHANCE == pyspiel.PlayerId.CHANCE
