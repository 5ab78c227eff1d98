"""A value heuristic as code that a language model wrote: `evaluate_state(state) -> (values, notes)`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolvent.methods.strategist.games.protocol import Encoded, Game, Values
from evolvent.methods.strategist.sandbox.language import CheckedSource, SkillError, check_source
from evolvent.methods.strategist.sandbox.workers import Limits, Worker
from evolvent.methods.strategist.skills.program import ridge_weights

CHECKED_STATES = 64
TOLERANCE = 1e-6


@dataclass(frozen=True)
class CodeSkill:
    """Code in the skill language, and how its numbers were recalibrated.

    Attributes:
        source: defines `evaluate_state`.
        calibration: note -> points added for each unit of it above its mean; "" is the constant. Empty: as written.
    """

    source: str
    calibration: dict[str, float] = field(default_factory=dict)

    kind = "code"

    def __str__(self) -> str:
        if not self.calibration:
            return self.source
        lines = [f"#   {weight:+.4f} × notes[{name!r}]" for name, weight in self.calibration.items()]
        return "\n".join([self.source.rstrip(), "# recalibrated on self-play; added to the value of team 0:", *lines])

    def __hash__(self) -> int:
        return hash((self.source, tuple(self.calibration.items())))

    def to_json(self) -> dict[str, Any]:
        """As stored."""
        return {"kind": "code", "source": self.source, "calibration": self.calibration}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> CodeSkill:
        """From what `to_json` gave."""
        return cls(str(row["source"]), {str(k): float(v) for k, v in row.get("calibration", {}).items()})

    def evaluator(self, game: Game, limits: Limits | None = None) -> CodeEvaluator:
        """A worker of its own that evaluates batches; close it."""
        return CodeEvaluator(game, self, limits or Limits())

    def recalibrated(
        self, game: Game, encoded: Encoded, outcome: NDArray[np.float64], *, ridge: float, limits: Limits
    ) -> CodeSkill:
        """Every number in `notes` becomes a regressor of what the value misses (specification 11.1).

        Args:
            game: the rules.
            encoded: states of self-play.
            outcome: final return of team 0, (states,).
            ridge: λ on standardised notes.
            limits: of the worker.
        """
        with CodeEvaluator(game, CodeSkill(self.source), limits) as evaluate:
            values, notes = evaluate.with_notes(encoded)
        names = sorted({name for row in notes for name in row})
        if not names:
            return self
        table = np.array([[row.get(name, 0.0) for name in names] for row in notes])
        missed = outcome - _of_team_zero(game, encoded, values)
        weights = ridge_weights(table, missed - missed.mean(), ridge, centred=True)
        constant = 0.0 if game.antisymmetric else float(missed.mean())
        constant -= float(table.mean(0) @ weights)
        return CodeSkill(self.source, {"": constant, **dict(zip(names, map(float, weights), strict=True))})


class CodeEvaluator:
    """Values of a code skill in units of returns, asked of its worker and remembered by state.

    GOPS: expected final points become their difference. Avalon: win probabilities p become 2p - 1.
    """

    def __init__(self, game: Game, skill: CodeSkill, limits: Limits) -> None:
        self.game, self.skill = game, skill
        self.checked: CheckedSource = check_source(skill.source)
        self.worker = Worker(self.checked, limits)
        self._known: dict[bytes, NDArray[np.float64]] = {}

    def __enter__(self) -> CodeEvaluator:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker."""
        self.worker.close()

    def __call__(self, encoded: Encoded) -> Values:
        """(states, players)."""
        keys = [row.tobytes() for row in encoded]
        fresh = {key: i for i, key in enumerate(keys) if key not in self._known}
        if fresh:
            rows = encoded[list(fresh.values())]
            self._known.update(zip(fresh, self._asked(rows), strict=True))
        return np.array([self._known[key] for key in keys]).reshape(len(keys), self.game.num_players)

    def with_notes(self, encoded: Encoded) -> tuple[Values, list[dict[str, float]]]:
        """Values without calibration, and the notes."""
        states: list[Any] = [self.game.view(row) for row in encoded]
        if self.checked.takes_tuple:
            states = [_by_position(state) for state in states]
        raw, notes = self.worker.evaluate(states, self.game.num_players)
        if self.game.name == "gops":
            return np.stack([raw[:, 0] - raw[:, 1], raw[:, 1] - raw[:, 0]], 1), notes
        if raw.size and (raw.min() < -TOLERANCE or raw.max() > 1 + TOLERANCE):
            raise SkillError(f"a win probability lies outside [0, 1]: {raw.min():g} to {raw.max():g}")
        return 2 * raw - 1, notes

    def _asked(self, encoded: Encoded) -> Values:
        values, notes = self.with_notes(encoded)
        calibration = self.skill.calibration
        if not calibration:
            return values
        added = np.array([sum(w * row.get(n, 0.0) for n, w in calibration.items() if n) for row in notes])
        return values + (added + calibration.get("", 0.0))[:, None] * self.game.sides(encoded)


def check_code(game: Game, skill: CodeSkill, limits: Limits, known_shapes: set[str]) -> CheckedSource:
    """Accept a code skill, or say why not (specification 3.4).

    It must be inside the language, run on reachable states from the first to the last round, give finite values of the
    right form, depend on the state, give the same again when asked again, and not repeat a skill that is there.

    Raises:
        SkillError: with the reason, for the repair prompt.
    """
    checked = check_source(skill.source)
    if checked.shape in known_shapes:
        raise SkillError("the skill is a skill that exists already, apart from names and numbers")
    encoded = reachable_states(game, CHECKED_STATES)
    with CodeEvaluator(game, skill, limits) as evaluate:
        first, _ = evaluate.with_notes(encoded)
        again, _ = evaluate.with_notes(encoded)
    if not np.array_equal(first, again):
        raise SkillError("the same state has another value when it is asked again")
    if np.ptp(first, axis=0).max() < TOLERANCE:
        raise SkillError("the value is the same at every state")
    return checked


def reachable_states(game: Game, count: int, seed: int = 0) -> Encoded:
    """Encoded states of random games, first and last ones among them, (count, fields)."""
    random = np.random.default_rng(seed)
    rows: list[Encoded] = []
    while sum(map(len, rows)) < count:
        states, state = [], game.initial(int(random.integers(1 << 31)))
        while actors := game.actors(state):
            states.append(state)
            actions = {}
            for player in actors:
                options = game.legal(state, player) or [outcome for outcome, _ in game.chance(state)]
                actions[player] = options[int(random.integers(len(options)))]
            state = game.step(state, actions)
        rows.append(game.encode([*states, state]))
    return np.concatenate(rows)[:count]


_TUPLE = ("prizes", "bids0", "bids1", "to_play", "score0", "score1", "deck", "hand0", "hand1")


def _by_position(state: dict[str, Any]) -> tuple[Any, ...]:
    """The paper's form: nine fields in this order."""
    return tuple(state[name] for name in _TUPLE) if _TUPLE[0] in state else tuple(state.values())


def _of_team_zero(game: Game, encoded: Encoded, values: Values) -> NDArray[np.float64]:
    sides = game.sides(encoded)
    result: NDArray[np.float64] = (values * sides).mean(1)
    return result
