"""What search, self-play and skills rely on holds for every game."""

from __future__ import annotations

import json
import random
from itertools import pairwise

import numpy as np
import pytest

from evolvent.methods.strategist.games.protocol import CHANCE, IllegalActionError
from evolvent.methods.strategist.games.registry import make_game

GAMES = [
    ("gops", {"num_cards": 5}),
    ("gops", {"num_cards": 3, "ties": "discard", "win_loss": True}),
    ("avalon", {"num_players": 5}),
    ("avalon", {"num_players": 8, "roles": ["percival", "oberon"], "fifth": "auto_approve"}),
    ("openspiel:goofspiel(num_cards=4,points_order=random)", {}),
    ("openspiel:tic_tac_toe", {}),
]


@pytest.fixture(params=GAMES, ids=lambda game: f"{game[0][:12]}-{len(game[1])}")
def game(request):
    name, settings = request.param
    if name.startswith("openspiel"):
        pytest.importorskip("pyspiel", reason="OpenSpiel is not installed (pip install open_spiel)")
    return make_game(name, **settings)


def games(game, count=8):
    """Games played at random: lists of (state, actions)."""
    choose = random.Random(3).choice
    for seed in range(count):
        state, steps = game.initial(seed), []
        while actors := game.actors(state):
            actions = {p: choose(game.legal(state, p)) for p in actors}
            steps.append((state, actions))
            state = game.step(state, actions)
        yield [*steps, (state, {})]


def test_its_name_and_settings_make_it_again(game):
    again = make_game(game.name, **game.settings)
    for one, other in zip(games(game, 3), games(again, 3), strict=True):
        assert game.encode([s for s, _ in one]).tolist() == again.encode([s for s, _ in other]).tolist()


def test_a_step_leaves_the_state_as_it_was_and_repeats(game):
    for steps in games(game):
        for (state, actions), (after, _) in pairwise(steps):
            before = game.encode([state]).tolist()
            assert game.step(state, actions) == after
            assert game.encode([state]).tolist() == before
            assert hash(game.step(state, actions)) == hash(after)


def test_actions_come_ascending_and_only_to_actors(game):
    for steps in games(game):
        for state, _ in steps:
            actors = game.actors(state)
            for player in (CHANCE, *range(game.num_players)):
                legal = game.legal(state, player)
                assert list(legal) == sorted(set(legal))
                assert bool(legal) == (player in actors)
            chances = game.chance(state)
            assert bool(chances) == (actors == (CHANCE,))
            assert sum(p for _, p in chances) == pytest.approx(1 if chances else 0)


def test_whatever_is_illegal_is_refused(game):
    for steps in games(game, 2):
        for state, actions in steps:
            for wrong in ({}, {**actions, game.num_players: 0}, dict.fromkeys(actions, 10000)):
                if wrong != actions:
                    with pytest.raises(IllegalActionError):
                        game.step(state, wrong)


def test_returns_come_at_the_end_and_are_equal_within_a_team(game):
    for steps in games(game):
        for state, _ in steps[:-1]:
            assert not game.returns(state).any()
        end = steps[-1][0]
        returns, teams = game.returns(end), game.teams(end)
        assert returns.shape == (game.num_players,)
        for team in set(teams):
            assert len({r for r, t in zip(returns, teams, strict=True) if t == team}) == 1


def test_every_state_has_rows_features_a_view_and_a_text(game):
    for steps in games(game, 3):
        states = [state for state, _ in steps]
        rows = game.encode(states)
        assert (rows.shape, rows.dtype) == ((len(states), len(game.encoding)), np.int16)
        assert game.features(rows).shape == (len(states), len(game.feature_names))
        assert game.sides(rows).shape == (len(states), game.num_players)
        assert (np.diff(game.stage(rows)) <= 0).all()
        for state, row in zip(states, rows, strict=True):
            json.dumps(game.view(row.tolist()))
            for viewer in (None, *range(game.num_players)):
                assert game.render(state, viewer)


def test_a_player_can_complete_what_he_knows_to_the_true_state(game):
    for steps in games(game, 1):
        for state, _ in steps[:: max(1, len(steps) // 4)]:
            for player in range(game.num_players):
                info = game.info(state, player)
                hash(info)
                assignments = game.assignments(info)
                completed = [game.complete(info, assignment) for assignment in assignments[:40]]
                assert all(game.info(c, player) == info for c in completed)
                truth = getattr(state, "roles", None)
                assert truth is None or truth in assignments
