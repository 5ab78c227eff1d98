"""Dialogue guides: at most six questions that an agent answers for itself before it speaks.

A model answers them in words each time; for an agent that talks in typed acts the answers are numbers in the guide.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from evolvent.errors import ConfigError
from evolvent.methods.strategist.dialogue.acts import ActPolicy
from evolvent.methods.strategist.sandbox.language import SkillError
from evolvent.methods.strategist.skills.program import Edit

MAX_QUESTIONS = 6
_QUESTION = re.compile(r"^\s*\**Q\s*(\d+)\**\s*[:.)]\s*(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class GuideSkill:
    """A worksheet for one role."""

    role: str
    questions: tuple[str, ...]

    kind = "guide"

    def __str__(self) -> str:
        return "\n".join(f"Q{i}: {question}" for i, question in enumerate(self.questions, 1))

    def to_json(self) -> dict[str, Any]:
        """As stored."""
        return {"kind": "guide", "role": self.role, "questions": list(self.questions)}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> GuideSkill:
        """From what `to_json` gave."""
        return cls(str(row["role"]), tuple(map(str, row["questions"])))

    @classmethod
    def parse(cls, role: str, text: str) -> GuideSkill:
        """From the `Qk:` lines of what a coach wrote.

        Raises:
            SkillError: no question in it.
        """
        questions = [found[2].strip() for found in _QUESTION.finditer(text)][:MAX_QUESTIONS]
        if not questions:
            raise SkillError("no line of the form 'Q1: …'")
        return cls(role, tuple(questions))


@dataclass(frozen=True)
class ActGuide:
    """The worksheet of a role that talks in typed acts: its questions stand with their answers."""

    role: str
    policy: ActPolicy = field(default_factory=ActPolicy)

    kind = "acts"
    QUESTIONS: ClassVar[dict[str, str]] = {
        "accuse_from": "From what chance that a player is evil do I accuse him?",
        "vouch_below": "Up to what chance that a player is evil do I vouch for him?",
        "caution": "How much of what only I know do I put behind what the table believes?",
        "evil_accuses": "How often do I accuse the good player who looks worst, instead of vouching or claiming?",
    }

    def __str__(self) -> str:
        asked = [(self.QUESTIONS[name], getattr(self.policy, name)) for name in answers_of(self.role)]
        return "\n".join(f"Q{i}: {question} {answer:.2f}" for i, (question, answer) in enumerate(asked, 1))

    def apply(self, edit: Edit) -> ActGuide:
        """The guide with one answer shifted, within 0 and 1.

        Raises:
            ConfigError: the role does not ask that, or the answer is at its bound.
        """
        name = edit.expression.feature
        if name not in answers_of(self.role):
            raise ConfigError(f"the guide of {self.role} has no answer {name}")
        old = getattr(self.policy, name)
        new = round(min(1.0, max(0.0, old + edit.amount)), 6)
        if new == old:
            raise ConfigError(f"{name} is {old:g} already and cannot go further")
        return replace(self, policy=replace(self.policy, **{name: new}))

    def to_json(self) -> dict[str, Any]:
        """As stored."""
        return {"kind": "acts", "role": self.role, "answers": vars(self.policy)}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> ActGuide:
        """From what `to_json` gave."""
        return cls(str(row["role"]), ActPolicy(**row["answers"]))


Guide = GuideSkill | ActGuide


def answers_of(role: str) -> tuple[str, ...]:
    """Answers of :class:`ActGuide` that a role has."""
    if role == "evil":
        return ("evil_accuses",)
    return ("accuse_from", "vouch_below", "caution") if role == "merlin" else ("accuse_from", "vouch_below")


SEED_GUIDES = {
    "evil": (
        "Who do I want the others to suspect, and what that happened supports it?",
        "How do I sound like a servant?",
    ),
    "merlin": ("What do I know that I may hint at?", "How would a servant without my knowledge say the same?"),
    "good": ("Whom do I trust, and why?", "Which team should go on this quest?"),
}
