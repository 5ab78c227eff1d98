"""MO-ISMCTS for Avalon, compiled: the arithmetic of `information_set` in the same order, on arrays.

As in `simultaneous_kernels`, arrays have a leading axis of trees.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np

from evolvent.methods.strategist.games.avalon_kernels import (
    FEATURES,
    FIELDS,
    HISTORY,
    OVER,
    PHASE,
    WINNER,
    action_at,
    acts,
    fill_features,
    legal_count,
    playout,
    seen_by,
    step,
)
from evolvent.methods.strategist.games.avalon_rules import FIRST_EVIL
from evolvent.methods.strategist.games.compiled import kernel
from evolvent.methods.strategist.games.rng_kernels import below, combine, mix, uniform

ZERO, PROGRAM, ROLLOUTS, BATCH = 0, 1, 2, 3

# keys, start, size, visits (T, C) of nodes; stats (T, S, 2) value sum and count of each node's actions; used (T, 2)
# nodes and actions; table (T, H); bounds (T, players, 2); totals (T, players); path (T, P, 3) node, player, action;
# depth (T,); streams (T, 1); states (T, fields) the one being played, then the leaf; actions (T, players).
Forest = namedtuple("Forest", "keys start size visits stats used table bounds totals path depth streams states actions")
Search = namedtuple("Search", "exploration logarithms")
Leaf = namedtuple("Leaf", "kind rollouts weights columns")


def plant(trees: int, budget: int, rules: Any) -> Forest:
    """Room for one search of `budget` simulations in each tree."""
    players = rules.players
    nodes = 2 * (budget + 1) * players
    actions = 2 * (budget + 1) * max(2 * players, rules.teams.shape[1])
    slots = 1 << (2 * nodes - 1).bit_length()
    return Forest(
        keys=np.empty((trees, nodes), np.uint64),
        start=np.empty((trees, nodes), np.int64),
        size=np.empty((trees, nodes), np.int64),
        visits=np.empty((trees, nodes)),
        stats=np.empty((trees, actions, 2)),
        used=np.zeros((trees, 2), np.int64),
        table=np.zeros((trees, slots), np.int32),
        bounds=np.zeros((trees, players, 2)),
        totals=np.zeros((trees, players)),
        path=np.zeros((trees, 30 * (players + 1), 3), np.int64),
        depth=np.zeros(trees, np.int64),
        streams=np.zeros((trees, 1), np.uint64),
        states=np.zeros((trees, FIELDS), np.int64),
        actions=np.zeros((trees, players), np.int64),
    )


@kernel
def clear(forest: Any, t: Any, seed: Any) -> Any:
    """Empty a tree for a new search."""
    forest.table[t, :] = 0
    forest.used[t, :] = 0
    forest.totals[t, :] = 0.0
    forest.bounds[t, :, 0] = np.inf
    forest.bounds[t, :, 1] = -np.inf
    forest.streams[t, 0] = seed
    return 0


@kernel
def node_of(forest: Any, t: Any, state: Any, player: Any, legal: Any, rules: Any) -> Any:
    """The node of a player's information state, and whether it had to be made."""
    known = state[player] | seen_by(state, player, rules.players) << 4 | player << 20
    key = mix(combine(np.uint64(state[HISTORY]), known))
    slots = forest.table.shape[1]
    slot = np.int64(key & np.uint64(slots - 1))
    while True:
        entry = forest.table[t, slot]
        if entry == 0:
            break
        if forest.keys[t, entry - 1] == key:
            return np.int64(entry) - 1, False
        slot = (slot + 1) & (slots - 1)
    node = forest.used[t, 0]
    start = forest.used[t, 1]
    forest.used[t, 0] = node + 1
    forest.used[t, 1] = start + legal
    forest.table[t, slot] = node + 1
    forest.keys[t, node] = key
    forest.start[t, node] = start
    forest.size[t, node] = legal
    forest.visits[t, node] = 0.0
    forest.stats[t, start : start + legal, :] = 0.0
    return node, True


@kernel
def _choose(forest: Any, t: Any, node: Any, player: Any, search: Any) -> Any:
    start, size = forest.start[t, node], forest.size[t, node]
    low, high = forest.bounds[t, player, 0], forest.bounds[t, player, 1]
    scale = 1.0 / (high - low) if high > low else 0.0
    logarithm = search.logarithms[np.int64(forest.visits[t, node])]
    best = 0
    found = -np.inf
    first = below(forest.streams[t], size)
    for k in range(size):
        a = first + k if first + k < size else first + k - size
        n = forest.stats[t, start + a, 1]
        if n == 0:
            return a
        value = (forest.stats[t, start + a, 0] / n - low) * scale
        score = value + search.exploration * np.sqrt(logarithm / n)
        if score > found:
            best = a
            found = score
    return best


@kernel
def draw_deal(cumulative: Any, stream: Any) -> Any:
    """Index of an assignment drawn from running sums of probabilities."""
    wanted = uniform(stream) * cumulative[-1]
    low, high = 0, len(cumulative)
    while low < high:
        middle = (low + high) // 2
        if wanted < cumulative[middle]:
            high = middle
        else:
            low = middle + 1
    return min(low, len(cumulative) - 1)


