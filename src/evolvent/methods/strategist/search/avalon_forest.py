"""Many MO-ISMCTS searches of Avalon tables at once, in compiled code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolvent.methods.strategist.games import compiled
from evolvent.methods.strategist.games.avalon import Avalon, AvalonState
from evolvent.methods.strategist.search.evaluators import Evaluator, batch_values
from evolvent.methods.strategist.search.gops_forest import compiled_leaf
from evolvent.methods.strategist.search.settings import SearchResult, SearchSettings, move_policy

MOST_TREES = 256
MOST_BYTES = 64 << 20  # of beliefs, and of trees


class AvalonForest:
    """Gives the results of :class:`~.information_set.InformationSetSearch` for many roots."""

    def __init__(self, game: Avalon, evaluator: Evaluator, settings: SearchSettings) -> None:
        self.kernels: Any = compiled.load("search.information_set_kernels")
        k: Any = self.kernels
        self.game, self.evaluator, self.settings = game, evaluator, settings
        rules: Any = game.kernels()
        self.rules, self._widen = rules.rules_of(game), rules.widen
        self.deals = game.role_set.assignments.astype(np.int64)
        logarithms = np.array([0.0, *(math.log(n) for n in range(1, settings.budget + 1))])
        self.settings_of_search = k.Search(settings.exploration, logarithms)
        self.leaf = k.Leaf(*compiled_leaf(k, evaluator))
        self.forest = k.plant(1, settings.budget, self.rules)
        most = max(8 * len(self.deals), sum(array.nbytes for array in self.forest))
        self.trees = max(1, min(MOST_TREES, MOST_BYTES // most))

    def search(
        self,
        states: Sequence[AvalonState],
        players: Sequence[int],
        beliefs: Sequence[NDArray[np.float64]],
        seeds: Sequence[int],
    ) -> list[SearchResult]:
        """One search for each (state, player), from running sums of the player's belief."""
        found: list[SearchResult] = []
        for start in range(0, len(states), self.trees):
            part = slice(start, start + self.trees)
            found += self._search(states[part], players[part], np.stack(beliefs[part]), seeds[part])
        return found

    def _search(
        self,
        states: Sequence[AvalonState],
        players: Sequence[int],
        cumulative: NDArray[np.float64],
        seeds: Sequence[int],
    ) -> list[SearchResult]:
        k, many = self.kernels, len(states)
        if len(self.forest.depth) < many:
            self.forest = k.plant(many, self.settings.budget, self.rules)
        roots = self._widen(self.game.encode(states))
        keys = np.array(seeds, np.uint64)
        if self.leaf.kind == k.BATCH:
            self._in_lock_step(roots, cumulative, keys)
        else:
            fixed = (self.settings.budget, self.leaf, self.settings_of_search, self.rules)
            k.simulate(self.forest, roots, self.deals, cumulative, keys, *fixed)
        most = self.rules.teams.shape[1]
        counts, totals = np.zeros((many, max(most, 10))), np.zeros((many, max(most, 10)))
        k.read_roots(self.forest, roots, np.array(players, np.int64), self.rules, counts, totals)
        found = []
        for i, (state, player) in enumerate(zip(states, players, strict=True)):
            legal = self.game.legal(state, player)
            visits = counts[i, : len(legal)]
            found.append(
                SearchResult(
                    actions={player: legal},
                    policy={player: move_policy(visits, visits, self.settings)},
                    visits={player: visits.astype(np.int64)},
                    values={player: totals[i, : len(legal)] / np.maximum(visits, 1)},
                    value=self.forest.totals[i] / self.settings.budget,
                )
            )
        return found

    def _in_lock_step(
        self, roots: NDArray[np.int64], cumulative: NDArray[np.float64], seeds: NDArray[np.uint64]
    ) -> None:
        k = self.kernels
        waiting, values = np.zeros(len(roots), np.bool_), np.zeros((len(roots), self.rules.players))
        k.clear_all(self.forest, seeds)
        for _ in range(self.settings.budget):
            fixed = (self.deals, cumulative, self.settings_of_search, self.rules)
            k.descend_all(self.forest, roots, *fixed, waiting, values)
            if waiting.any():
                leaves = self.forest.states[: len(roots)][waiting, : len(self.game.encoding)].astype(np.int16)
                assert callable(self.evaluator)
                values[waiting] = batch_values(self.game, self.evaluator, leaves)
            k.back_up_all(self.forest, values)
