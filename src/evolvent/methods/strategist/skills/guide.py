"""A dialogue guide: a role and at most six questions that an agent answers for itself before it speaks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from evolvent.methods.strategist.sandbox.language import SkillError

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


SEED_GUIDES = {
    "evil": (
        "Who do I want the others to suspect, and what that happened supports it?",
        "How do I sound like a servant?",
    ),
    "merlin": ("What do I know that I may hint at?", "How would a servant without my knowledge say the same?"),
    "good": ("Whom do I trust, and why?", "Which team should go on this quest?"),
}
