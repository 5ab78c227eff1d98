"""How fast are the engines and the search? Every figure is a ratio of two measurements of one process, taken in turns.

python -m benchmarks.strategist.engines            all parts
python -m benchmarks.strategist.engines gops-search
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.results_file import record
from evolvent.methods.strategist.games.avalon import Avalon
from evolvent.methods.strategist.games.gops import Gops
from evolvent.methods.strategist.games.protocol import CHANCE
from evolvent.methods.strategist.games.rng import key_of
from evolvent.methods.strategist.matches import pair_seeds
from evolvent.methods.strategist.search.avalon_forest import AvalonForest
from evolvent.methods.strategist.search.evaluators import Rollouts, program
from evolvent.methods.strategist.search.gops_forest import GopsForest
from evolvent.methods.strategist.search.information_set import InformationSetSearch
from evolvent.methods.strategist.search.settings import SearchSettings
from evolvent.methods.strategist.search.simultaneous import Tree

ROUNDS = 5
GOOFSPIEL = "goofspiel(num_cards=6,points_order=random,returns_type=point_difference)"
HAND = {"score_difference": 1.0, "sorted_match": 1.0}


def in_turns(*runs: Callable[[], float], rounds: int = ROUNDS) -> list[float]:
    """Median rate of each (every run returns how many things it did), after one run that is not counted."""
    rates: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()
    for _ in range(rounds):
        for measured, run in zip(rates, runs, strict=True):
            started = time.perf_counter()
            done = run()
            measured.append(done / (time.perf_counter() - started))
    return [statistics.median(r) for r in rates]


def row(claim: str, value: float, unit: str, comparator: str, theirs: float, **more: Any) -> dict[str, Any]:
    told = {"claim": claim, "value": value, "unit": unit, "comparator": comparator}
    return {**told, "comparator_value": theirs, "ratio": value / theirs, **more}


def gops_games() -> list[dict[str, Any]]:
    """Random games of GOPS-6: compiled, in the readable engine, and in OpenSpiel driven from Python."""
    import pyspiel

    game, theirs = Gops(6, ties="discard"), pyspiel.load_game(GOOFSPIEL)
    kernels, counter, choose = game.kernels(), np.array([key_of(1)], np.uint64), random.Random(1).choice

    def compiled() -> float:
        kernels.random_games(200_000, 6, 0, 0, counter)
        return 200_000

    def readable() -> float:
        for _ in range(300):
            state = game.initial()
            while actors := game.actors(state):
                state = game.step(state, {p: choose(game.legal(state, p)) for p in actors})
        return 300

    def spiel() -> float:
        for _ in range(3000):
            state = theirs.new_initial_state()
            while not state.is_terminal():
                if state.is_chance_node():
                    state.apply_action(choose(state.legal_actions()))
                else:
                    state.apply_actions([choose(state.legal_actions(0)), choose(state.legal_actions(1))])
        return 3000

    fast, slow, other = in_turns(compiled, readable, spiel)
    what = "random games of GOPS-6"
    return [
        row(f"speed: {what}, compiled", fast, "games/s", "OpenSpiel's goofspiel from Python", other),
        row(f"speed: {what}, compiled against readable", fast, "games/s", "the readable engine", slow),
    ]


def gops_search() -> list[dict[str, Any]]:
    """Simulations of SM-MCTS from the start of GOPS-6, against OpenSpiel's C++ MCTS bot with one playout a leaf."""
    import pyspiel

    game, rows = Gops(6, ties="discard"), []
    first = game.step(game.initial(), {CHANCE: 3})
    turns = pyspiel.load_game_as_turn_based(
        "goofspiel", {"num_cards": 6, "points_order": "random", "returns_type": "point_difference", "players": 2}
    )
    start = turns.new_initial_state()
    start.apply_action(2)
    for budget in (100, 1000):
        repeats = 20_000 // budget
        encoded, which = np.repeat(game.encode([first]), repeats, axis=0), np.arange(repeats)

        def ours(
            evaluator: Any, selection: Any, budget: int = budget, encoded: Any = encoded, which: Any = which
        ) -> Any:
            forest = GopsForest(game, evaluator, SearchSettings(budget, selection), len(which))

            def run() -> float:
                forest.clear()
                forest.policies(encoded, which, pair_seeds(1, len(which)))
                return budget * len(which)

            return run

        def spiel(budget: int = budget, repeats: int = repeats) -> float:
            for seed in range(repeats):
                leaf = pyspiel.RandomRolloutEvaluator(1, seed)
                bot = pyspiel.MCTSBot(turns, leaf, 2.0, budget, 1000, False, seed, False)
                bot.mcts_search(start)
            return budget * repeats

        def readable(budget: int = budget) -> float:
            Tree(game, Rollouts(1), SearchSettings(budget, "duct")).search(first, 1)
            return budget

        duct, rm, hand, slow, other = in_turns(
            ours(Rollouts(1), "duct"), ours(Rollouts(1), "rm"), ours(program(game, HAND), "duct"), readable, spiel
        )
        bot = "OpenSpiel's C++ MCTSBot, one playout a leaf"
        unit = "simulations/s"
        rows += [
            row(f"speed: duct, playout leaf, {budget} simulations", duct, unit, bot, other),
            row(f"speed: rm, playout leaf, {budget} simulations", rm, unit, bot, other),
            row(f"speed: duct, heuristic leaf, {budget} simulations", hand, unit, bot, other),
            row(f"speed: duct compiled against readable, {budget} simulations", duct, unit, "readable form", slow),
        ]
    return rows


