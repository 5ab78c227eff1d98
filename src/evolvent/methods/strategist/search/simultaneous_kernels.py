"""SM-MCTS for GOPS, compiled: the arithmetic of `simultaneous` in the same order, on arrays instead of objects.

Arrays have a leading axis of trees, so that many games go forward together and their leaves are valued in one batch.
A node's row of statistics holds, for each player, (value sum, count) of each action; for regret matching (value sum,
count) of each joint action, then regrets, then summed strategies.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np

from evolvent.methods.strategist.games.compiled import kernel
from evolvent.methods.strategist.games.gops_kernels import (
    FEATURES,
    LOW,
    OVER,
    count,
    draw_prize,
    fill_features,
    margin,
    nth_bit,
    playout,
    settle,
)
from evolvent.methods.strategist.games.rng_kernels import below, uniform

DUCT, RM, SERIAL = 0, 1, 2
ZERO, PROGRAM, ROLLOUTS, BATCH = 0, 1, 2, 3

# keys (T, C, 2) words of each node's state; table (T, H) of node + 1 by hash; stats (T, C, W); sums (T, C, 2) visits
# and value; bounds (T, 2) least and greatest leaf value; path (T, N, 3) node, action, action; depth (T,); size (T,)
# nodes; later (T, C) whether the later mover's node was reached; streams (T, 1); leaf (T, 2) state to value.
Forest = namedtuple("Forest", "keys table stats sums bounds path depth size later streams leaf")
Rules = namedtuple("Rules", "num_cards carries win_loss selection gamma weights")
Leaf = namedtuple("Leaf", "kind rollouts weights columns")


def plant(trees: int, budget: int, num_cards: int, selection: int) -> Forest:
    """Empty trees with room for `budget` simulations in each round."""
    capacity = (budget + 1) * num_cards + 2
    slots = 1 << (2 * capacity - 1).bit_length()
    width = 2 * num_cards * num_cards + 4 * num_cards if selection == RM else 4 * num_cards
    return Forest(
        keys=np.empty((trees, capacity, 2), np.int64),
        table=np.zeros((trees, slots), np.int32),
        stats=np.empty((trees, capacity, width)),
        sums=np.empty((trees, capacity, 2)),
        bounds=np.tile([np.inf, -np.inf], (trees, 1)),
        path=np.zeros((trees, num_cards + 1, 3), np.int64),
        depth=np.zeros(trees, np.int64),
        size=np.zeros(trees, np.int64),
        later=np.empty((trees, capacity), np.uint8),
        streams=np.zeros((trees, 1), np.uint64),
        leaf=np.zeros((trees, 2), np.int64),
    )


@kernel
def _slot(first: Any, second: Any, slots: Any) -> Any:
    mixed = np.uint64(first) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(second) * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return np.int64((mixed >> np.uint64(32)) & np.uint64(slots - 1))


@kernel
def node_of(forest: Any, t: Any, first: Any, second: Any) -> Any:
    """A state's node, and whether it had to be made."""
    slots = forest.table.shape[1]
    slot = _slot(first, second, slots)
    while True:
        entry = forest.table[t, slot]
        if entry == 0:
            break
        if forest.keys[t, entry - 1, 0] == first and forest.keys[t, entry - 1, 1] == second:
            return np.int64(entry) - 1, False
        slot = (slot + 1) & (slots - 1)
    node = forest.size[t]
    forest.size[t] = node + 1
    forest.table[t, slot] = node + 1
    forest.keys[t, node, 0] = first
    forest.keys[t, node, 1] = second
    forest.stats[t, node, :] = 0.0
    forest.sums[t, node, 0] = 0.0
    forest.sums[t, node, 1] = 0.0
    forest.later[t, node] = 0
    return node, True


