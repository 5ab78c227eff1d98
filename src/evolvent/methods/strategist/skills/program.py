"""A value heuristic as a weighted sum of feature expressions; anyone can read it, and it runs at engine speed.

    v(s) = Σ_k w_k · f_k(s) · |g_k(s)| · 1[low_k ≤ stage(s) ≤ high_k]

`stage` counts the rounds (quests) left, the factor |g| is optional. Ideas supply structure, regression the constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evolvent.errors import ConfigError
from evolvent.methods.strategist.games.protocol import Encoded, Game
from evolvent.methods.strategist.search.evaluators import ALWAYS, LinearProgram, Term

NEGLIGIBLE = 1e-9


@dataclass(frozen=True)
class Expression:
    """A feature, maybe times the size of another one, maybe only at some stages."""

    feature: str
    times: str | None = None
    gate: tuple[int, int] | None = None

    def __str__(self) -> str:
        product = f" × |{self.times}|" if self.times else ""
        gate = f" with {self.gate[0]} to {self.gate[1]} rounds left" if self.gate else ""
        return f"{self.feature}{product}{gate}"

    def column(self, game: Game, encoded: Encoded, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Its value at encoded states, (states,)."""
        names = game.feature_names
        column = features[:, names.index(self.feature)].astype(float)
        if self.times:
            column = column * np.abs(features[:, names.index(self.times)])
        if self.gate:
            stage = game.stage(encoded)
            column = np.where((stage >= self.gate[0]) & (stage <= self.gate[1]), column, 0.0)
        return column


@dataclass(frozen=True)
class Edit:
    """A typed idea: "shift" adds `amount` to the weight of an expression, "scale" multiplies it, "drop" removes it."""

    op: Literal["shift", "scale", "drop"]
    expression: Expression
    amount: float = 0.0

    def __str__(self) -> str:
        if self.op == "drop":
            return f"Drop {self.expression}."
        if self.op == "scale":
            return f"Multiply the weight of {self.expression} by {self.amount:.2f}."
        return f"{'Raise' if self.amount > 0 else 'Lower'} the weight of {self.expression} by {abs(self.amount):.3f}."

    def to_json(self) -> dict[str, Any]:
        """As stored."""
        e = self.expression
        return {"op": self.op, "feature": e.feature, "times": e.times, "gate": e.gate, "amount": self.amount}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Edit:
        """From what `to_json` gave."""
        gate = tuple(row["gate"]) if row.get("gate") else None
        return cls(row["op"], Expression(row["feature"], row.get("times"), gate), float(row["amount"]))  # type: ignore[arg-type]


