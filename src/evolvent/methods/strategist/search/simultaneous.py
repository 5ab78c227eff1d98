"""SM-MCTS for public states where players act at once: the readable reference form, for any game of the protocol.

One node for each public state, so the tree merges transpositions and is warm after a move: the next root is a node
already. Each player keeps statistics of his own actions. One simulation: choose actions down the tree, add the first
new state, value it, add the value to everything on the path.

`duct`    each player maximises  Q(a) + prior(a) · sqrt(N) / (1 + n(a)) · (c1 + ln((N + c2 + 1) / c2)),  with Q
          scaled to [0, 1] by the values seen in this tree; an untried action counts as the node's mean.
`rm`      regret matching (Lanctot, Lisý, Winands 2014): play R+ / sum R+ mixed with gamma uniform; after value v at
          (a, b) add M[i, b] - v to each regret of player 0 and v - M[a, j] to each of player 1, M being mean values
          of joint actions (the node's mean where untried). With move="average" the mean strategy is played.
`serial`  duct with one player after another, as the official code has it: the later mover's node, which stands for his
          information set, is valued when it is first reached.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evolvent.errors import ConfigError
from evolvent.methods.strategist.games.protocol import CHANCE, Action, Game, State, draw_outcome
from evolvent.methods.strategist.games.rng import Stream
from evolvent.methods.strategist.search.evaluators import Evaluator, leaf_values
from evolvent.methods.strategist.search.settings import SearchResult, SearchSettings, move_policy

SELECTIONS = ("duct", "rm", "serial")


def exploration_weight(visits: int, settings: SearchSettings) -> float:
    """sqrt(N) · (c1 + ln((N + c2 + 1) / c2))."""
    growth = math.log((visits + settings.puct_c2 + 1) / settings.puct_c2)
    return math.sqrt(visits) * (settings.puct_c1 + growth)


@dataclass
class Node:
    """Statistics of one public state; lists are indexed by actor, then by action."""

    actors: tuple[int, ...]
    legal: list[tuple[Action, ...]]
    visits: int = 0
    total: list[float] = field(default_factory=list)  # by player
    reached_later_mover: bool = False
    counts: list[list[int]] = field(default_factory=list)
    totals: list[list[float]] = field(default_factory=list)
    joint_counts: list[list[int]] = field(default_factory=list)  # rm: [first actor's action][second's]
    joint_totals: list[list[float]] = field(default_factory=list)
    regrets: list[list[float]] = field(default_factory=list)
    strategies: list[list[float]] = field(default_factory=list)


class Tree:
    """A search tree that lives as long as its game."""

    def __init__(self, game: Game, evaluator: Evaluator, settings: SearchSettings) -> None:
        self.game, self.evaluator, self.settings = game, evaluator, settings
        self.selection = settings.resolved(hidden=False)
        if self.selection == "rm" and game.num_players != 2:
            raise ConfigError(f"search: rm is for two players, {game.name} has {game.num_players}")
        self.nodes: dict[Hashable, Node] = {}
        self.low = [math.inf] * game.num_players  # least and greatest leaf value of each player
        self.high = [-math.inf] * game.num_players

    def search(self, state: State, seed: int) -> SearchResult:
        """`budget` simulations from a state where somebody acts."""
        stream = Stream(seed)
        root = self.nodes.setdefault(state, self._node(state))
        for _ in range(self.settings.budget):
            self._simulate(state, stream)
        return self._result(root)

    def _node(self, state: State) -> Node:
        actors = self.game.actors(state)
        legal = [self.game.legal(state, player) for player in actors]
        sizes = [len(actions) for actions in legal]
        node = Node(actors, legal, total=[0.0] * self.game.num_players)
        node.counts = [[0] * n for n in sizes]
        node.totals = [[0.0] * n for n in sizes]
        if self.selection == "rm":
            rows, columns = sizes[0], sizes[1] if len(sizes) > 1 else 1
            node.joint_counts = [[0] * columns for _ in range(rows)]
            node.joint_totals = [[0.0] * columns for _ in range(rows)]
            node.regrets = [[0.0] * n for n in sizes]
            node.strategies = [[0.0] * n for n in sizes]
        return node

    def _simulate(self, state: State, stream: Stream) -> None:
        game, path = self.game, []
        while True:
            actors = game.actors(state)
            if not actors:
                values = [float(v) for v in game.returns(state)]
                break
            if actors[0] == CHANCE:
                state = game.step(state, {CHANCE: draw_outcome(game, state, stream)})
                continue
            node = self.nodes.get(state)
            if node is None:
                self.nodes[state] = self._node(state)
                values = leaf_values(game, self.evaluator, state, stream)
                break
            chosen = self._choose(node, stream)
            if self.selection == "serial" and len(actors) > 1 and not node.reached_later_mover:
                node.reached_later_mover = True
                path.append((node, chosen[:1]))
                values = leaf_values(game, self.evaluator, state, stream)
                break
            path.append((node, chosen))
            state = game.step(state, {p: node.legal[i][chosen[i]] for i, p in enumerate(actors)})
        for player, value in enumerate(values):
            self.low[player] = min(self.low[player], value)
            self.high[player] = max(self.high[player], value)
        for node, chosen in path:
            self._back_up(node, chosen, values)

    # ------------------------------------------------------------------------------------------ selection

    def _choose(self, node: Node, stream: Stream) -> list[int]:
        pick = self._by_regret if self.selection == "rm" else self._by_puct
        return [pick(node, i, stream) for i in range(len(node.actors))]

    def _by_puct(self, node: Node, i: int, stream: Stream) -> int:
        player, size, visits = node.actors[i], len(node.legal[i]), node.visits
        weight = exploration_weight(visits, self.settings) * (1.0 / size)
        low = self.low[player]
        scale = 1.0 / (self.high[player] - low) if self.high[player] > low else 0.0
        mean = node.total[player] / visits if visits else 0.0
        best, found = 0, -math.inf
        start = stream.below(size)  # ties fall to a random action, so that players do not pair up by position
        for k in range(size):
            a = start + k if start + k < size else start + k - size
            n = node.counts[i][a]
            value = node.totals[i][a] / n if n else mean
            score = (value - low) * scale + weight / (1 + n)
            if score > found:
                best, found = a, score
        return best

    def _by_regret(self, node: Node, i: int, stream: Stream) -> int:
        regrets, size, gamma = node.regrets[i], len(node.legal[i]), self.settings.gamma
        positive = sum_in_order(max(r, 0.0) for r in regrets)
        left, chosen = stream.uniform(), -1
        for a in range(size):
            share = max(regrets[a], 0.0) / positive if positive > 0 else 1.0 / size
            node.strategies[i][a] += share
            left -= (1 - gamma) * share + gamma / size
            if chosen < 0 and left < 0:
                chosen = a
        return chosen if chosen >= 0 else size - 1

    # -------------------------------------------------------------------------------------------- back-up

    def _back_up(self, node: Node, chosen: list[int], values: list[float]) -> None:
        node.visits += 1
        for player, value in enumerate(values):
            node.total[player] += value
        if self.selection == "rm":
            self._add_regret(node, chosen, values)
            return
        for i, a in enumerate(chosen):
            node.counts[i][a] += 1
            node.totals[i][a] += values[node.actors[i]]

    def _add_regret(self, node: Node, chosen: list[int], values: list[float]) -> None:
        first = node.actors[0]
        value, mean = values[first], node.total[first] / node.visits
        a, b = chosen[0], chosen[1] if len(chosen) > 1 else 0
        node.joint_counts[a][b] += 1
        node.joint_totals[a][b] += value

        def joint(i: int, j: int) -> float:
            n = node.joint_counts[i][j]
            return node.joint_totals[i][j] / n if n else mean

        for i in range(len(node.legal[0])):
            node.regrets[0][i] += joint(i, b) - value
        if len(chosen) > 1:
            for j in range(len(node.legal[1])):
                node.regrets[1][j] += value - joint(a, j)

    # --------------------------------------------------------------------------------------------- result

    def _result(self, root: Node) -> SearchResult:
        actions, policy, visits, values = {}, {}, {}, {}
        for i, player in enumerate(root.actors):
            counts, totals = self._marginal(root, i)
            actions[player] = root.legal[i]
            visits[player] = np.array(counts, np.int64)
            values[player] = np.array([t / n if n else 0.0 for t, n in zip(totals, counts, strict=True)])
            average = root.strategies[i] if self.selection == "rm" else counts
            policy[player] = move_policy(np.array(counts, float), np.array(average, float), self.settings)
        return SearchResult(actions, policy, visits, values, np.array(root.total) / max(root.visits, 1))

    def _marginal(self, node: Node, i: int) -> tuple[list[int], list[float]]:
        if self.selection != "rm":
            return node.counts[i], node.totals[i]
        if i == 0:
            counts = [sum(row) for row in node.joint_counts]
            return counts, [sum_in_order(row) for row in node.joint_totals]
        columns = range(len(node.legal[1]))
        counts = [sum(row[j] for row in node.joint_counts) for j in columns]
        return counts, [-sum_in_order(row[j] for row in node.joint_totals) for j in columns]


def sum_in_order(values: Any) -> float:
    """A plain left-to-right sum: Python's own compensates rounding, compiled code does not."""
    total = 0.0
    for value in values:
        total += value
    return total
