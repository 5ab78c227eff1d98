"""`uniform`: a random feature changed by a random amount. The control: what selection alone achieves."""

from __future__ import annotations

import numpy as np

from evolvent.methods.strategist.games.protocol import Game
from evolvent.methods.strategist.proposers import Draft, Replay, TypedProposer
from evolvent.methods.strategist.skills.program import NEGLIGIBLE, Edit, expressions
from evolvent.methods.strategist.tree import Node

LARGEST = 1.0  # deviations of the outcome that an edit moves the value by, at most


class UniformProposer(TypedProposer):
    """Random edits of a sensible size: one deviation of the feature moves the value by up to one of the outcome."""

    name = "uniform (no LLM)"

    def __init__(self, structure: bool) -> None:
        self.structure = structure

    def ideas(self, game: Game, node: Node, replay: Replay, count: int, random: np.random.Generator) -> list[Draft]:
        """`count` random edits."""
        library = expressions(game, structure=self.structure)
        features = game.features(replay.states)
        spread = float(replay.outcome.std())
        drafts: list[Draft] = []
        for place in random.permutation(len(library)):
            deviation = float(library[place].column(game, replay.states, features).std())
            if deviation > NEGLIGIBLE and len(drafts) < count:
                amount = float(random.uniform(-LARGEST, LARGEST)) * spread / deviation
                edit = Edit("shift", library[place], round(amount, 6))
                drafts.append(Draft(f"{edit} (drawn at random)", edit))
        return drafts
