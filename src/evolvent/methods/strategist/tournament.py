"""A round robin in which whoever is clearly behind drops out early: common deals, all seats swapped."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from evolvent.methods.strategist.executors import ATTEMPTS, Executor
from evolvent.methods.strategist.games.protocol import Game
from evolvent.methods.strategist.games.registry import make_game
from evolvent.methods.strategist.games.rng import key_of
from evolvent.methods.strategist.matches import Matches, Seat, pair_seeds, play, play_pairs
from evolvent.methods.strategist.ratings import Match, Ratings, margin_ratings
from evolvent.methods.strategist.sandbox.language import SkillError
from evolvent.methods.strategist.sandbox.workers import Limits, WorkerLostError
from evolvent.methods.strategist.search.evaluators import Evaluator, Rollouts
from evolvent.methods.strategist.search.settings import SearchSettings
from evolvent.methods.strategist.skills import ActGuide, CodeSkill, GuideSkill, Skill, skill_from
from evolvent.runs.folder import ShardedJsonl

logger = logging.getLogger(__name__)
T = TypeVar("T")

KEPT_EVALUATORS = 32


@dataclass(frozen=True)
class Player:
    """Who plays: a skill, "rollout" or "random", in a form that travels between processes.

    Attributes:
        id: node of the tree, or the name of an anchor.
        skill: JSON of a skill, or one of those names.
    """

    id: str
    skill: str

    @classmethod
    def of(cls, id: str, skill: Skill) -> Player:
        """A player with a skill."""
        return cls(id, json.dumps(skill.to_json(), sort_keys=True))


@dataclass(frozen=True)
class Job:
    """A match to be played somewhere."""

    game: str
    settings: str
    first: Player
    second: Player
    search: SearchSettings
    limits: Limits
    pairs: int
    seed: int

    @property
    def key(self) -> str:
        """What identifies it in a run."""
        return f"{self.first.id}:{self.second.id}:{self.pairs}:{self.seed}"


Played = tuple[list[list[float]] | None, str]  # what `play_job` gives


def game_json(game: Game) -> tuple[str, str]:
    """Name and settings, as a job carries them."""
    return game.name, json.dumps(dict(game.settings), sort_keys=True)


@lru_cache(maxsize=8)
def game_of(name: str, settings: str) -> Game:
    """The game of a job."""
    values = json.loads(settings)
    if name.startswith("openspiel:"):
        values.pop("spiel_name", None)
    return make_game(name, **values)


class _Evaluators:
    """Evaluators of this process by skill: a worker is started once, not once a match."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str, Any], Evaluator | None] = {}

    def get(self, game: Game, skill: str, limits: Limits) -> Evaluator | None:
        key = (json.dumps(game_json(game)), skill, limits)
        if key not in self.known:
            while len(self.known) >= KEPT_EVALUATORS:
                _close(self.known.pop(next(iter(self.known))))
            self.known[key] = evaluator_of(game, skill, limits)
        return self.known[key]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.drop()

    def drop(self) -> None:
        while self.known:
            _close(self.known.popitem()[1])


EVALUATORS = _Evaluators()


def evaluator_of(game: Game, skill: str, limits: Limits) -> Evaluator | None:
    """What evaluates leaves for a player."""
    if skill == "rollout":
        return Rollouts(1)
    if skill == "random":
        return None
    loaded = skill_from(json.loads(skill))
    if isinstance(loaded, CodeSkill):
        return loaded.evaluator(game, limits)
    if isinstance(loaded, GuideSkill | ActGuide):
        raise SkillError("a dialogue guide does not evaluate states")
    return loaded.evaluator(game)


def seat_of(game: Game, player: Player, search: SearchSettings, limits: Limits) -> Seat:
    """A player at the table."""
    return Seat(EVALUATORS.get(game, player.skill, limits), search)


def with_new_workers(do: Callable[[], T]) -> T:
    """What `do` gives; where a worker is lost meanwhile it is done again with new ones, twice."""
    for _ in range(ATTEMPTS - 1):
        try:
            return do()
        except WorkerLostError as error:
            logger.warning("played again: %s", error)
            EVALUATORS.drop()
    return do()


def play_job(job: Job) -> Played:
    """Margins of the first player (pairs, 2), or None and which skill failed how: "ID: reason"."""
    game = game_of(job.game, job.settings)

    def margins() -> list[list[float]]:
        first, second = (seat_of(game, player, job.search, job.limits) for player in (job.first, job.second))
        found: list[list[float]] = play_pairs(game, first, second, job.pairs, job.seed).tolist()
        return found

    try:
        return with_new_workers(margins), ""
    except SkillError as error:
        blamed = job.first if _is_code(job.first) and not _is_code(job.second) else job.second
        if _is_code(job.first) and _is_code(job.second):
            blamed = _guilty(game, job)
        EVALUATORS.drop()
        return None, f"{blamed.id}: {error}"


