"""A5: what the exact belief is worth to a good team at a table of five, against evil that plays by a script.

The script is known to the tables (they are fitted on games of the same players), so this is an upper bound: people do
not play by a script.

python -m benchmarks.strategist.table_play
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.results_file import record
from evolvent.evaluation.significance import bootstrap_interval, paired_bootstrap
from evolvent.methods.strategist.belief import Belief
from evolvent.methods.strategist.belief_tables import BeliefTables, GameRecord, fit_tables, record_of
from evolvent.methods.strategist.games.avalon import ASSASSINATE, FAIL, PROPOSE, SUCCESS, VOTE, Avalon, AvalonState
from evolvent.methods.strategist.games.avalon_rules import FIRST_EVIL, teams
from evolvent.methods.strategist.games.rng import Stream, key_of
from evolvent.methods.strategist.matches import pair_seeds

GAME = Avalon(5, discussion_rounds=0)
GAMES, FITTED_ON, ROUNDS_OF_FITTING = 1500, 1500, 2
FAILS, APPROVES_EVIL, APPROVES_CLEAN = 0.85, 0.85, 0.25


class Evil:
    """Proposes himself and random others, backs teams with evil on them, mostly fails, names good players blindly."""

    def act(self, state: AvalonState, player: int, stream: Stream) -> int:
        legal = GAME.legal(state, player)
        if state.phase == PROPOSE:
            mine = [team for team in legal if team >> player & 1]
            return mine[stream.below(len(mine))]
        if state.phase == VOTE:
            tainted = any(state.team >> seat & 1 and role >= FIRST_EVIL for seat, role in enumerate(state.roles))
            return int(stream.uniform() < (APPROVES_EVIL if tainted else APPROVES_CLEAN))
        if state.phase == ASSASSINATE:
            return legal[stream.below(len(legal))]
        return FAIL if stream.uniform() < FAILS else SUCCESS


class Memoryless:
    """Good that knows only its own role: proposes itself and random others, votes by a coin, takes the fifth team."""

    def act(self, state: AvalonState, player: int, stream: Stream) -> int:
        legal = GAME.legal(state, player)
        if state.phase == PROPOSE:
            mine = [team for team in legal if team >> player & 1]
            return mine[stream.below(len(mine))]
        if state.phase == VOTE:
            return int(state.rejections == 4 or stream.uniform() < 0.5)
        return SUCCESS


@dataclass
class Believer:
    """Good that proposes the team most likely clean, and approves one about as likely clean as the best there is."""

    belief: Belief
    slack: float = 0.9

    def act(self, state: AvalonState, player: int, stream: Stream) -> int:
        if state.phase not in (PROPOSE, VOTE):
            return SUCCESS
        self.belief.observe(state.history)
        posterior = self.belief.posterior(GAME.info(state, player))
        options = teams(5, GAME.quest_sizes[state.quest])
        clean = np.array([posterior[(GAME.role_set.evil & team) == 0].sum() for team in options])
        if state.phase == PROPOSE:
            best = np.flatnonzero(clean >= clean.max() - 1e-9)
            return options[best[stream.below(len(best))]]
        return int(state.rejections == 4 or clean[options.index(state.team)] >= self.slack * clean.max())


Good = Callable[[], Any]


def play_table(seed: int, good: Any) -> AvalonState:
    """One game; every choice is keyed by the seed, so variants meet the same deals."""
    state, ply = GAME.initial(seed), 0
    while actors := GAME.actors(state):
        actions = {}
        for player in actors:
            who = good if state.roles[player] < FIRST_EVIL else Evil()
            actions[player] = who.act(state, player, Stream(key_of(seed, ply, player)))
        state = GAME.step(state, actions)
        ply += 1
    return state


def believers(tables: BeliefTables | None) -> Callable[[], Believer]:
    return lambda: Believer(Belief(GAME.role_set, tables))


def matched_tables(without_votes: bool) -> BeliefTables:
    """Tables fitted on games of these very players, twice, because good votes by what it believes."""
    tables: BeliefTables | None = None
    for round_ in range(ROUNDS_OF_FITTING):
        make = believers(tables)
        seeds = pair_seeds(1000 + round_, FITTED_ON)
        games: list[GameRecord] = [record_of(play_table(int(seed), make())) for seed in seeds]
        tables = fit_tables(games)
        if without_votes:
            tables = BeliefTables(tables.by, tables.fails, np.full_like(tables.approve, 0.5), tables.games)
    assert tables
    return tables


def results(make: Good, seeds: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Whether good won the quests and the game, (games, 2)."""
    ends = [play_table(int(seed), make()) for seed in seeds]
    return np.array([(end.target >= 0, end.winner == 0) for end in ends], float)


def rows() -> list[dict[str, Any]]:
    seeds = pair_seeds(5, GAMES)
    found = {
        "memoryless": results(Memoryless, seeds),
        "hard logic": results(believers(None), seeds),
        "belief without votes": results(believers(matched_tables(True)), seeds),
        "exact belief": results(believers(matched_tables(False)), seeds),
    }
    told = []
    for i, what in enumerate(("quests", "game")):
        base = found["memoryless"][:, i]
        for name, won in found.items():
            interval, test = bootstrap_interval(won[:, i]), paired_bootstrap(base, won[:, i])
            told.append(
                {
                    "claim": f"A5: {what} won by good, {name}",
                    "value": interval.mean,
                    "unit": "share",
                    "comparator": "memoryless",
                    "comparator_value": float(base.mean()),
                    "ci95": [interval.low, interval.high],
                    "p_value": None if name == "memoryless" else test.p_value,
                    "n": GAMES,
                }
            )
    return told


def main() -> None:
    record("strategist", rows(), "python -m benchmarks.strategist.table_play")


if __name__ == "__main__":
    main()
