"""Matches of any game: all games go forward together, so that the searches of a step can share batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from evolvent.methods.strategist.belief import Belief
from evolvent.methods.strategist.games.avalon import Avalon
from evolvent.methods.strategist.games.openspiel import SpielGame
from evolvent.methods.strategist.games.protocol import CHANCE, Game, State, draw_outcome
from evolvent.methods.strategist.games.rng import Stream, key_of
from evolvent.methods.strategist.matches import MOVE, SEARCH, Matches, Recorder, Seat, draw_move, leaf_column
from evolvent.methods.strategist.search.avalon_forest import AvalonForest
from evolvent.methods.strategist.search.information_set import InformationSetSearch
from evolvent.methods.strategist.search.settings import SearchResult
from evolvent.methods.strategist.search.simultaneous import Tree


@dataclass(frozen=True)
class Request:
    """A search that a step needs."""

    game: int  # which match
    player: int
    state: State
    seed: int


class Searcher(Protocol):
    """The searches of one seat in all its games."""

    private: bool  # whether each player of the seat searches for himself

    def search(self, requests: Sequence[Request]) -> list[SearchResult]:
        """One result for each request."""
        ...


class PublicSearcher:
    """SM-MCTS, one tree a game."""

    private = False

    def __init__(self, game: Game, seat: Seat) -> None:
        self.game, self.seat = game, seat
        self.trees: dict[int, Tree] = {}

    def search(self, requests: Sequence[Request]) -> list[SearchResult]:
        """One result for each request."""
        found = []
        for r in requests:
            if r.game not in self.trees:
                assert self.seat.evaluator is not None
                self.trees[r.game] = Tree(self.game, self.seat.evaluator, self.seat.settings)
            found.append(self.trees[r.game].search(r.state, r.seed))
        return found


class AvalonSearcher:
    """MO-ISMCTS from each player's belief; one record of public evidence a game."""

    private = True

    def __init__(self, game: Avalon, seat: Seat) -> None:
        assert seat.evaluator is not None
        self.game, self.evaluator, self.settings, self.tables = game, seat.evaluator, seat.settings, seat.tables
        self.forest = AvalonForest(game, seat.evaluator, seat.settings) if game.kernels() else None
        self.beliefs: dict[int, Belief] = {}

    def search(self, requests: Sequence[Request]) -> list[SearchResult]:
        """One result for each request."""
        running = [np.cumsum(self._posterior(r)) for r in requests]
        if self.forest:
            return self.forest.search(
                [r.state for r in requests], [r.player for r in requests], running, [r.seed for r in requests]
            )
        deals = self.game.role_set.assignments
        return [
            InformationSetSearch(self.game, self.evaluator, self.settings, deals, cumulative).search(
                r.state, r.player, r.seed
            )
            for r, cumulative in zip(requests, running, strict=True)
        ]

    def belief(self, game: int) -> Belief:
        """The public evidence of a match; talk is told to it."""
        if game not in self.beliefs:
            self.beliefs[game] = Belief(self.game.role_set, self.tables)
        return self.beliefs[game]

    def _posterior(self, request: Request) -> NDArray[np.float64]:
        belief = self.belief(request.game)
        belief.observe(request.state.history)
        return belief.posterior(self.game.info(request.state, request.player))


def searcher_of(game: Game, seat: Seat) -> Searcher:
    """The searches of a seat.

    Raises:
        ConfigError: the game hides something and cannot tell which states are possible.
    """
    if isinstance(game, SpielGame) and game.hidden:
        game.assignments(None)
    return AvalonSearcher(game, seat) if isinstance(game, Avalon) else PublicSearcher(game, seat)


def play_in_step(
    game: Game, seats: Sequence[Seat], seating: NDArray[np.int64], seeds: NDArray[np.uint64], record: bool
) -> Matches:
    """See :func:`~evolvent.methods.strategist.matches.play`."""
    recorder = Recorder(game) if record else None
    searchers = {i: searcher_of(game, seat) for i, seat in enumerate(seats) if seat.evaluator is not None}
    states = [game.initial(int(seed)) for seed in seeds]
    live, ply = list(range(len(states))), 0
    while live:
        steps: dict[int, dict[int, int]] = {}
        legal: dict[int, dict[int, tuple[int, ...]]] = {}
        wanted: dict[tuple[int, int], Request] = {}  # by match and player
        for i in live:
            state, seed = states[i], int(seeds[i])
            actors = game.actors(state)
            if actors[:1] == (CHANCE,):
                steps[i] = {CHANCE: draw_outcome(game, state, Stream(key_of(seed, ply, CHANCE)))}
            elif actors:
                legal[i] = {player: game.legal(state, player) for player in actors}
                steps[i] = {player: options[0] for player, options in legal[i].items()}
                for player, options in legal[i].items():
                    if len(options) > 1:
                        wanted[i, player] = Request(i, player, state, key_of(seed, ply, player, SEARCH))
        results = _search(searchers, seating, wanted)
        for i, player in wanted:
            options = legal[i][player]
            result = results.get((i, player))
            policy = result.policy[player] if result else np.full(len(options), 1 / len(options))
            uniform = np.array(Stream(key_of(int(seeds[i]), ply, player, MOVE)).uniform())
            steps[i][player] = options[int(draw_move(policy, uniform))]
        if recorder:
            _record(recorder, game, seats, seating, states, steps, wanted, results)
        for i, actions in steps.items():
            states[i] = game.step(states[i], actions)
        live = [i for i in live if game.actors(states[i])]
        ply += 1
    returns = np.array([game.returns(state) for state in states]).reshape(seating.shape)
    return Matches(returns, recorder.replay() if recorder else None, tuple(states))


def _search(
    searchers: dict[int, Searcher], seating: NDArray[np.int64], wanted: dict[tuple[int, int], Request]
) -> dict[tuple[int, int], SearchResult]:
    found: dict[tuple[int, int], SearchResult] = {}
    for seat, searcher in searchers.items():
        mine = [key for key in wanted if seating[key] == seat]
        asked: dict[tuple[int, int], Request] = {}
        for i, player in mine:  # where all is public, the first player's search serves the seat's others too
            asked.setdefault((i, player if searcher.private else -1), wanted[i, player])
        answers = dict(zip(asked, searcher.search(list(asked.values())), strict=True))
        found |= {(i, player): answers[i, player if searcher.private else -1] for i, player in mine}
    return found


def _record(
    recorder: Recorder,
    game: Game,
    seats: Sequence[Seat],
    seating: NDArray[np.int64],
    states: Sequence[Any],
    steps: dict[int, dict[int, int]],
    wanted: dict[tuple[int, int], Request],
    results: dict[tuple[int, int], SearchResult],
) -> None:
    rows = sorted({i for i, _ in wanted})
    if not rows:
        return
    encoded = game.encode([states[i] for i in rows])
    players = range(game.num_players)
    expected = np.array(
        [[results[i, p].value[p] if (i, p) in results else np.nan for p in players] for i in rows], np.float64
    )
    leaf = np.full(expected.shape, np.nan)
    for seat in np.unique(seating[rows]):
        mine = seating[rows] == seat
        leaf[mine] = leaf_column(game, seats[seat], encoded)[mine]
    played = np.array([[steps[i].get(p, -1) for p in players] for i in rows], np.int64)
    recorder.add(np.array(rows), encoded, expected, leaf, played)