@dataclass
class Tournament:
    """Plays matches of one round, remembers them in the folder of its stage, rates everybody.

    Attributes:
        game: the rules.
        search: of every player.
        limits: of code skills.
        heats: game pairs of a match after each heat.
        l2: λ of the ratings.
        seed: of this round's deals.
        log: matches that were played before a kill; None where answers of a model are kept instead.
        executor: where they are played.
        on_progress: called with (done, total).
        failures: id -> why a skill had to leave.
        play_job: plays one match.
    """

    game: Game
    search: SearchSettings
    limits: Limits
    heats: Sequence[int]
    l2: float
    seed: int
    log: ShardedJsonl | None
    executor: Executor
    on_progress: Callable[[int, int], None] = lambda *_: None
    failures: dict[str, str] = field(default_factory=dict)
    play_job: Callable[[Job], Played] = play_job

    def play(
        self, new: Sequence[Player], others: Sequence[Player], past: Sequence[Match]
    ) -> tuple[list[Match], Ratings]:
        """All matches in which a new player takes part, in heats.

        Args:
            new: players that race.
            others: parents and anchors; they stay, but only play the new ones.
            past: matches of earlier rounds, for the ratings.

        Returns:
            The new matches, and ratings of everybody in `past` and here.
        """
        matches: list[Match] = []
        racing, before = list(new), 0
        for heat, pairs in enumerate(self.heats):
            jobs = self._jobs(racing, others, pairs - before, heat)
            matches += self._played(jobs)
            before = pairs
            matches = [m for m in matches if not {m.first, m.second} & self.failures.keys()]
            everybody = dict.fromkeys([n for m in [*past, *matches] for n in (m.first, m.second)])
            rated = margin_ratings([*past, *matches], list(everybody), l2=self.l2)
            racing = [p for p in racing if p.id in rated.players]
            if not racing:
                break
            leader = max((p.id for p in [*racing, *others] if p.id in rated.players), key=lambda i: rated[i])
            racing = [p for p in racing if not rated.behind(p.id, leader)]
        return matches, rated

    def _jobs(self, racing: Sequence[Player], others: Sequence[Player], pairs: int, heat: int) -> list[Job]:
        table = [(a, b) for i, a in enumerate(racing) for b in [*racing[i + 1 :], *others]]
        seed = key_of(self.seed, heat) >> 1
        name, settings = game_json(self.game)
        return [
            Job(name, settings, a, b, self.search, self.limits, pairs, seed) for a, b in table if a.skill != b.skill
        ]

    def _played(self, jobs: Sequence[Job]) -> list[Match]:
        known = {row["key"]: row for row in self.log.rows()} if self.log else {}
        fresh = [job for job in jobs if job.key not in known]
        for done, (job, (margins, failure)) in enumerate(
            zip(fresh, self.executor.map(self.play_job, fresh), strict=True), start=1
        ):
            row = {"key": job.key, "margins": margins, "failure": failure}
            if self.log:
                self.log.append([row])
            known[job.key] = row
            self.on_progress(len(jobs) - len(fresh) + done, len(jobs))
        matches = []
        for job in jobs:
            row = known[job.key]
            if row["margins"] is None:
                player, _, reason = str(row["failure"]).partition(": ")
                self.failures.setdefault(player, reason)
                continue
            by_side = np.array(row["margins"])
            matches.append(Match(job.first.id, job.second.id, by_side.mean(1), by_side))
        return matches


def self_play(
    game: Game, player: Player, search: SearchSettings, limits: Limits, games: int, seed: int
) -> Mapping[str, NDArray[Any]]:
    """Games of a skill against itself: states, what search and skill say of them, and the outcome for each player."""
    seating = np.zeros((games, game.num_players), np.int64)

    def played() -> Matches:
        seat = seat_of(game, player, replace(search, move="sample"), limits)
        return play(game, [seat], seating, pair_seeds(seed, games), record=True)

    matches = with_new_workers(played)
    replay = matches.replay
    assert replay is not None
    return {
        "game": replay.game, "states": replay.states, "search": replay.search, "leaf": replay.leaf,
        "actions": replay.actions, "outcome": matches.returns[replay.game],
    }  # fmt: skip


def _is_code(player: Player) -> bool:
    return player.skill.startswith("{") and json.loads(player.skill)["kind"] == "code"


def _guilty(game: Game, job: Job) -> Player:
    """Which of two code skills fails against random play on the same deals."""
    random = Seat(None)
    for player in (job.first, job.second):
        EVALUATORS.drop()
        try:
            play_pairs(game, seat_of(game, player, job.search, job.limits), random, min(job.pairs, 8), job.seed)
        except SkillError:
            return player
    return job.second


def _close(evaluator: object) -> None:
    close = getattr(evaluator, "close", None)
    if close is not None:
        close()
