"""Who has ideas about dialogue guides: a model that coaches, or, for typed acts, chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evolvent.methods.strategist.config import StrategistConfig
from evolvent.methods.strategist.dialogue.rehearsal import Rehearsal
from evolvent.methods.strategist.dialogue.spoken import SpeechRecord
from evolvent.methods.strategist.games.protocol import Game
from evolvent.methods.strategist.games.rng import key_of
from evolvent.methods.strategist.proposers import Draft, Replay, TypedProposer
from evolvent.methods.strategist.proposers.prompting import parse_ideas, render
from evolvent.methods.strategist.sandbox.language import SkillError
from evolvent.methods.strategist.skills import ActGuide, GuideSkill, Skill
from evolvent.methods.strategist.skills.guide import MAX_QUESTIONS, SEED_GUIDES, answers_of
from evolvent.methods.strategist.skills.program import Edit, Expression
from evolvent.methods.strategist.tree import Node

LARGEST = 0.5  # shift of an answer of typed acts, at most
REFLECT, IDEAS, IMPLEMENT = 20, 21, 22  # purposes of the model's seeds


class ActProposer(TypedProposer):
    """Random shifts of the answers of typed acts; selection by rehearsal does the rest."""

    name = "uniform (no LLM; typed acts)"

    def __init__(self, rehearsal: Rehearsal) -> None:
        self.rehearsal = rehearsal

    def seeds(self, game: Game, count: int, random: np.random.Generator) -> list[Skill]:
        """The answers that agents talk by if nobody says otherwise."""
        return [ActGuide(self.rehearsal.role)]

    def ideas(self, game: Game, node: Node, replay: Replay, count: int, random: np.random.Generator) -> list[Draft]:
        """`count` random shifts."""
        names = answers_of(self.rehearsal.role)
        drafts = []
        for _ in range(count):
            name, amount = names[random.integers(len(names))], round(float(random.uniform(-LARGEST, LARGEST)), 2)
            change = f"{'up' if amount > 0 else 'down'} by {abs(amount):.2f}"
            text = f"{ActGuide.QUESTIONS[name]} The answer goes {change} (drawn at random)."
            drafts.append(Draft(text, Edit("shift", Expression(name), amount)))
        return drafts


class GuideProposer:
    """The paper's coach: reads filled worksheets with what the listeners made of them, and rewrites the questions.

    Args:
        rehearsal: where guides speak; its writer coaches too.
        args: settings of the run.
    """

    def __init__(self, rehearsal: Rehearsal, args: StrategistConfig) -> None:
        assert rehearsal.writer is not None
        self.rehearsal, self.writer, self.args = rehearsal, rehearsal.writer, args
        self.name = f"llm ({self.writer.model.name})"

    def seeds(self, game: Game, count: int, random: np.random.Generator) -> list[Skill]:
        """The plain worksheet of the role, which no model wrote."""
        return [GuideSkill(self.rehearsal.role, SEED_GUIDES[self.rehearsal.role])]

    def ideas(self, game: Game, node: Node, replay: Replay, count: int, random: np.random.Generator) -> list[Draft]:
        """Conclusions from the speeches that went worst, on deals that select nothing; then ideas."""
        assert isinstance(node.skill, GuideSkill)
        key = int(random.integers(1 << 31))
        deals = self.rehearsal.scenes(max(1, self.args.feedback_states // 2), key_of(self.args.seed, REFLECT) >> 1)
        spoken = sorted((self.rehearsal.perform(node.skill, s) for both in deals for s in both), key=lambda row: row[0])
        told = {"role": self.rehearsal.role, "skill": str(node.skill)}
        reflect = (
            render("guide_reflect", **told, examples=[_told(z, record) for z, record in spoken[:most]])
            for most in range(min(len(spoken), self.args.feedback_states), 0, -1)
        )
        conclusions = self.writer.ask_fitting(reflect, key_of(REFLECT, key), max_tokens=800)
        asked = render("guide_ideas", **told, conclusions=conclusions, count=count)
        for attempt in range(2):
            found = parse_ideas(self.writer.ask([asked], key_of(IDEAS, key, attempt), max_tokens=800)[0], count)
            if found:
                return [Draft(text) for text in found]
        return []

    def implement(
        self, game: Game, nodes: Sequence[Node], drafts: Sequence[Draft], keys: Sequence[str]
    ) -> list[Skill | str]:
        """The worksheet with one idea in it; what has no question, or the same ones, goes back with the error."""
        role = self.rehearsal.role
        prompts = [
            render("guide_implement", role=role, skill=str(node.skill), idea=draft.text, most=MAX_QUESTIONS)
            for node, draft in zip(nodes, drafts, strict=True)
        ]
        made: list[Skill | str] = [""] * len(prompts)
        asked = dict(enumerate(prompts))
        for attempt in range(self.args.repair_attempts + 1):
            answers = self.writer.ask(list(asked.values()), key_of(IMPLEMENT, attempt, *"".join(keys).encode()))
            again = {}
            for i, answer in zip(asked, answers, strict=True):
                try:
                    guide = GuideSkill.parse(role, answer)
                    if guide == nodes[i].skill:
                        raise SkillError("the questions are those that were there")
                    made[i] = guide
                except SkillError as error:
                    made[i] = str(error)
                    again[i] = render("repair", prompt=prompts[i], answer=answer[:2000], error=str(error))
            asked = again
            if not asked:
                break
        return made


def _told(z: float, record: SpeechRecord) -> str:
    reasons = "\n".join(f"player {p} thought: {heard.reasoning[:300]}" for p, heard in record.listeners.items())
    return f"Score {z:+.2f}.\nWorksheet answers: {record.answers}\nSpeech: {record.speech}\n{reasons}"
