"""Matches of GOPS in compiled code: all games go forward round by round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolvent.methods.strategist.games.gops import Gops
from evolvent.methods.strategist.games.protocol import CHANCE, Values
from evolvent.methods.strategist.games.rng import first_below, first_uniform, keys_of
from evolvent.methods.strategist.matches import MOVE, SEARCH, Matches, Recorder, Seat, draw_move, leaf_column
from evolvent.methods.strategist.search.gops_forest import GopsForest

FOREST_BYTES = 64 << 20  # of trees that are held at once for a seat
MOST_GAMES = 4096


def play_compiled(
    game: Gops, seats: Sequence[Seat], seating: NDArray[np.int64], seeds: NDArray[np.uint64], record: bool
) -> Matches:
    """See :func:`~evolvent.methods.strategist.matches.play`."""
    recorder = Recorder(game) if record else None
    used = {int(s): seats[s] for s in np.unique(seating)}
    searching = {s: (seat.evaluator, seat.settings) for s, seat in used.items() if seat.evaluator is not None}
    tree_bytes = [GopsForest(game, *how, trees=1).tree_bytes for how in searching.values()]
    size = max(1, min(MOST_GAMES, len(seeds), FOREST_BYTES // max(tree_bytes, default=1)))
    forests = {s: GopsForest(game, *how, trees=size) for s, how in searching.items()}
    returns = np.zeros((len(seeds), 2))
    for start in range(0, len(seeds), size):
        part = slice(start, start + size)
        for forest in forests.values():
            forest.clear()
        returns[part] = _play_chunk(game, seats, forests, seating[part], seeds[part], recorder, start)
    return Matches(returns, recorder.replay() if recorder else None)


def _play_chunk(
    game: Gops,
    seats: Sequence[Seat],
    forests: dict[int, GopsForest],
    seating: NDArray[np.int64],
    seeds: NDArray[np.uint64],
    recorder: Recorder | None,
    start: int,
) -> Values:
    kernels: Any = game.kernels()
    words = np.repeat(game.encode([game.initial()]).view(np.int64), len(seeds), axis=0)
    for spent in range(game.num_cards):
        ply, cards = 2 * spent, game.num_cards - spent
        chosen = first_below(keys_of(seeds, ply, CHANCE), cards) if cards > 1 else np.zeros(len(seeds), np.int64)
        kernels.draw_all(words, chosen)
        encoded = words.view(np.int16).copy()
        policy = np.full((len(seeds), 2, cards), 1 / cards)
        expected = np.full((len(seeds), 2), np.nan)
        if cards > 1:
            for seat, forest in forests.items():
                _search(forest, seat, seating, encoded, seeds, ply + 1, policy, expected)
        ranks = np.zeros((len(seeds), 2), np.int64)
        for player in range(2 if cards > 1 else 0):
            uniform = first_uniform(keys_of(seeds, ply + 1, player, MOVE))
            ranks[:, player] = draw_move(policy[:, player], uniform)
        bids = kernels.settle_all(words, ranks, int(game.ties == "carry"))
        if recorder and cards > 1:
            leaf = np.full((len(seeds), 2), np.nan)
            for seat in np.unique(seating):
                mine = seating == seat
                leaf[mine] = leaf_column(game, seats[seat], encoded)[mine]
            recorder.add(start + np.arange(len(seeds)), encoded, expected, leaf, bids)
    scores = words.view(np.int16)[:, 5:7].astype(np.float64)
    margin = scores[:, 0] - scores[:, 1]
    if game.win_loss:
        margin = np.sign(margin)
    return np.stack([margin, -margin], axis=1)


def _search(
    forest: GopsForest,
    seat: int,
    seating: NDArray[np.int64],
    encoded: NDArray[np.int16],
    seeds: NDArray[np.uint64],
    ply: int,
    policy: NDArray[np.float64],
    expected: Values,
) -> None:
    for player in (0, 1):
        # One search serves both players where the seat sits twice.
        which = np.flatnonzero((seating[:, player] == seat) & ((player == 0) | (seating[:, 0] != seat)))
        if not len(which):
            continue
        keys = keys_of(seeds[which], ply, player, SEARCH)
        found, _, _, means = forest.policies(encoded[which], which, keys)
        for other in (0, 1):
            mine = seating[which, other] == seat
            policy[which[mine], other] = found[mine, other, : policy.shape[-1]]
            expected[which[mine], other] = means[mine] if other == 0 else 0.0 - means[mine]
