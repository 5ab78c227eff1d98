"""Matches: common random numbers, independence of what else is played, records, and both engines alike."""

from __future__ import annotations

import numpy as np
import pytest

from evolvent.errors import ConfigError
from evolvent.methods.strategist.belief_tables import fit_tables, record_of
from evolvent.methods.strategist.games.avalon import Avalon
from evolvent.methods.strategist.games.gops import Gops
from evolvent.methods.strategist.matches import Seat, draw_move, pair_seeds, play, play_pairs
from evolvent.methods.strategist.search.evaluators import Rollouts, by_player, program
from evolvent.methods.strategist.search.settings import SearchSettings

SHORT = SearchSettings(budget=12)
GOPS, AVALON = Gops(4), Avalon(5)


def seats_of(game):
    weights = np.arange(1, len(game.encoding) + 1)
    first = {"sorted_match": 1.0} if game is GOPS else {"quest_lead": 0.3, "clean_team": 0.2}
    tables = None
    if game is AVALON:
        finals = play(game, [Seat(None)], np.zeros((20, 5), int), pair_seeds(9, 20)).finals
        tables = fit_tables(map(record_of, finals))
    return [
        Seat(program(game, first), SHORT),
        Seat(Rollouts(1), SHORT, tables),
        Seat(lambda rows: by_player(game, rows, np.sin(rows.astype(float) @ weights)), SHORT, tables),
        Seat(None),
    ]


def random_seating(game, games):
    return np.random.default_rng(0).integers(0, 4, (games, game.num_players))


def equal(one, other):
    np.testing.assert_array_equal(one.returns, other.returns)
    for a, b in zip(vars(one.replay).values(), vars(other.replay).values(), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.tobytes() == b.tobytes()  # the sign of zero, too: it is printed in prompts


@pytest.mark.parametrize(("game", "games"), [(GOPS, 24), (AVALON, 3)], ids=["gops", "avalon"])
def test_compiled_and_reference_engines_play_the_same_matches(game, games, monkeypatch):
    seats, seating, seeds = seats_of(game), random_seating(game, games), pair_seeds(3, games)
    fast = play(game, seats, seating, seeds, record=True)
    monkeypatch.setenv("EVOLVENT_COMPILED", "0")
    assert game.kernels() is None
    equal(play(game, seats, seating, seeds, record=True), fast)


@pytest.mark.parametrize(("game", "games"), [(GOPS, 20), (AVALON, 4)], ids=["gops", "avalon"])
def test_a_match_does_not_depend_on_the_others_of_a_call(game, games):
    seats, seating, seeds = seats_of(game), random_seating(game, games), pair_seeds(3, games)
    together = play(game, seats, seating, seeds).returns
    order = np.random.default_rng(1).permutation(games)
    apart = [play(game, seats, seating[part], seeds[part]).returns for part in np.array_split(order, 3)]
    np.testing.assert_array_equal(np.concatenate(apart), together[order])


def test_both_games_of_a_pair_have_the_same_prizes():
    seeds, seat = pair_seeds(5, 8), Seat(None)
    replay = play(GOPS, [seat, seat], np.tile([0, 1], (8, 1)), seeds, record=True).replay
    swapped = play(GOPS, [seat, seat], np.tile([1, 0], (8, 1)), seeds, record=True).replay
    np.testing.assert_array_equal(replay.states[:, 3], swapped.states[:, 3])
    assert len(np.unique(replay.states[:, 3])) == 4


def test_a_seat_against_its_like_wins_exactly_nothing():
    one, other = (Seat(program(GOPS, {"sorted_match": 1.0}), SHORT) for _ in range(2))
    margins = play_pairs(GOPS, one, other, 50, seed=1)
    assert margins.any()
    np.testing.assert_array_equal(margins[:, 0], -margins[:, 1])


def test_search_beats_chance_at_gops_and_on_both_sides_of_avalon():
    gops = play_pairs(GOPS, Seat(Rollouts(1), SHORT), Seat(None), 150, seed=1)
    assert gops.mean(0).min() > 0.5
    skilled, dull = Seat(program(AVALON, {"quest_lead": 0.3, "clean_quest": 0.2}), SHORT), Seat(None)
    avalon = play_pairs(AVALON, skilled, dull, 40, seed=1)
    even = play_pairs(AVALON, dull, dull, 40, seed=1)
    assert (avalon - even).mean() > 0.1


def test_a_pair_of_avalon_games_swaps_sides_not_roles():
    one, other = Seat(None), Seat(None)
    margins = play_pairs(AVALON, one, other, 30, seed=2)
    assert set(np.unique(margins)) <= {-1.0, 1.0}
    # Random play does not depend on the seat, so both games of a pair are one game seen from both sides.
    np.testing.assert_array_equal(margins[:, 0], -margins[:, 1])


def test_a_replay_tells_states_values_and_moves():
    seats = seats_of(GOPS)[:2]
    matches = play(GOPS, seats, np.tile([0, 1], (5, 1)), pair_seeds(1, 5), record=True)
    replay = matches.replay
    assert replay.states.shape == (15, 8)  # the last of four rounds is forced
    assert np.bincount(replay.game).tolist() == [3] * 5
    assert np.isfinite(replay.search).all()
    assert np.isfinite(replay.leaf[:, 0]).all()
    assert np.isnan(replay.leaf[:, 1]).all()
    hands = replay.states[:, 0]
    assert all(hand >> (card - 1) & 1 for hand, card in zip(hands, replay.actions[:, 0], strict=True))


@pytest.mark.parametrize("seating", [np.zeros((2, 3), int), np.full((2, 2), 1)])
def test_a_seating_that_does_not_fit_is_refused(seating):
    with pytest.raises(ConfigError, match="seating"):
        play(GOPS, [Seat(None)], seating, pair_seeds(0, 2))


def test_moves_are_drawn_by_their_probabilities():
    policy = np.array([[0.2, 0.0, 0.8], [1.0, 0.0, 0.0]])
    assert draw_move(policy, np.array([0.1, 0.999])).tolist() == [0, 0]
    assert draw_move(policy, np.array([0.2, 0.0])).tolist() == [2, 0]
    assert draw_move(np.array([0.5, 0.49999, 0.0]), np.array(0.9999999)) == 1
