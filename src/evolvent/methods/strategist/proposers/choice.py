"""`choice`: typed edits are enumerated, and the model ranks them by how probable it finds them, given the evidence.

The score of an option is its mean token log-probability after the evidence minus the same after a neutral prompt, which
takes out how probable its words are anyway.
"""

from __future__ import annotations

import numpy as np

from evolvent.methods.strategist.games.protocol import Game
from evolvent.methods.strategist.proposers import Draft, Replay, TypedProposer
from evolvent.methods.strategist.proposers.prompting import describe_states, key_states, render
from evolvent.methods.strategist.skills.program import NEGLIGIBLE, Edit, Expression
from evolvent.methods.strategist.tree import Node
from evolvent.models.protocol import LanguageModel

STEP = 0.3  # of the outcome's deviation, for one deviation of the feature


class ChoiceProposer(TypedProposer):
    """Ranks two edits a feature, up and down.

    Args:
        model: ranks.
        feedback_states: key states shown as evidence.
        feedback: how they are chosen.
    """

    def __init__(self, model: LanguageModel, feedback_states: int, feedback: str) -> None:
        self.model, self.feedback_states, self.feedback = model, feedback_states, feedback
        self.name = f"choice ({model.name})"

    def ideas(self, game: Game, node: Node, replay: Replay, count: int, random: np.random.Generator) -> list[Draft]:
        """The `count` edits that the model prefers."""
        edits = options(game, replay)
        states = key_states(replay, self.feedback_states, self.feedback, random)
        prompt = render("choice", skill=str(node.skill), states=describe_states(game, replay, states))
        texts = [f" {edit}" for edit in edits]
        scores = rank(self.model, prompt, texts)
        order = sorted(range(len(edits)), key=lambda i: (-scores[i], i))[:count]
        return [Draft(f"{edits[i]} (score {scores[i]:+.3f} nats a token above neutral)", edits[i]) for i in order]


def options(game: Game, replay: Replay) -> list[Edit]:
    """Every feature up and down, by an amount that matters."""
    features = game.features(replay.states)
    spread = float(replay.outcome.std())
    edits = []
    for name in game.feature_names:
        expression = Expression(name)
        deviation = float(expression.column(game, replay.states, features).std())
        if deviation > NEGLIGIBLE:
            amount = round(STEP * spread / deviation, 3)
            edits += [Edit("shift", expression, amount), Edit("shift", expression, -amount)]
    return edits


def rank(model: LanguageModel, prompt: str, texts: list[str]) -> list[float]:
    """Mean token log-probability of each text after the prompt, less that after a neutral one."""
    told, neutral = model.choose([prompt, "One change:"], [texts, texts])
    pairs = zip(told.scores("token"), neutral.scores("token"), strict=True)
    return [a - b for a, b in pairs]
