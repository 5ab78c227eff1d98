"""GOPS: the rules, and that the compiled engine plays the same games."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvent.errors import ConfigError
from evolvent.methods.strategist.games.gops import Gops, GopsState
from evolvent.methods.strategist.games.protocol import CHANCE, IllegalActionError
from evolvent.methods.strategist.games.registry import make_game
from evolvent.methods.strategist.games.rng import Stream, first_below, first_uniform, key_of, keys_of

numba = pytest.importorskip("numba", reason="the compiled engine needs numba (pip install evolvent[games])")
GAMES = st.builds(Gops, st.integers(2, 16), st.sampled_from(["carry", "discard"]), st.booleans())


def played(game, choose):
    """Every state of a game played by `choose(legal)`."""
    states = [game.initial()]
    while actors := game.actors(states[-1]):
        actions = {p: choose(game.legal(states[-1], p)) for p in actors}
        states.append(game.step(states[-1], actions))
    return states


def test_a_tie_carries_its_prize_to_the_next_round():
    game = Gops(3)
    state = game.step(game.step(game.initial(), {CHANCE: 2}), {0: 3, 1: 3})
    assert state == GopsState((1, 2), (1, 2), (1, 3), 0, 2, 0, 0)
    state = game.step(game.step(state, {CHANCE: 3}), {0: 2, 1: 1})
    assert (state.score0, state.score1, state.carry) == (5, 0, 0)


def test_what_is_carried_after_the_last_round_is_lost():
    game = Gops(2)
    state = game.initial()
    for prize, bid in ((1, 1), (2, 2)):
        state = game.step(game.step(state, {CHANCE: prize}), {0: bid, 1: bid})
    assert state.carry == 3
    assert game.returns(state).tolist() == [0, 0]
    assert game.actors(state) == ()


@pytest.mark.parametrize(
    "wrong", [{"num_cards": 1}, {"num_cards": 17}, {"num_cards": 6.5}, {"num_cards": "six"}, {"ties": "split"},
              {"win_loss": "yes please"}, {"cards": 3}],
)  # fmt: skip
def test_settings_out_of_bounds_are_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        make_game("gops", **wrong)


@pytest.mark.parametrize("actions", [{0: 1}, {0: 1, 1: 9}, {0: 1, 1: 1, CHANCE: 1}, {CHANCE: 2}])
def test_an_illegal_action_says_who_what_and_what_is_legal(actions):
    game = Gops(3)
    state = game.step(game.initial(), {CHANCE: 2})
    with pytest.raises(IllegalActionError, match="bid") as caught:
        game.step(state, actions)
    assert caught.value.legal in ((1, 2, 3), ())
    assert state == GopsState((1, 2, 3), (1, 2, 3), (1, 3), 2, 0, 0, 0)


def test_nobody_acts_after_the_end():
    game = Gops(2)
    end = played(game, max)[-1]
    with pytest.raises(IllegalActionError, match="over"):
        game.step(end, {0: 1, 1: 1})


@settings(max_examples=60, deadline=None)
@given(GAMES, st.randoms(use_true_random=False))
def test_points_are_conserved_and_encoding_loses_nothing(game, random):
    for state in played(game, random.choice):
        on_table = sum(state.deck) + state.prize + state.carry + state.score0 + state.score1
        everything = game.num_cards * (game.num_cards + 1) // 2
        assert on_table == everything if game.ties == "carry" else on_table <= everything
        row = game.encode([state])[0]
        assert game.decode(row) == state
        assert game.stage(row[None])[0] == len(state.hand0)


@settings(max_examples=40, deadline=None)
@given(GAMES, st.randoms(use_true_random=False))
def test_the_view_of_a_row_tells_who_holds_and_who_has_played_what(game, random):
    everything = set(range(1, game.num_cards + 1))
    for state in played(game, random.choice):
        view = game.view(game.encode([state])[0])
        assert (view["hand0"], view["hand1"], view["deck"]) == (list(state.hand0), list(state.hand1), list(state.deck))
        assert (set(view["bids0"]), set(view["bids1"])) == (
            everything - set(state.hand0),
            everything - set(state.hand1),
        )
        assert set(view["prizes"]) == everything - set(state.deck)
        assert view["prizes"][-1:] == ([state.prize] if state.prize else view["prizes"][-1:])
        assert (view["to_play"], view["carry"], view["score0"]) == (state.prize, state.carry, state.score0)


@settings(max_examples=40, deadline=None)
@given(GAMES, st.randoms(use_true_random=False))
def test_features_change_sign_when_players_swap_and_are_the_compiled_ones(game, random):
    states = played(game, random.choice)
    swapped = [GopsState(s.hand1, s.hand0, s.deck, s.prize, s.carry, s.score1, s.score0) for s in states]
    found = game.features(game.encode(states))
    np.testing.assert_array_equal(game.features(game.encode(swapped)), -found)
    np.testing.assert_array_equal(found, np.array([game._features(s) for s in states], np.float32))


@pytest.mark.parametrize("num_cards", [2, 6, 16])
@pytest.mark.parametrize("ties", ["carry", "discard"])
def test_the_compiled_engine_plays_the_same_games(num_cards, ties):
    game = Gops(num_cards, ties)
    stream, counter = Stream(key_of(11)), np.array([key_of(11)], np.uint64)
    fast = game.kernels().random_games(100, num_cards, int(ties == "carry"), 0, counter)
    slow = [game.returns(played(game, lambda legal: legal[stream.below(len(legal))])[-1])[0] for _ in range(100)]
    assert fast.tolist() == slow
    assert int(counter[0]) == stream.state


def test_streams_are_the_same_in_python_in_numpy_and_compiled():
    from evolvent.methods.strategist.games import rng_kernels

    seeds = np.array([0, 1, 2**63, 2**64 - 1], np.uint64)
    keys = keys_of(seeds, 5, CHANCE)
    assert keys.tolist() == [key_of(int(seed), 5, CHANCE) for seed in seeds]
    assert first_below(keys, 7).tolist() == [Stream(int(key)).below(7) for key in keys]
    assert first_uniform(keys).tolist() == [Stream(int(key)).uniform() for key in keys]
    counter = np.array([keys[2]], np.uint64)
    stream = Stream(int(keys[2]))
    for n in (2, 1, 1000, 3):
        assert rng_kernels.below(counter, n) == stream.below(n)
        assert rng_kernels.uniform(counter) == stream.uniform()
    assert int(rng_kernels.combine(np.uint64(key_of(9)), -1)) == key_of(9, -1)


def test_draws_are_uniform():
    stream = Stream(3)
    counts = np.bincount([stream.below(6) for _ in range(6000)], minlength=6)
    assert ((counts - 1000) ** 2 / 1000).sum() < 20.5  # chi square, 5 degrees of freedom, p = 0.001


def test_returns_are_those_of_goofspiel_in_openspiel_over_10000_games():
    pyspiel = pytest.importorskip("pyspiel", reason="OpenSpiel is not installed (pip install open_spiel)")
    num_cards, choose = 6, random.Random(0).choice
    ours = Gops(num_cards, ties="discard")
    spiel = "goofspiel(num_cards=6,points_order=random,returns_type=point_difference)"
    theirs = pyspiel.load_game(spiel)
    for _ in range(10_000):
        state, other = ours.initial(), theirs.new_initial_state()
        while actors := ours.actors(state):
            actions = {p: choose(ours.legal(state, p)) for p in actors}
            if not other.is_terminal():  # OpenSpiel plays the forced last round by itself
                drawn = CHANCE in actions
                other.apply_action(actions[CHANCE] - 1) if drawn else other.apply_actions(
                    [actions[0] - 1, actions[1] - 1]
                )
            state = ours.step(state, actions)
        assert other.is_terminal()
        # OpenSpiel counts points against the mean of both players, which is half of their difference.
        assert ours.returns(state).tolist() == [2 * points for points in other.returns()]