def avalon() -> list[dict[str, Any]]:
    """Random games of Avalon, and simulations of MO-ISMCTS, compiled and readable."""
    rows = []
    sets: tuple[tuple[int, tuple[str, ...]], ...] = (
        (5, ()),
        (7, ("percival", "morgana")),
        (10, ("percival", "morgana", "mordred", "oberon")),
    )
    for players, roles in sets:
        game = Avalon(players, roles)
        kernels, counter = game.kernels(), np.array([key_of(1)], np.uint64)
        rules, choose = kernels.rules_of(game), random.Random(1).choice

        def compiled(kernels: Any = kernels, rules: Any = rules, counter: Any = counter) -> float:
            kernels.random_games(50_000, rules, counter)
            return 50_000

        def readable(game: Avalon = game, choose: Any = choose) -> float:
            for seed in range(50):
                state = game.initial(seed)
                while actors := game.actors(state):
                    state = game.step(state, {p: choose(game.legal(state, p)) for p in actors})
            return 50

        fast, slow = in_turns(compiled, readable)
        rows.append(row(f"speed: random games of Avalon-{players}", fast, "games/s", "the readable engine", slow))
    game = Avalon(5)
    state, running = game.initial(1), np.cumsum(np.ones(60))
    leaf, settings = program(game, {"quest_lead": 0.3, "clean_team": 0.2}), SearchSettings(200)
    forest = AvalonForest(game, leaf, settings)
    player = state.leader

    def fast_search() -> float:
        forest.search([state] * 100, [player] * 100, [running] * 100, list(range(100)))
        return 100 * 200

    def slow_search() -> float:
        InformationSetSearch(game, leaf, settings, game.role_set.assignments, running).search(state, player, 1)
        return 200

    fast, slow = in_turns(fast_search, slow_search)
    rows.append(row("speed: MO-ISMCTS, Avalon-5, 200 simulations", fast, "simulations/s", "the readable form", slow))
    return rows


PARTS = {"gops-games": gops_games, "gops-search": gops_search, "avalon": avalon}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default all")
    for part in parser.parse_args().parts or PARTS:
        record("strategist", PARTS[part](), f"python -m benchmarks.strategist.engines {part}")


if __name__ == "__main__":
    main()
