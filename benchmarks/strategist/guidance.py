"""A2 and A3: does a heuristic help the search, and how much does a perfect opponent win against it?

python -m benchmarks.strategist.guidance search          A2, GOPS-6, heuristics against one playout a leaf
python -m benchmarks.strategist.guidance exploitability  A3, exact, 4 and 5 cards
python -m benchmarks.strategist.guidance exploitability-evolved  A3 for a skill of A1, 4 cards
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.results_file import record
from benchmarks.strategist.evolve import DEFAULT, VARIANTS, evolved
from evolvent.evaluation.significance import bootstrap_interval, paired_bootstrap
from evolvent.methods.strategist.exploitability import exploitability
from evolvent.methods.strategist.games.gops import Gops
from evolvent.methods.strategist.matches import Seat, pair_seeds, play, play_pairs
from evolvent.methods.strategist.search.evaluators import Evaluator, LinearProgram, Rollouts, program
from evolvent.methods.strategist.search.settings import Move, SearchSettings, Selection

SIX = Gops(6)
HEURISTICS = {
    "sorted match": {"score_difference": 1.0, "sorted_match": 1.0},
    "hand-sum share": {"score_difference": 1.0, "remaining_by_hand_share": 1.0},
    "score only": {"score_difference": 1.0},
}
Cell = tuple[int, int, Selection, Move]  # cards, simulations, how actions are chosen in the tree and played
FOUR_CARDS: tuple[Cell, ...] = ((4, 100, "duct", "sample"), (4, 1000, "duct", "sample"), (4, 1000, "rm", "average"))
FIVE_CARDS: tuple[Cell, ...] = ((5, 100, "duct", "sample"), (5, 300, "duct", "sample"), (5, 300, "rm", "average"))
GAMES = {16: 2000, 32: 2000, 100: 2000, 400: 600}


def fitted(games: int = 2000, ridge: float = 20.0) -> LinearProgram:
    """Weights of all features by one ridge regression of (outcome - score so far) on states of seed self-play."""
    seat = Seat(program(SIX, HEURISTICS["score only"]), SearchSettings(32, "duct"))
    matches = play(SIX, [seat], np.zeros((games, 2), np.int64), pair_seeds(77, games), record=True)
    assert matches.replay is not None
    x = SIX.features(matches.replay.states).astype(float)
    spread = x.std(0)
    spread[spread == 0] = 1.0
    z, target = x / spread, matches.returns[matches.replay.game, 0] - x[:, 0]
    weights = np.linalg.solve(z.T @ z + ridge * np.eye(z.shape[1]), z.T @ target) / spread
    weights[0] += 1.0
    return program(SIX, [float(w) for w in weights])


def search() -> list[dict[str, Any]]:
    """Win rate of search with a heuristic at its leaves against search with one playout, both sampling their moves."""
    rows = []
    rivals: dict[str, Evaluator] = {**{name: program(SIX, w) for name, w in HEURISTICS.items()}, "ridge": fitted()}
    for budget, games in GAMES.items():
        settings = SearchSettings(budget, "duct", "sample")
        for name, leaf in rivals.items():
            margins = play_pairs(SIX, Seat(leaf, settings), Seat(Rollouts(1), settings), games // 2, seed=budget)
            won = ((margins > 0) + 0.5 * (margins == 0)).mean(1)
            points = paired_bootstrap(np.zeros(len(margins)), margins.mean(1))
            interval = bootstrap_interval(won)
            rows.append(
                {
                    "claim": f"A2: {name} against one playout, {budget} simulations",
                    "value": float(won.mean()),
                    "unit": "win rate",
                    "comparator": "an even match",
                    "comparator_value": 0.5,
                    "ci95": [interval.low, interval.high],
                    "p_value": points.p_value,
                    "n": games,
                    "points": points.difference,
                }
            )
    return rows


def exact() -> list[dict[str, Any]]:
    """Points a game that a best response wins, mean over three seeds of the agent's searches."""
    leaves: dict[str, Evaluator] = {
        "score only": program(SIX, HEURISTICS["score only"]),
        "playouts": Rollouts(1),
        "ridge": fitted(),
    }
    rows = measured(leaves, (*FOUR_CARDS, *FIVE_CARDS))
    random = [exploitability(Gops(cards), Seat(None)).value for cards in (4, 5)]
    rows += [
        {"claim": f"A3: random play, {cards} cards", "value": value, "unit": "points a game", "n": 1}
        for cards, value in zip((4, 5), random, strict=True)
    ]
    return rows


def exact_evolved() -> list[dict[str, Any]]:
    """The same for the skill that the run of A1 on ½ search + ½ outcome with seed 0 ends with."""
    skill, _ = evolved(DEFAULT, VARIANTS[DEFAULT], 0)
    return measured({"evolved": skill.evaluator(SIX)}, (*FOUR_CARDS, *FIVE_CARDS))


def measured(leaves: dict[str, Evaluator], cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A row for each leaf in each cell."""
    rows: list[dict[str, Any]] = []
    for cards, budget, selection, move in cells:
        for name, leaf in leaves.items():
            seat = Seat(leaf, SearchSettings(budget, selection, move))
            found = [exploitability(Gops(cards), seat, seed=seed).value for seed in range(3 if cards == 4 else 1)]
            claim = f"A3: {name}, {selection}, {budget} simulations, {cards} cards"
            told = {"claim": claim, "value": float(np.mean(found)), "unit": "points a game", "n": len(found)}
            duct = next((r for r in rows if r["claim"] == claim.replace(" rm,", " duct,")), None)
            if selection == "rm" and duct:
                value = duct["value"]
                told |= {"comparator": "the same with duct", "comparator_value": value, "ratio": told["value"] / value}
            rows.append(told)
    return rows


PARTS = {"search": search, "exploitability": exact, "exploitability-evolved": exact_evolved}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default all")
    for part in parser.parse_args().parts or PARTS:
        record("strategist", PARTS[part](), f"python -m benchmarks.strategist.guidance {part}")


if __name__ == "__main__":
    main()
