"""`residual`: where is the heuristic wrong, and what explains it? The arithmetic form of reflection; no language model.

For each expression f of the library, standardised, the outcome minus v is regressed on it alone:

    slope = Σ (y − v)·f / Σ f²,      explained = slope²·mean(f²) / mean((y − v)²)

and those that explain most become ideas "change the weight of f by slope".
"""

from __future__ import annotations

import numpy as np

from evolvent.methods.strategist.games.protocol import Game
from evolvent.methods.strategist.proposers import Draft, Replay, TypedProposer
from evolvent.methods.strategist.skills.program import NEGLIGIBLE, Edit, ProgramSkill, expressions
from evolvent.methods.strategist.tree import Node


class ResidualProposer(TypedProposer):
    """Regression of what the value misses.

    Args:
        outcome_share: of the target, the rest is what search found.
        structure: whether ideas may name gates and products besides plain features.
    """

    name = "residual (no LLM)"

    def __init__(self, outcome_share: float, structure: bool) -> None:
        self.outcome_share, self.structure = outcome_share, structure

    def ideas(self, game: Game, node: Node, replay: Replay, count: int, random: np.random.Generator) -> list[Draft]:
        """The `count` expressions that explain most of the residual, one for each feature."""
        skill = node.skill
        assert isinstance(skill, ProgramSkill)
        features = game.features(replay.states)
        missed = replay.target(self.outcome_share) - skill.values(game, replay.states, features)
        if not game.antisymmetric:
            missed = missed - missed.mean()
        total = float((missed**2).mean())
        found = []
        for expression in expressions(game, structure=self.structure):
            column = expression.column(game, replay.states, features)
            if not game.antisymmetric:
                column = column - column.mean()
            size = float((column**2).mean())
            if size < NEGLIGIBLE or total < NEGLIGIBLE:
                continue
            slope = float((missed * column).mean()) / size
            found.append((slope**2 * size / total, slope, np.sqrt(size), expression))
        found.sort(key=lambda row: (-row[0], str(row[3])))
        drafts: list[Draft] = []
        used: set[str] = set()
        for explained, slope, deviation, expression in found:
            if expression.feature in used or len(drafts) == count:
                continue
            used.add(expression.feature)
            edit = Edit("shift", expression, round(slope, 6))
            sign = "too low" if slope > 0 else "too high"
            drafts.append(
                Draft(
                    f"{edit} Where it is one deviation ({deviation:.2f}) up, the value of {node.id} is "
                    f"{abs(slope) * deviation:.2f} points {sign}; that explains {explained:.0%} of its error.",
                    edit,
                )
            )
        return drafts