@kernel
def _by_puct(forest: Any, t: Any, node: Any, player: Any, cards: Any, rules: Any) -> Any:
    stats = forest.stats[t, node]
    offset = player * 2 * rules.num_cards
    visits, total = forest.sums[t, node, 0], forest.sums[t, node, 1]
    weight = rules.weights[np.int64(visits)] * (1.0 / cards)
    low, high = forest.bounds[t, 0], forest.bounds[t, 1]
    if player == 1:
        low, high, total = -high, -low, -total
    scale = 1.0 / (high - low) if high > low else 0.0
    mean = total / visits if visits > 0 else 0.0
    best = 0
    found = -np.inf
    start = below(forest.streams[t], cards)
    for k in range(cards):
        a = start + k if start + k < cards else start + k - cards
        n = stats[offset + 2 * a + 1]
        value = stats[offset + 2 * a] / n if n > 0 else mean
        score = (value - low) * scale + weight / (1 + n)
        if score > found:
            best = a
            found = score
    return best


@kernel
def _by_regret(forest: Any, t: Any, node: Any, player: Any, cards: Any, rules: Any) -> Any:
    stats = forest.stats[t, node]
    n = rules.num_cards
    regrets, strategies = 2 * n * n + player * n, 2 * n * n + 2 * n + player * n
    positive = 0.0
    for a in range(cards):
        positive += max(stats[regrets + a], 0.0)
    left, chosen = uniform(forest.streams[t]), -1
    for a in range(cards):
        share = max(stats[regrets + a], 0.0) / positive if positive > 0 else 1.0 / cards
        stats[strategies + a] += share
        left -= (1 - rules.gamma) * share + rules.gamma / cards
        if chosen < 0 and left < 0:
            chosen = a
    return chosen if chosen >= 0 else cards - 1


@kernel
def descend(forest: Any, t: Any, first: Any, second: Any, rules: Any) -> Any:
    """Choose down the tree to the first new state.

    Returns:
        (whether a leaf waits in `forest.leaf` to be valued, return of player 0 if not).
    """
    stream = forest.streams[t]
    depth = 0
    while True:
        if (first >> 48) == 0:
            if (second >> 48) == OVER:
                forest.depth[t] = depth
                return False, margin(second, rules.win_loss)
            first, second = draw_prize(first, second, below(stream, count((first >> 32) & LOW)))
        node, made = node_of(forest, t, first, second)
        if made:
            break
        hand0, hand1 = first & LOW, (first >> 16) & LOW
        cards = count(hand0)
        if rules.selection == RM:
            a = _by_regret(forest, t, node, 0, cards, rules)
            b = _by_regret(forest, t, node, 1, cards, rules)
        else:
            a = _by_puct(forest, t, node, 0, cards, rules)
            b = _by_puct(forest, t, node, 1, cards, rules)
        forest.path[t, depth, 0] = node
        forest.path[t, depth, 1] = a
        forest.path[t, depth, 2] = b
        depth += 1
        if rules.selection == SERIAL and forest.later[t, node] == 0:
            forest.later[t, node] = 1
            forest.path[t, depth - 1, 2] = -1
            break
        first, second = settle(first, second, nth_bit(hand0, a), nth_bit(hand1, b), rules.carries)
    forest.leaf[t, 0] = first
    forest.leaf[t, 1] = second
    forest.depth[t] = depth
    return True, 0.0


@kernel
def back_up(forest: Any, t: Any, value: Any, rules: Any) -> Any:
    """Add the value of player 0 to everything on the path."""
    forest.bounds[t, 0] = min(forest.bounds[t, 0], value)
    forest.bounds[t, 1] = max(forest.bounds[t, 1], value)
    n = rules.num_cards
    for step in range(forest.depth[t]):
        node, a, b = forest.path[t, step, 0], forest.path[t, step, 1], forest.path[t, step, 2]
        stats = forest.stats[t, node]
        forest.sums[t, node, 0] += 1.0
        forest.sums[t, node, 1] += value
        if rules.selection != RM:
            stats[2 * a] += value
            stats[2 * a + 1] += 1.0
            if b >= 0:
                stats[2 * n + 2 * b] -= value
                stats[2 * n + 2 * b + 1] += 1.0
            continue
        mean = forest.sums[t, node, 1] / forest.sums[t, node, 0]
        stats[2 * (a * n + b)] += value
        stats[2 * (a * n + b) + 1] += 1.0
        for i in range(count(forest.keys[t, node, 0] & LOW)):
            tried = stats[2 * (i * n + b) + 1]
            joint = stats[2 * (i * n + b)] / tried if tried > 0 else mean
            stats[2 * n * n + i] += joint - value
            tried = stats[2 * (a * n + i) + 1]
            joint = stats[2 * (a * n + i)] / tried if tried > 0 else mean
            stats[2 * n * n + n + i] += value - joint
    return 0


