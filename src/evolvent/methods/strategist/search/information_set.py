"""MO-ISMCTS (Cowling, Powley, Whitehouse 2012): search where something is hidden. The readable reference form.

Each simulation draws a full state from the searcher's belief and goes down one tree a player, whose nodes are that
player's information states; players who act at once each choose in their own tree. What a player may do follows from
what he knows, so the availability count of an action is its node's count of visits. The leaf is the first decision with
a node that is new (at the root, new nodes choose at random instead), and it is valued in the full state, roles and all.

    score(a) = Q(a) + exploration · sqrt(ln N / n(a)),  untried actions first, Q scaled by the values seen
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolvent.methods.strategist.games.protocol import CHANCE, Game, State, draw_outcome
from evolvent.methods.strategist.games.rng import Stream
from evolvent.methods.strategist.search.evaluators import Evaluator, leaf_values
from evolvent.methods.strategist.search.settings import SearchResult, SearchSettings, move_policy


@dataclass
class InformationNode:
    """Statistics of one player's information state."""

    counts: list[int]
    totals: list[float]
    visits: int = 0


class InformationSetSearch:
    """One search for one player.

    Args:
        game: the rules.
        evaluator: of full states.
        settings: of the search.
        deals: hidden assignments, (assignments, ...).
        cumulative: running sum of their probabilities, (assignments,).
    """

    def __init__(
        self,
        game: Game,
        evaluator: Evaluator,
        settings: SearchSettings,
        deals: Sequence[Any] | NDArray[Any],
        cumulative: NDArray[np.float64],
    ) -> None:
        self.game, self.evaluator, self.settings = game, evaluator, settings
        self.deals, self.cumulative = deals, cumulative
        self.nodes: dict[Hashable, InformationNode] = {}
        self.low = [math.inf] * game.num_players
        self.high = [-math.inf] * game.num_players
        self.total = [0.0] * game.num_players

    def search(self, state: State, player: int, seed: int) -> SearchResult:
        """`budget` simulations; of `state` only what `player` knows is used."""
        game, info, stream = self.game, self.game.info(state, player), Stream(seed)
        for _ in range(self.settings.budget):
            self._simulate(game.complete(info, self._draw(stream)), stream)
        root = self.nodes[player, info]
        counts = np.array(root.counts, float)
        return SearchResult(
            actions={player: game.legal(state, player)},
            policy={player: move_policy(counts, counts, self.settings)},
            visits={player: counts.astype(np.int64)},
            values={player: np.array(root.totals) / np.maximum(counts, 1)},
            value=np.array(self.total) / self.settings.budget,
        )

    def _draw(self, stream: Stream) -> Any:
        found = bisect_right(self.cumulative, stream.uniform() * self.cumulative[-1])
        return self.deals[min(found, len(self.deals) - 1)]

    def _simulate(self, state: State, stream: Stream) -> None:
        game, at_root = self.game, True
        path: list[tuple[InformationNode, int, int]] = []
        while True:
            actors = game.actors(state)
            if not actors:
                values = [float(v) for v in game.returns(state)]
                break
            if actors[0] == CHANCE:
                state = game.step(state, {CHANCE: draw_outcome(game, state, stream)})
                continue
            legal = {p: game.legal(state, p) for p in actors}
            nodes, made = {}, False
            for p in actors:
                if len(legal[p]) > 1:
                    key = (p, game.info(state, p))
                    made = made or key not in self.nodes
                    n = len(legal[p])
                    nodes[p] = self.nodes.setdefault(key, InformationNode([0] * n, [0.0] * n))
            if made and not at_root:
                values = leaf_values(game, self.evaluator, state, stream)
                break
            actions = {p: legal[p][0] for p in actors}
            for p, node in nodes.items():
                chosen = self._choose(node, p, stream)
                path.append((node, p, chosen))
                actions[p] = legal[p][chosen]
            state, at_root = game.step(state, actions), False
        for p, value in enumerate(values):
            self.low[p], self.high[p] = min(self.low[p], value), max(self.high[p], value)
            self.total[p] += value
        for node, p, chosen in path:
            node.visits += 1
            node.counts[chosen] += 1
            node.totals[chosen] += values[p]

    def _choose(self, node: InformationNode, player: int, stream: Stream) -> int:
        size = len(node.counts)
        low = self.low[player]
        scale = 1.0 / (self.high[player] - low) if self.high[player] > low else 0.0
        logarithm = math.log(node.visits) if node.visits else 0.0
        best, found = 0, -math.inf
        start = stream.below(size)
        for k in range(size):
            a = start + k if start + k < size else start + k - size
            n = node.counts[a]
            if n == 0:
                return a
            value = (node.totals[a] / n - low) * scale
            score = value + self.settings.exploration * math.sqrt(logarithm / n)
            if score > found:
                best, found = a, score
        return best