@kernel
def descend(forest: Any, t: Any, root: Any, deals: Any, cumulative: Any, search: Any, rules: Any, values: Any) -> Any:
    """Draw a state and choose down to a leaf: True if it waits in `forest.states` for its value, else sets `values`."""
    state, actions = forest.states[t], forest.actions[t]
    state[:] = root
    drawn = draw_deal(cumulative, forest.streams[t])
    for seat in range(rules.players):
        state[seat] = deals[drawn, seat]
    depth = 0
    at_root = True
    while state[PHASE] != OVER:
        made = False
        before = depth
        for player in range(rules.players):
            if not acts(state, player):
                continue
            legal = legal_count(state, player, rules)
            if legal == 1:
                actions[player] = action_at(state, player, 0, rules)
                continue
            node, is_new = node_of(forest, t, state, player, legal, rules)
            made = made or is_new
            forest.path[t, depth, 0] = node
            forest.path[t, depth, 1] = player
            depth += 1
        if made and not at_root:
            forest.depth[t] = before
            return True
        for i in range(before, depth):
            player = forest.path[t, i, 1]
            chosen = _choose(forest, t, forest.path[t, i, 0], player, search)
            forest.path[t, i, 2] = chosen
            actions[player] = action_at(state, player, chosen, rules)
        step(state, actions, rules)
        at_root = False
    forest.depth[t] = depth
    by_side(state, 1.0 if state[WINNER] == 0 else -1.0, rules.players, values)
    return False


@kernel
def by_side(state: Any, value: Any, players: Any, values: Any) -> Any:
    """The value of good as one for each player."""
    for player in range(players):
        values[player] = value * (-1.0 if state[player] >= FIRST_EVIL else 1.0)
    return 0


@kernel
def back_up(forest: Any, t: Any, values: Any) -> Any:
    """Add the players' values to everything on the path."""
    for player in range(len(values)):
        forest.bounds[t, player, 0] = min(forest.bounds[t, player, 0], values[player])
        forest.bounds[t, player, 1] = max(forest.bounds[t, player, 1], values[player])
        forest.totals[t, player] += values[player]
    for i in range(forest.depth[t]):
        node, player, chosen = forest.path[t, i, 0], forest.path[t, i, 1], forest.path[t, i, 2]
        forest.visits[t, node] += 1.0
        forest.stats[t, forest.start[t, node] + chosen, 0] += values[player]
        forest.stats[t, forest.start[t, node] + chosen, 1] += 1.0
    return 0


@kernel
def value_of(state: Any, scratch: Any, actions: Any, leaf: Any, rules: Any, row: Any, stream: Any) -> Any:
    """Value of a state for good by an evaluator that runs in here."""
    total = 0.0
    if leaf.kind == ROLLOUTS:
        for _ in range(leaf.rollouts):
            scratch[:] = state
            total += playout(scratch, actions, rules, stream)
        return total / leaf.rollouts
    if leaf.kind == PROGRAM:
        stage = fill_features(state, rules, row)
        terms = len(leaf.columns)
        total = leaf.weights[terms]
        for k in range(terms):
            if leaf.columns[k, 2] <= stage <= leaf.columns[k, 3]:
                value = leaf.weights[k] * np.float64(row[leaf.columns[k, 0]])
                if leaf.columns[k, 1] >= 0:
                    value = value * abs(np.float64(row[leaf.columns[k, 1]]))
                total += value
        bound = leaf.weights[terms + 1]
        total = min(max(total, -bound), bound)
    return total


@kernel
def simulate(
    forest: Any, roots: Any, deals: Any, cumulative: Any, seeds: Any, budget: Any, leaf: Any, search: Any, rules: Any
) -> Any:
    """A whole search in tree i from roots[i], with an evaluator that runs in here."""
    values, row = np.zeros(rules.players), np.zeros(FEATURES, np.float32)
    scratch, actions = np.zeros(FIELDS, np.int64), np.zeros(rules.players, np.int64)
    for t in range(len(roots)):
        clear(forest, t, seeds[t])
        for _ in range(budget):
            if descend(forest, t, roots[t], deals, cumulative[t], search, rules, values):
                state, stream = forest.states[t], forest.streams[t]
                by_side(state, value_of(state, scratch, actions, leaf, rules, row, stream), rules.players, values)
            back_up(forest, t, values)
    return 0


@kernel
def clear_all(forest: Any, seeds: Any) -> Any:
    """Empty one tree for each seed."""
    for t in range(len(seeds)):
        clear(forest, t, seeds[t])
    return 0


@kernel
def descend_all(
    forest: Any, roots: Any, deals: Any, cumulative: Any, search: Any, rules: Any, waiting: Any, values: Any
) -> Any:
    """One descent in each tree; marks those whose leaf waits to be valued."""
    for t in range(len(roots)):
        waiting[t] = descend(forest, t, roots[t], deals, cumulative[t], search, rules, values[t])
    return 0


@kernel
def back_up_all(forest: Any, values: Any) -> Any:
    """The other half of `descend_all`."""
    for t in range(len(values)):
        back_up(forest, t, values[t])
    return 0


@kernel
def read_roots(forest: Any, roots: Any, players: Any, rules: Any, counts: Any, totals: Any) -> Any:
    """Counts and value sums of the searcher's root actions, (trees, actions)."""
    for t in range(len(roots)):
        legal = legal_count(roots[t], players[t], rules)
        node, _ = node_of(forest, t, roots[t], players[t], legal, rules)
        start = forest.start[t, node]
        for a in range(legal):
            totals[t, a] = forest.stats[t, start + a, 0]
            counts[t, a] = forest.stats[t, start + a, 1]
    return 0
