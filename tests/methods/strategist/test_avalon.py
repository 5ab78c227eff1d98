"""Avalon: the printed rules, who knows what, and that the compiled engine plays the same games."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from evolvent.errors import ConfigError
from evolvent.methods.strategist.games.avalon import (
    ASSASSINATE,
    FAIL,
    GOOD,
    OVER,
    PROPOSE,
    QUEST,
    SUCCESS,
    VOTE,
    Avalon,
    AvalonState,
    Ballot,
    Proposal,
    QuestResult,
    Speech,
)
from evolvent.methods.strategist.games.avalon import EVIL as EVIL_WINS
from evolvent.methods.strategist.games.avalon_rules import ROLES, RoleSet, seen_by
from evolvent.methods.strategist.games.protocol import IllegalActionError
from evolvent.methods.strategist.games.registry import make_game
from evolvent.methods.strategist.games.rng import Stream, key_of
from evolvent.methods.strategist.proposers.llm import heading

ALL = ("percival", "morgana", "mordred", "oberon")
TABLES = [(5, (), "evil_wins"), (5, ("morgana",), "auto_approve"), (7, ALL[:2], "evil_wins"), (10, ALL, "evil_wins")]


def table(*names, **settings):
    """A game and its first state with these roles, leader 0."""
    roles = tuple(ROLES.index(name) for name in names)
    game = Avalon(len(names), [r for r in ALL if r in names], **settings)
    return game, AvalonState(roles, leader=0)


FIVE = ("merlin", "servant", "servant", "assassin", "minion")


def vote(game, state, approve):
    return game.step(state, {p: int(p in approve) for p in range(game.num_players)})


def quest(game, state, team, fails=()):
    """Propose, approve and play a team."""
    state = game.step(state, {state.leader: sum(1 << seat for seat in team)})
    state = vote(game, state, range(game.num_players))
    return game.step(state, {seat: FAIL if seat in fails else SUCCESS for seat in team})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"num_players": 4}, "5 to 10"),
        ({"num_players": 11}, "5 to 10"),
        ({"roles": ["morgana", "mordred"]}, "2 evil seats"),
        ({"roles": ["lancelot"]}, "lancelot"),
        ({"quest_sizes": [2, 3, 2, 3]}, "five sizes"),
        ({"quest_sizes": 3}, "five sizes"),
        ({"quest_sizes": [2, 3, 2, 3, "all"]}, "five sizes"),
        ({"roles": "percival"}, r"list such as \[percival"),
        ({"num_players": 5.0}, "num_players must be a whole number"),
        ({"discussion_rounds": "many"}, "discussion_rounds must be a whole number"),
        ({"fifth": "nobody"}, "fifth"),
    ],
)
def test_settings_out_of_bounds_are_named(settings, told):
    with pytest.raises(ConfigError, match=told):
        make_game("avalon", **settings)


def test_three_fails_are_a_win_for_evil():
    game, state = table(*FIVE)
    for team in ((0, 3), (0, 1, 3), (0, 3)):
        assert state.phase == PROPOSE
        state = quest(game, state, team, fails=(3,))
    assert (state.phase, state.winner) == (OVER, EVIL_WINS)
    assert game.returns(state).tolist() == [-1, -1, -1, 1, 1]


@pytest.mark.parametrize(("target", "winner"), [(0, EVIL_WINS), (1, GOOD)])
def test_after_three_successes_the_assassin_decides(target, winner):
    game, state = table(*FIVE)
    for team in ((0, 1), (0, 1, 2), (1, 2)):
        state = quest(game, state, team)
    assert state.phase == ASSASSINATE
    assert game.actors(state) == (3,)
    assert game.legal(state, 3) == (0, 1, 2)
    assert game.step(state, {3: target}).winner == winner


def test_five_rejections_in_a_row_are_a_win_for_evil():
    game, state = table(*FIVE)
    for number in range(5):
        assert (state.rejections, state.leader) == (number, number)
        state = vote(game, game.step(state, {state.leader: 3}), (0, 1))
    assert (state.phase, state.winner) == (OVER, EVIL_WINS)


def test_the_official_code_sends_the_fifth_team_without_a_vote():
    game, state = table(*FIVE, fifth="auto_approve")
    for _ in range(4):
        state = vote(game, game.step(state, {state.leader: 3}), ())
    assert game.step(state, {state.leader: 3}).phase == QUEST


def test_half_of_the_votes_are_no_majority():
    game = Avalon(6)
    state = game.initial(0)
    proposed = game.step(state, {state.leader: 3})
    assert vote(game, proposed, (0, 1, 2)).phase == PROPOSE
    assert vote(game, proposed, (0, 1, 2, 3)).phase == QUEST


def test_quest_four_needs_two_fails_from_seven_players_on():
    game, state = table("merlin", "servant", "servant", "servant", "assassin", "minion", "minion")
    state = state._replace(quest=3, fails=(1, 0, 0))
    assert quest(game, state, (0, 1, 4, 5), fails=(4,)).phase == ASSASSINATE
    assert quest(game, state, (0, 1, 4, 5), fails=(4, 5)).phase == PROPOSE


def test_good_may_only_play_success():
    game, state = table(*FIVE)
    state = vote(game, game.step(state, {0: 0b01001}), range(5))
    with pytest.raises(IllegalActionError, match="player 0 may not play 0 in phase 'quest'; legal: 1"):
        game.step(state, {0: FAIL, 3: FAIL})
    assert game.step(state, {0: SUCCESS, 3: FAIL}).fails == (1,)


def test_everyone_speaks_once_from_the_leader_before_a_proposal():
    game, state = table(*FIVE)
    state = state._replace(leader=3)
    assert game.speakers(state) == (3, 4, 0, 1, 2)
    state = game.say(state, 3, "trust me")
    assert game.speakers(state) == (4, 0, 1, 2)
    with pytest.raises(IllegalActionError, match="player 2"):
        game.say(state, 2, "now me")
    assert state.history == (Speech(3, "trust me"),)
    assert game.speakers(game.step(state, {3: 3})) == ()


def test_the_information_state_holds_the_whole_public_history_and_no_hidden_role():
    game, state = table(*FIVE)
    state = quest(game, state, (0, 3), fails=(3,))
    info = game.info(state, 1)
    assert info.table.roles == ()
    assert info.table.history == (Proposal(0, 0b01001), Ballot(0b11111), QuestResult(0b01001, 1))
    assert game.complete(info, state.roles) == state
    assert state.roles in game.assignments(info)
    assert all(deal[1] == state.roles[1] for deal in game.assignments(info))


def test_who_sees_whom():
    roles = [ROLES.index(r) for r in ("merlin", "percival", "servant", "assassin", "morgana", "mordred", "oberon")]
    seen = [{seat for seat in range(7) if seen_by(roles, p) >> seat & 1} for p in range(7)]
    # merlin: all evil but Mordred; percival: Merlin and Morgana; evil: each other without Oberon
    assert seen == [{3, 4, 6}, {0, 4}, set(), {4, 5}, {3, 5}, {3, 4}, set()]


@pytest.mark.parametrize(("players", "roles", "count"), [(5, (), 60), (7, ALL[:2], 2520), (10, ALL, 151_200)])
def test_every_deal_is_listed_once(players, roles, count):
    role_set = RoleSet(players, roles)
    assert role_set.assignments.shape == (count, players)
    if players <= 7:
        listed = {tuple(map(int, deal)) for deal in role_set.assignments}
        assert listed == set(permutations(role_set.roles))
        for deal, known in zip(role_set.assignments[::7].tolist(), role_set.knowledge[::7], strict=True):
            assert known.tolist() == [deal[p] | seen_by(deal, p) << 4 for p in range(players)]


def test_the_viewer_is_told_only_what_he_knows():
    game, state = table(*FIVE)
    assert "evil you see: 3 4" in game.render(state, 0)
    assert "roles:" not in game.render(state, 1)
    assert "assassin" not in game.render(state, 1)
    assert "3 assassin" in game.render(state, None)


@pytest.mark.parametrize(("players", "roles", "fifth"), TABLES)
def test_the_compiled_engine_plays_the_same_games(players, roles, fifth):
    pytest.importorskip("numba", reason="the compiled engine needs numba (pip install evolvent[games])")
    game = Avalon(players, roles, fifth)
    kernels = game.kernels()
    rules, states = kernels.rules_of(game), []
    for seed in range(25):
        counter = np.array([key_of(seed)], np.uint64)
        fast, actions = np.zeros(kernels.FIELDS, np.int64), np.zeros(players, np.int64)
        kernels.deal(fast, rules, counter)
        playout, state = fast.copy(), game.initial(seed)
        stream = Stream(int(counter[0]))
        good = kernels.playout(playout, np.zeros(players, np.int64), rules, counter)
        while actors := game.actors(state):
            legal = {p: game.legal(state, p) for p in actors}
            assert [p for p in range(players) if kernels.acts(fast, p)] == list(actors)
            for p, options in legal.items():
                count = kernels.legal_count(fast, p, rules)
                assert tuple(kernels.action_at(fast, p, i, rules) for i in range(count)) == options
            chosen = {p: options[stream.below(len(options))] for p, options in legal.items()}
            for p, action in chosen.items():
                actions[p] = action
            states.append(state)
            state = game.step(state, chosen)
            kernels.step(fast, actions, rules)
            assert fast[:-1].tolist() == game.encode([state])[0].tolist()
        assert playout.tolist()[:-1] == fast.tolist()[:-1]
        assert (int(counter[0]), good) == (stream.state, 1 if state.winner == GOOD else -1)
    encoded = game.encode(states)
    np.testing.assert_array_equal(game.features(encoded), np.array([game._features(s) for s in states], np.float32))
    assert game.decode(encoded[5]) == states[5]._replace(history=(), spoken=0)


def test_a_proposal_and_a_vote_come_in_their_phases():
    game, state = table(*FIVE)
    with pytest.raises(IllegalActionError, match="player 1 may not act in phase 'propose'"):
        game.step(state, {1: 3})
    assert game.step(state, {0: 3}).phase == VOTE


def test_a_model_is_told_the_rules_that_are_played():
    printed, official, large = (
        heading(make_game("avalon", **settings))
        for settings in ({}, {"fifth": "auto_approve"}, {"num_players": 7, "roles": ["percival"]})
    )
    assert "five rejected teams in a row" in printed
    assert "five rejected teams" not in official
    assert "two fails" not in printed
    assert "the fourth with two fails only" in large


def test_percival_alone_with_merlin_is_not_told_of_a_morgana_at_his_side():
    game = make_game("avalon", num_players=5, roles=["percival"])
    state = game.initial(0)
    percival, merlin = (state.roles.index(ROLES.index(role)) for role in ("percival", "merlin"))
    assert f"percival; Merlin or Morgana: {merlin}" in game.render(state, percival)
