"""Reinforcement learning of a leaf value from self-play: play, fit, play with the fitted value, …"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from evolvent.methods.strategist.games.protocol import Encoded, Game
from evolvent.methods.strategist.games.rng import key_of
from evolvent.methods.strategist.matches import Seat, pair_seeds, play
from evolvent.methods.strategist.search.evaluators import Evaluator
from evolvent.methods.strategist.search.settings import SearchSettings
from evolvent.methods.strategist.skills.program import Expression, ProgramSkill, seed_program

Fit = Callable[[Encoded, NDArray[np.float64], int], Evaluator]  # states, outcome of team 0, first new row -> value


def learn(game: Game, search: SearchSettings, fit: Fit, *, episodes: int, iterations: int, seed: int) -> Evaluator:
    """The last of the fitted values.

    Args:
        game: the rules.
        search: of self-play; moves are sampled by visits.
        fit: learns from all states so far.
        episodes: games in all.
        iterations: fits in all.
        seed: of deals and searches.
    """
    evaluator: Evaluator = seed_program(game).evaluator(game)
    states, outcomes = np.zeros((0, len(game.encoding)), np.int16), np.zeros(0)
    settings = replace(search, move="sample")
    for iteration in range(iterations):
        games = episodes // iterations
        seeds = pair_seeds(key_of(seed, iteration) >> 1, games)
        matches = play(
            game, [Seat(evaluator, settings)], np.zeros((games, game.num_players), np.int64), seeds, record=True
        )
        assert matches.replay is not None
        rows = matches.replay.states
        returns = (matches.returns[matches.replay.game] * game.sides(rows)).mean(1)
        start = len(states)
        states, outcomes = np.concatenate([states, rows]), np.concatenate([outcomes, returns])
        evaluator = fit(states, outcomes, start)
    return evaluator


def ridge(game: Game, search: SearchSettings, *, episodes: int = 320, iterations: int = 10, seed: int = 0,
          penalty: float = 20.0) -> ProgramSkill:  # fmt: skip
    """The whole feature library, weights in closed form; no ideas, no tournament."""
    everything = ProgramSkill(dict.fromkeys(map(Expression, game.feature_names), 1.0))
    fitted = [everything]

    def fit(states: Encoded, outcomes: NDArray[np.float64], start: int) -> Evaluator:
        fitted.append(everything.refit(game, states, outcomes, ridge=penalty))
        return fitted[-1].evaluator(game)

    learn(game, search, fit, episodes=episodes, iterations=iterations, seed=seed)
    return fitted[-1]