@dataclass(frozen=True)
class ProgramSkill:
    """A weighted sum.

    Attributes:
        weights: of each expression, in the order in which they came in.
        bias: added in games whose value does not change sign with the seats.

    Example:
        >>> skill = ProgramSkill({Expression("score_difference"): 1.0})
        >>> print(skill.apply(Edit("shift", Expression("sorted_match"), 0.4)))
        +1.000 score_difference
        +0.400 sorted_match
    """

    weights: dict[Expression, float]
    bias: float = 0.0

    kind = "program"

    def __str__(self) -> str:
        lines = [f"{weight:+.3f} {expression}" for expression, weight in self.weights.items()]
        return "\n".join([*lines, f"{self.bias:+.3f}"] if self.bias else lines) or "0"

    def __hash__(self) -> int:
        return hash((tuple(self.weights.items()), self.bias))

    def apply(self, edit: Edit) -> ProgramSkill:
        """The skill with one edit, and nothing else changed.

        Raises:
            ConfigError: scaling or dropping what is not there.
        """
        weights, e = dict(self.weights), edit.expression
        if edit.op == "shift":
            weights[e] = weights.get(e, 0.0) + edit.amount
        elif e not in weights:
            raise ConfigError(f"{edit.op}: the program has no {e}")
        elif edit.op == "scale":
            weights[e] *= edit.amount
        else:
            del weights[e]
        return replace(self, weights={k: w for k, w in weights.items() if abs(w) > NEGLIGIBLE})

    def evaluator(self, game: Game) -> LinearProgram:
        """As the search runs it.

        Raises:
            ConfigError: a feature that the game does not have.
        """
        names = game.feature_names
        for e in self.weights:
            if unknown := {e.feature, e.times} - {None, *names}:
                raise ConfigError(f"{game.name} has no feature {unknown.pop()!r}; it has {', '.join(names)}")
        terms = [
            Term(w, names.index(e.feature), names.index(e.times) if e.times else -1, e.gate or ALWAYS)
            for e, w in self.weights.items()
        ]
        return LinearProgram(tuple(terms), self.bias)

    def values(self, game: Game, encoded: Encoded, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Value of team 0 at encoded states, (states,)."""
        total = np.full(len(encoded), self.bias)
        for expression, weight in self.weights.items():
            total += weight * expression.column(game, encoded, features)
        return total

    def refit(self, game: Game, encoded: Encoded, outcome: NDArray[np.float64], *, ridge: float) -> ProgramSkill:
        """The same expressions with weights by ridge regression of the outcome of team 0.

        In GOPS by points what is regressed is the outcome minus the score so far, whose weight stays 1.

        Args:
            game: the rules.
            encoded: states of self-play.
            outcome: final return of team 0 from each, (states,).
            ridge: λ on standardised columns.
        """
        features = game.features(encoded)
        by_points = "score_difference" in game.feature_names and not game.settings.get("win_loss")
        fixed = {Expression("score_difference"): 1.0} if by_points else {}
        free = [e for e in self.weights if e not in fixed]
        if not free:
            return self
        target = outcome - ProgramSkill(fixed).values(game, encoded, features)
        columns = np.stack([e.column(game, encoded, features) for e in free], 1)
        bias = 0.0 if game.antisymmetric else float(target.mean())
        weights = ridge_weights(columns, target - bias, ridge, centred=not game.antisymmetric)
        if not game.antisymmetric:
            bias -= float(columns.mean(0) @ weights)
        fitted = {**fixed, **dict(zip(free, map(float, weights), strict=True))}
        return ProgramSkill({e: w for e, w in fitted.items() if abs(w) > NEGLIGIBLE}, bias)

    def to_json(self) -> dict[str, Any]:
        """As stored."""
        terms = [{"feature": e.feature, "times": e.times, "gate": e.gate, "weight": w} for e, w in self.weights.items()]
        return {"kind": "program", "terms": terms, "bias": self.bias}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> ProgramSkill:
        """From what `to_json` gave."""
        weights = {}
        for term in row["terms"]:
            gate = tuple(term["gate"]) if term.get("gate") else None
            weights[Expression(term["feature"], term.get("times"), gate)] = float(term["weight"])  # type: ignore[arg-type]
        return cls(weights, float(row.get("bias", 0.0)))


def seed_program(game: Game) -> ProgramSkill:
    """What one writes down without thinking: the score so far; in Avalon a third for each quest ahead."""
    if "score_difference" in game.feature_names:
        return ProgramSkill({Expression("score_difference"): 1.0})
    if "quest_lead" in game.feature_names:
        return ProgramSkill({Expression("quest_lead"): 1 / 3})
    raise ConfigError(f"{game.name} has no feature library: give it a code skill")


def ridge_weights(
    columns: NDArray[np.float64], target: NDArray[np.float64], ridge: float, *, centred: bool = False
) -> NDArray[np.float64]:
    """Ridge regression on columns scaled to unit deviation, weights for the columns as they are."""
    shifted = columns - columns.mean(0) if centred else columns
    scale = np.sqrt((shifted**2).mean(0))
    used = scale > NEGLIGIBLE
    x = shifted[:, used] / scale[used]
    weights = np.zeros(columns.shape[1])
    weights[used] = np.linalg.solve(x.T @ x + ridge * np.eye(int(used.sum())), x.T @ target) / scale[used]
    return weights


def expressions(game: Game, *, structure: bool) -> Sequence[Expression]:
    """What edits may name: every feature; with `structure` also each of them in the first or second half of the game,
    and times |the others|."""
    plain = [Expression(name) for name in game.feature_names]
    if not structure:
        return plain
    longest = int(game.stage(game.encode([game.initial(0)]))[0])
    halves = [(longest // 2 + 1, longest), (0, longest // 2)]
    gated = [Expression(name, None, gate) for name in game.feature_names for gate in halves]
    products = [Expression(a, b) for a in game.feature_names for b in game.feature_names if a != b]
    return [*plain, *gated, *products]
