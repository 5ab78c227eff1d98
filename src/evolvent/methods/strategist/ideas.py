"""The idea queue: what might improve a skill, and the credit that each idea earned wherever it was tried.

    u_d = z_d + c · sqrt(ln(1 + Σn) / (n_d + ½)),      d ~ softmax(u / T)
    z_d ← n_d/(n_d + 1) · z_d + gain/(n_d + 1),         n_d ← n_d + 1

`gain` is the rating gained over the parent in units of the tournament's spread. u is computed anew at each draw; the
official code stores it when the idea is touched, and gives untried ideas a bonus of about 20, which makes the draw a
coin toss among them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evolvent.methods.strategist.skills.program import Edit
from evolvent.methods.strategist.tree import draw_softmax

UNTRIED = 0.5  # visits that an idea counts for beyond those it has


@dataclass
class Idea:
    """An improvement idea.

    Attributes:
        id: "d0", "d1", …
        text: what to change, and why.
        edit: the same as a typed edit, where it is one.
        source: id of the skill whose games it came from.
        evolution: when it was filed.
        proposer: who had it.
        score: z, mean gain.
        tries: n.
    """

    id: str
    text: str
    edit: Edit | None
    source: str
    evolution: int
    proposer: str
    score: float = 0.0
    tries: int = 0

    def to_json(self) -> dict[str, Any]:
        """As stored."""
        return {**vars(self), "edit": self.edit.to_json() if self.edit else None}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Idea:
        """From what `to_json` gave."""
        return cls(**{**row, "edit": Edit.from_json(row["edit"]) if row["edit"] else None})


class IdeaQueue:
    """All ideas by id."""

    def __init__(self) -> None:
        self.ideas: dict[str, Idea] = {}

    def __getitem__(self, idea: str) -> Idea:
        return self.ideas[idea]

    def __len__(self) -> int:
        return len(self.ideas)

    def add(
        self, text: str, edit: Edit | None, *, source: str, evolution: int, proposer: str, prior: float
    ) -> Idea | None:
        """File an idea; None if the same one is there."""
        if any(normalised(text) == normalised(other.text) for other in self.ideas.values()):
            return None
        idea = Idea(f"d{len(self.ideas)}", text, edit, source, evolution, proposer, prior)
        self.ideas[idea.id] = idea
        return idea

    def select(
        self, random: np.random.Generator, *, c: float, temperature: float, but: Sequence[str] = ()
    ) -> Idea | None:
        """Draw an idea; those in `but` were tried on this skill in this round."""
        open_ones = [d for d in self.ideas.values() if d.id not in but]
        if not open_ones:
            return None
        tries = sum(d.tries for d in self.ideas.values())
        bounds = [d.score + c * math.sqrt(math.log(1 + tries) / (d.tries + UNTRIED)) for d in open_ones]
        found: Idea = draw_softmax(open_ones, bounds, temperature, random)
        return found

    def credit(self, idea: str, gain: float) -> None:
        """Reward an idea with a gain over the parent of the skill that it made."""
        d = self.ideas[idea]
        d.score = d.score * d.tries / (d.tries + 1) + gain / (d.tries + 1)
        d.tries += 1


def normalised(text: str) -> str:
    """Letters and numbers only, for comparison."""
    return re.sub(r"[^a-z0-9.]+|\.(?!\d)", " ", text.lower()).strip()
