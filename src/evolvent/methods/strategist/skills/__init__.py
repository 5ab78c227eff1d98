"""What is learnt: programs of features, code in the skill language, dialogue guides."""

from __future__ import annotations

from typing import Any

from evolvent.errors import DataError
from evolvent.methods.strategist.skills.code import CodeSkill
from evolvent.methods.strategist.skills.guide import ActGuide, GuideSkill
from evolvent.methods.strategist.skills.program import ProgramSkill

Skill = ProgramSkill | CodeSkill | GuideSkill | ActGuide
ValueSkill = ProgramSkill | CodeSkill
__all__ = ["ActGuide", "CodeSkill", "GuideSkill", "ProgramSkill", "Skill", "ValueSkill", "skill_from"]

_KINDS: dict[str, Any] = {"program": ProgramSkill, "code": CodeSkill, "guide": GuideSkill, "acts": ActGuide}


def skill_from(row: dict[str, Any]) -> Skill:
    """A skill from what its `to_json` gave.

    Raises:
        DataError: a kind that does not exist, or a field that is missing.
    """
    kind = row.get("kind")
    if kind not in _KINDS:
        raise DataError(f"skill: kind must be one of {', '.join(_KINDS)}, got {kind!r}")
    try:
        skill: Skill = _KINDS[kind].from_json(row)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"skill of kind {kind}: {type(error).__name__}: {error}") from error
    return skill
