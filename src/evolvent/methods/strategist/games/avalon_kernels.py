"""Avalon compiled: the rules, features and random playouts of `avalon` on int64 arrays.

A state is the encoded row, with one field more: a hash of the public events since the array was made. Two states of one
search have the same hash exactly when the same was seen in public on the way to them.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np

from evolvent.methods.strategist.games.avalon_rules import (
    ASSASSIN,
    FIRST_EVIL,
    MERLIN,
    MORDRED,
    MORGANA,
    OBERON,
    PERCIVAL,
    teams,
)
from evolvent.methods.strategist.games.compiled import kernel
from evolvent.methods.strategist.games.rng_kernels import below, combine

LEADER, QUEST_NUMBER, REJECTIONS, PHASE, TEAM, APPROVALS, FAILS = 10, 11, 12, 13, 14, 15, 16
WINNER, TARGET, HISTORY = 21, 22, 23
FIELDS = 24
FEATURES = 13
PROPOSE, VOTE, QUEST, ASSASSINATE, OVER = range(5)
NOTHING = -1  # in an array of actions

# teams (5, most) masks of legal teams of each quest, ascending; counts (5,) of them; roles (players,) before the deal.
Rules = namedtuple("Rules", "players num_evil sizes needed teams counts auto_approve roles")


def rules_of(game: Any) -> Rules:
    """The rules of an `Avalon` as arrays."""
    legal = [teams(game.num_players, size) for size in game.quest_sizes]
    table = np.zeros((5, max(map(len, legal))), np.int64)
    for quest, masks in enumerate(legal):
        table[quest, : len(masks)] = masks
    return Rules(
        game.num_players,
        game.role_set.num_evil,
        np.array(game.quest_sizes, np.int64),
        np.array(game.fails_needed, np.int64),
        table,
        np.array([len(masks) for masks in legal], np.int64),
        int(game.fifth == "auto_approve"),
        np.array(game.role_set.roles, np.int64),
    )


def widen(encoded: Any) -> Any:
    """Encoded rows as states whose history starts here."""
    return np.concatenate([encoded.astype(np.int64), np.zeros((len(encoded), 1), np.int64)], axis=1)


@kernel
def count(mask: Any) -> Any:
    """Seats in a mask."""
    found = 0
    while mask:
        mask &= mask - 1
        found += 1
    return found


@kernel
def deal(state: Any, rules: Any, stream: Any) -> Any:
    """A new game, written into `state`."""
    state[:] = -1
    for seat in range(rules.players):
        state[seat] = rules.roles[seat]
    for i in range(rules.players - 1, 0, -1):
        j = below(stream, i + 1)
        state[i], state[j] = state[j], state[i]
    state[LEADER] = below(stream, rules.players)
    state[QUEST_NUMBER:FAILS] = 0
    state[HISTORY] = 0
    return 0


@kernel
def seen_by(state: Any, player: Any, players: Any) -> Any:
    """See `avalon_rules.seen_by`."""
    role = state[player]
    seen = 0
    for seat in range(players):
        other = state[seat]
        if role == MERLIN:
            shown = other >= FIRST_EVIL and other != MORDRED
        elif role == PERCIVAL:
            shown = other in (MERLIN, MORGANA)
        else:
            shown = role >= FIRST_EVIL and role != OBERON and other >= FIRST_EVIL and other != OBERON
        if shown and seat != player:
            seen |= 1 << seat
    return seen


@kernel
def acts(state: Any, player: Any) -> Any:
    """Whether a player acts now."""
    phase = state[PHASE]
    if phase == PROPOSE:
        return player == state[LEADER]
    if phase == QUEST:
        return (state[TEAM] >> player) & 1 == 1
    if phase == ASSASSINATE:
        return state[player] == ASSASSIN
    return phase == VOTE


@kernel
def legal_count(state: Any, player: Any, rules: Any) -> Any:
    """How many actions an actor has."""
    phase = state[PHASE]
    if phase == PROPOSE:
        return rules.counts[state[QUEST_NUMBER]]
    if phase == VOTE:
        return 2
    if phase == QUEST:
        return 2 if state[player] >= FIRST_EVIL else 1
    return rules.players - count(seen_by(state, player, rules.players)) - 1


@kernel
def action_at(state: Any, player: Any, index: Any, rules: Any) -> Any:
    """The action at a position among the legal ones, ascending."""
    phase = state[PHASE]
    if phase == PROPOSE:
        return rules.teams[state[QUEST_NUMBER], index]
    if phase == VOTE:
        return index
    if phase == QUEST:
        return index if state[player] >= FIRST_EVIL else 1
    known = seen_by(state, player, rules.players) | 1 << player
    for seat in range(rules.players):
        if not (known >> seat) & 1:
            if index == 0:
                return seat
            index -= 1
    return NOTHING


@kernel
def _told(state: Any, kind: Any, what: Any) -> Any:
    state[HISTORY] = np.int64(combine(np.uint64(state[HISTORY]), kind << 16 | what))
    return 0


@kernel
def step(state: Any, actions: Any, rules: Any) -> Any:
    """Play the actions of the actors (by seat), in place."""
    phase = state[PHASE]
    if phase == PROPOSE:
        team = actions[state[LEADER]]
        state[TEAM] = team
        state[PHASE] = QUEST if rules.auto_approve and state[REJECTIONS] == 4 else VOTE
        _told(state, phase, team)
    elif phase == VOTE:
        approvals = 0
        for seat in range(rules.players):
            approvals |= actions[seat] << seat
        state[APPROVALS] = approvals
        _told(state, phase, approvals)
        if 2 * count(approvals) > rules.players:
            state[PHASE] = QUEST
            return 0
        state[REJECTIONS] += 1
        state[TEAM] = 0
        if state[REJECTIONS] == 5:
            state[PHASE] = OVER
            state[WINNER] = 1
        else:
            state[PHASE] = PROPOSE
            state[LEADER] = (state[LEADER] + 1) % rules.players
    elif phase == QUEST:
        _settle_quest(state, actions, rules)
    else:
        for seat in range(rules.players):
            if state[seat] == ASSASSIN:
                state[TARGET] = actions[seat]
        state[PHASE] = OVER
        state[WINNER] = 1 if state[state[TARGET]] == MERLIN else 0
    return 0


@kernel
def _settle_quest(state: Any, actions: Any, rules: Any) -> Any:
    fails = 0
    for seat in range(rules.players):
        if (state[TEAM] >> seat) & 1 and actions[seat] == 0:
            fails += 1
    _told(state, QUEST, fails)
    state[FAILS + state[QUEST_NUMBER]] = fails
    state[TEAM] = 0
    state[REJECTIONS] = 0
    state[QUEST_NUMBER] += 1
    state[LEADER] = (state[LEADER] + 1) % rules.players
    failed = failed_quests(state, rules)
    state[PHASE] = PROPOSE
    if failed == 3:
        state[PHASE] = OVER
        state[WINNER] = 1
    elif state[QUEST_NUMBER] - failed == 3:
        state[PHASE] = ASSASSINATE
    return 0


@kernel
def failed_quests(state: Any, rules: Any) -> Any:
    """Quests that failed so far."""
    failed = 0
    for quest in range(state[QUEST_NUMBER]):
        failed += state[FAILS + quest] >= rules.needed[quest]
    return failed


@kernel
def playout(state: Any, actions: Any, rules: Any, stream: Any) -> Any:
    """Play at random to the end, in place; the return of good."""
    while state[PHASE] != OVER:
        phase = state[PHASE]
        if phase == VOTE:
            for seat in range(rules.players):
                actions[seat] = below(stream, 2)
        elif phase == PROPOSE:
            quest = state[QUEST_NUMBER]
            actions[state[LEADER]] = rules.teams[quest, below(stream, rules.counts[quest])]
        else:
            for seat in range(rules.players):
                if acts(state, seat):
                    index = below(stream, legal_count(state, seat, rules))
                    actions[seat] = action_at(state, seat, index, rules)
        step(state, actions, rules)
    return 1.0 if state[WINNER] == 0 else -1.0


@kernel
def fill_features(state: Any, rules: Any, out: Any) -> Any:
    """Write the 13 features of a state into a float32 row, and return the quests left."""
    phase = state[PHASE]
    failed = failed_quests(state, rules)
    won = state[QUEST_NUMBER] - failed
    evil = 0
    for seat in range(rules.players):
        evil += (state[TEAM] >> seat) & 1 and state[seat] >= FIRST_EVIL
    clean = state[TEAM] != 0 and evil == 0
    running = phase <= QUEST
    chance = 0.0
    if running:
        chance = 1.0
        good = rules.players - rules.num_evil
        for i in range(rules.sizes[state[QUEST_NUMBER]]):
            chance *= (good - i) / (rules.players - i)
    out[0] = won
    out[1] = failed
    out[2] = won - failed
    out[3] = state[REJECTIONS]
    out[4] = evil
    out[5] = clean
    out[6] = clean and phase == QUEST
    out[7] = phase == QUEST and evil >= rules.needed[state[QUEST_NUMBER]]
    out[8] = phase == PROPOSE and state[state[LEADER]] < FIRST_EVIL
    out[9] = chance
    out[10] = running and won == 2
    out[11] = running and failed == 2
    out[12] = phase == ASSASSINATE
    return 5 - state[QUEST_NUMBER]


@kernel
def features(encoded: Any, rules: Any) -> Any:
    """Features of encoded states, (states, 13) float32."""
    out = np.zeros((len(encoded), FEATURES), np.float32)
    state = np.zeros(FIELDS, np.int64)
    for i in range(len(encoded)):
        for field in range(encoded.shape[1]):
            state[field] = encoded[i, field]
        fill_features(state, rules, out[i])
    return out


@kernel
def step_all(states: Any, actions: Any, rules: Any) -> Any:
    """One step of every state, in place."""
    for i in range(len(states)):
        step(states[i], actions[i], rules)
    return 0


@kernel
def random_games(games: Any, rules: Any, stream: Any) -> Any:
    """Returns of good in games dealt and played at random from one stream."""
    state, actions = np.zeros(FIELDS, np.int64), np.zeros(rules.players, np.int64)
    out = np.zeros(games)
    for game in range(games):
        deal(state, rules, stream)
        out[game] = playout(state, actions, rules, stream)
    return out
