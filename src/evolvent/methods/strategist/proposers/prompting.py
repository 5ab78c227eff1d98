"""Prompts as template files, and reading what comes back."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

import jinja2
import numpy as np

from evolvent.methods.strategist.games.protocol import Game
from evolvent.methods.strategist.proposers import Replay

MOST_OF_ONE_GAME = 2
_FENCED = re.compile(r"```[a-zA-Z]*\n(.*?)```", re.DOTALL)
_IDEA = re.compile(r"Idea\s*\d+\s*[:.)]\s*(.*?)(?=\n\s*\**Idea\s*\d+\s*[:.)]|\Z)", re.DOTALL | re.IGNORECASE)
_SCORE = re.compile(r"score\s*(?:is|:|=)?\s*\**\s*(\d+(?:\.\d+)?)", re.IGNORECASE)


@lru_cache(maxsize=32)
def _template(name: str) -> jinja2.Template:
    source = resources.files("evolvent.methods.strategist").joinpath("prompts", f"{name}.txt.j2").read_text("utf-8")
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(source)


def render(name: str, **fields: Any) -> str:
    """A prompt. What all prompts of a game share comes first, so that servers compute it once."""
    return _template(name).render(**fields).strip() + "\n"


def key_states(replay: Replay, count: int, feedback: str, random: np.random.Generator) -> list[int]:
    """Rows with the largest gap between search and value (paper); never a game's first, at most two of one game.

    "outcome" takes the gap between outcome and value, "random" any rows.
    """
    first = np.concatenate([[True], replay.game[1:] != replay.game[:-1]])
    if feedback == "random":
        gap = random.random(len(first))
    else:
        against = replay.outcome if feedback == "outcome" else replay.search
        gap = np.nan_to_num((against - replay.value) ** 2, nan=-1.0)
    gap = np.where(first, -1.0, gap)
    chosen: list[int] = []
    for row in np.argsort(-gap, kind="stable"):
        of_game = sum(replay.game[row] == replay.game[other] for other in chosen)
        if gap[row] >= 0 and of_game < MOST_OF_ONE_GAME and len(chosen) < count:
            chosen.append(int(row))
    return chosen


def describe_states(game: Game, replay: Replay, rows: Sequence[int], notes: Sequence[dict[str, float]] = ()) -> str:
    """Examples for reflection: the state, what the heuristic said, what search said, what was played, how it ended."""
    described = []
    for number, row in enumerate(rows):
        state = ", ".join(f"{k}={v}" for k, v in game.view(replay.states[row]).items())
        said = [f"value given for player 0: {replay.value[row]:.2f}"]
        if number < len(notes) and notes[number]:
            said.append("notes: " + ", ".join(f"{k}={v:.3g}" for k, v in notes[number].items()))
        if not np.isnan(replay.search[row]):
            said.append(f"value after search: {replay.search[row]:.2f}")
        played = [f"player {p} played {a}" for p, a in enumerate(replay.actions[row]) if a >= 0]
        said += [*played, f"final result for player 0: {replay.outcome[row]:.2f}"]
        described.append(f"Example {number + 1}. State: {state}\n  " + "; ".join(said))
    return "\n".join(described)


def parse_ideas(text: str, most: int) -> list[str]:
    """`Idea k: …` with all its lines; the same idea counts once."""
    from evolvent.methods.strategist.ideas import normalised

    found = {normalised(idea): " ".join(idea.split()) for idea in _IDEA.findall(text) if idea.strip()}
    return [idea for key, idea in found.items() if key][:most]


def parse_code(text: str) -> str:
    """The last fenced block that defines `evaluate_state`, else from `def` to the last `return` at its indent."""
    blocks = [block for block in _FENCED.findall(text) if "def evaluate_state" in block]
    if blocks:
        return str(blocks[-1]).strip() + "\n"
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("def evaluate_state")]
    if not starts:
        return ""
    start, last = starts[-1], None
    for i in range(start + 1, len(lines)):
        if lines[i].strip() and not lines[i].startswith((" ", "\t")):
            break
        if re.match(r"\s+return\b", lines[i]):
            last = i
    return "\n".join(lines[start : last + 1]) + "\n" if last is not None else ""


def parse_json(text: str) -> dict[Any, Any] | None:
    """The last JSON object (or Python dict) of a text."""
    for start in [m.start() for m in re.finditer(r"\{", text)][::-1]:
        end = text.find("}", start)
        if end < 0:
            continue
        for read in (json.loads, ast.literal_eval):
            try:
                value = read(text[start : end + 1])
            except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
                continue
            if isinstance(value, dict):
                return value
    return None


def parse_score(text: str) -> float | None:
    """The number behind the last "Score"."""
    found = _SCORE.findall(text)
    return float(found[-1]) if found else None
