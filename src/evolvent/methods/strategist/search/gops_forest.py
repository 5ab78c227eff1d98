"""Many SM-MCTS trees of GOPS games that go forward together in compiled code."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolvent.methods.strategist.games import compiled
from evolvent.methods.strategist.games.gops import Gops
from evolvent.methods.strategist.games.protocol import Encoded
from evolvent.methods.strategist.search.evaluators import Evaluator, LinearProgram, Rollouts, Zero, batch_values
from evolvent.methods.strategist.search.settings import SearchResult, SearchSettings, move_policy
from evolvent.methods.strategist.search.simultaneous import SELECTIONS, exploration_weight


class GopsForest:
    """Trees for `trees` games, with the results of :class:`~.simultaneous.Tree` for each.

    Args:
        game: its rules.
        evaluator: of leaves. Linear programs, rollouts and zero run inside the kernels, others on batches of leaves.
        settings: of every tree.
        trees: how many games.
    """

    def __init__(self, game: Gops, evaluator: Evaluator, settings: SearchSettings, trees: int) -> None:
        self.kernels: Any = compiled.load("search.simultaneous_kernels")
        k: Any = self.kernels
        self.game, self.evaluator, self.settings = game, evaluator, settings
        self.selection = settings.resolved(hidden=False)
        most = settings.budget * game.num_cards + 1
        self.rules = k.Rules(
            game.num_cards,
            int(game.ties == "carry"),
            int(game.win_loss),
            SELECTIONS.index(self.selection),
            settings.gamma,
            np.array([exploration_weight(n, settings) for n in range(most)]),
        )
        self.leaf = k.Leaf(*compiled_leaf(k, evaluator))
        self.forest = k.plant(trees, settings.budget, game.num_cards, self.rules.selection)

    def clear(self) -> None:
        """Empty all trees for other games."""
        self.forest.table[:] = 0
        self.forest.size[:] = 0
        self.forest.bounds[:] = (np.inf, -np.inf)

    @property
    def tree_bytes(self) -> int:
        """Memory of one tree."""
        return int(sum(array.nbytes for array in self.forest) // len(self.forest.size))

    def search(self, encoded: Encoded, which: NDArray[np.int64], seeds: NDArray[np.uint64]) -> list[SearchResult]:
        """`budget` simulations in trees `which` from encoded states where both bid; see :meth:`policies`."""
        policy, counts, totals, means = self.policies(encoded, which, seeds)
        found = []
        for i, row in enumerate(encoded):
            state = self.game.decode(row)
            size = len(state.hand0)
            values = totals[i, :, :size] / np.maximum(counts[i, :, :size], 1)
            found.append(
                SearchResult(
                    actions={0: state.hand0, 1: state.hand1},
                    policy={p: policy[i, p, :size] for p in (0, 1)},
                    visits={p: counts[i, p, :size].astype(np.int64) for p in (0, 1)},
                    values={p: values[p] for p in (0, 1)},
                    value=np.array([means[i], 0.0 - means[i]]),  # 0 has no sign here, as in the reference
                )
            )
        return found

    def policies(
        self, encoded: Encoded, which: NDArray[np.int64], seeds: NDArray[np.uint64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Policy, counts and value sums (states, 2, num_cards), by rank of the card; mean value of player 0 (states,).

        All states are of one round; columns past the hand are 0.
        """
        k = self.kernels
        roots = np.ascontiguousarray(encoded).view(np.int64)
        self.forest.streams[which, 0] = seeds
        if self.leaf.kind == k.BATCH:
            self._in_lock_step(roots, which)
        else:
            k.simulate(self.forest, roots, which, self.settings.budget, self.leaf, self.rules)
        shape = (len(which), 2, self.game.num_cards)
        counts, totals, average = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        means = k.read_roots(self.forest, roots, which, self.rules, counts, totals, average)
        policy = np.zeros(shape)
        size = int(self.game.stage(encoded[:1])[0])
        policy[..., :size] = move_policy(counts[..., :size], average[..., :size], self.settings)
        return policy, counts, totals, means

    def _in_lock_step(self, roots: NDArray[np.int64], which: NDArray[np.int64]) -> None:
        k = self.kernels
        k.plant_roots(self.forest, roots, which)
        waiting, values = np.zeros(len(which), np.bool_), np.zeros(len(which))
        for _ in range(self.settings.budget):
            k.descend_all(self.forest, roots, which, self.rules, waiting, values)
            if waiting.any():
                leaves = self.forest.leaf[which[waiting]].view(np.int16)
                assert callable(self.evaluator)
                values[waiting] = batch_values(self.game, self.evaluator, leaves)[:, 0]
            k.back_up_all(self.forest, which, values, self.rules)


def compiled_leaf(k: Any, evaluator: Evaluator) -> tuple[int, int, NDArray[np.float64], NDArray[np.int64]]:
    """Kind, playouts, weights and terms of an evaluator, as the kernels take them."""
    weights, columns = np.zeros(2), np.zeros((0, 4), np.int64)
    if isinstance(evaluator, LinearProgram):
        return k.PROGRAM, 0, *evaluator.arrays()
    if isinstance(evaluator, Rollouts):
        return k.ROLLOUTS, evaluator.count, weights, columns
    return (k.ZERO if isinstance(evaluator, Zero) else k.BATCH), 0, weights, columns