@kernel
def value_of(first: Any, second: Any, leaf: Any, rules: Any, row: Any, stream: Any) -> Any:
    """Value of a state for player 0 by an evaluator that runs in here."""
    if leaf.kind == ROLLOUTS:
        total = 0.0
        for _ in range(leaf.rollouts):
            total += playout(first, second, rules.carries, rules.win_loss, stream)
        return total / leaf.rollouts
    total = 0.0
    if leaf.kind == PROGRAM:
        stage = fill_features(first, second, rules.num_cards, row)
        terms = len(leaf.columns)
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
def simulate(forest: Any, roots: Any, which: Any, budget: Any, leaf: Any, rules: Any) -> Any:
    """`budget` simulations from roots[i] in tree which[i], with an evaluator that runs in here."""
    row = np.zeros(FEATURES, np.float32)
    for i in range(len(which)):
        t = which[i]
        node_of(forest, t, roots[i, 0], roots[i, 1])
        for _ in range(budget):
            waits, value = descend(forest, t, roots[i, 0], roots[i, 1], rules)
            if waits:
                value = value_of(forest.leaf[t, 0], forest.leaf[t, 1], leaf, rules, row, forest.streams[t])
            back_up(forest, t, value, rules)
    return 0


@kernel
def plant_roots(forest: Any, roots: Any, which: Any) -> Any:
    """Make the roots' nodes."""
    for i in range(len(which)):
        node_of(forest, which[i], roots[i, 0], roots[i, 1])
    return 0


@kernel
def descend_all(forest: Any, roots: Any, which: Any, rules: Any, waiting: Any, values: Any) -> Any:
    """One descent in each tree; marks those whose leaf waits to be valued and tells the value of the others."""
    for i in range(len(which)):
        waiting[i], values[i] = descend(forest, which[i], roots[i, 0], roots[i, 1], rules)
    return 0


@kernel
def back_up_all(forest: Any, which: Any, values: Any, rules: Any) -> Any:
    """The other half of `descend_all`."""
    for i in range(len(which)):
        back_up(forest, which[i], values[i], rules)
    return 0


@kernel
def read_roots(forest: Any, roots: Any, which: Any, rules: Any, counts: Any, totals: Any, average: Any) -> Any:
    """Counts, value sums and summed strategies, (trees, players, actions) each; returns mean values (trees,)."""
    n = rules.num_cards
    means = np.zeros(len(which))
    for i in range(len(which)):
        node, _ = node_of(forest, which[i], roots[i, 0], roots[i, 1])
        stats = forest.stats[which[i], node]
        cards = count(roots[i, 0] & LOW)
        means[i] = forest.sums[which[i], node, 1] / max(forest.sums[which[i], node, 0], 1.0)
        for a in range(cards):
            if rules.selection != RM:
                for player in range(2):
                    totals[i, player, a] = stats[2 * n * player + 2 * a]
                    counts[i, player, a] = stats[2 * n * player + 2 * a + 1]
                    average[i, player, a] = counts[i, player, a]
                continue
            for b in range(cards):
                totals[i, 0, a] += stats[2 * (a * n + b)]
                counts[i, 0, a] += stats[2 * (a * n + b) + 1]
                totals[i, 1, a] += stats[2 * (b * n + a)]
                counts[i, 1, a] += stats[2 * (b * n + a) + 1]
            totals[i, 1, a] = -totals[i, 1, a]
            average[i, 0, a] = stats[2 * n * n + 2 * n + a]
            average[i, 1, a] = stats[2 * n * n + 3 * n + a]
    return means
