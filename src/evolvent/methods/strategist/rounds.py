"""What a run knows after each round, how it is stored, and how it is found again after a kill."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from evolvent.data.files import write_json, write_jsonl, write_text
from evolvent.methods.strategist.ideas import Idea, IdeaQueue
from evolvent.methods.strategist.proposers import Replay
from evolvent.methods.strategist.proposers.llm import Budget
from evolvent.methods.strategist.ratings import Match
from evolvent.methods.strategist.skills import ActGuide, CodeSkill, GuideSkill
from evolvent.methods.strategist.tree import Node, StrategyTree

_COLUMNS = tuple(f.name for f in fields(Replay))


class Memory:
    """The tree, the queue, all matches and all self-play.

    Attributes:
        digest: of the last stage that was loaded; what the next one depends on.
    """

    def __init__(self) -> None:
        self.tree = StrategyTree()
        self.queue = IdeaQueue()
        self.matches: list[Match] = []
        self.replays: dict[str, Replay] = {}
        self.exploitabilities: dict[str, float] = {}
        self.digest = ""
        self._stored_matches = 0
        self._stored_replays: set[str] = set()

    @property
    def replay(self) -> Replay:
        """Everybody's self-play."""
        return Replay.joined(list(self.replays.values()))

    def replay_for(self, node: Node) -> Replay:
        """For reflection on one skill: its own games if it is code that explains itself, else everybody's."""
        if isinstance(node.skill, GuideSkill | ActGuide):
            return Replay.none()  # guides are judged by talk, which their proposers rehearse
        return self.replays[node.id] if isinstance(node.skill, CodeSkill) else self.replay

    def save(self, folder: Path, budget: Budget) -> None:
        """Tree and queue as they are, and the matches and games that are new, into the folder of a stage."""
        told = {
            "nodes": [n.to_json() for n in self.tree.nodes.values()],
            "ideas": [d.to_json() for d in self.queue.ideas.values()],
            "exploitabilities": self.exploitabilities,
            "calls": budget.calls, "tokens": budget.tokens,
        }  # fmt: skip
        write_json(folder / "memory.json", told)
        new = self.matches[self._stored_matches :]
        _write_matches(folder / "matches.npz", new)
        fresh = {id: r for id, r in self.replays.items() if id not in self._stored_replays}
        _write_replays(folder / "replay.npz", fresh)

    def load(self, folder: Path, budget: Budget) -> None:
        """Become what was saved; matches and games are added to those of the stages before."""
        content = (folder / "memory.json").read_bytes()
        told = json.loads(content)
        self.tree.nodes = {row["id"]: Node.from_json(row) for row in told["nodes"]}
        self.queue.ideas = {row["id"]: Idea.from_json(row) for row in told["ideas"]}
        self.exploitabilities = told["exploitabilities"]
        budget.calls, budget.tokens = told["calls"], told["tokens"]
        self.matches = self.matches[: self._stored_matches] + _read_matches(folder / "matches.npz")
        self._stored_matches = len(self.matches)
        self.replays.update(_read_replays(folder / "replay.npz"))
        self._stored_replays = set(self.replays)
        self.digest = hashlib.sha256(self.digest.encode() + content).hexdigest()

    def write(self, folder: Path) -> None:
        """The readable files of a finished run: skills, ideas, ratings, matches, games."""
        skills = folder / "skills"
        skills.mkdir(exist_ok=True)
        for node in self.tree.nodes.values():
            write_json(skills / f"{node.id}.json", node.to_json(), indent=1)
            if isinstance(node.skill, CodeSkill):
                write_text(skills / f"{node.id}.py", f"{node.skill}\n")
            elif isinstance(node.skill, GuideSkill | ActGuide):
                write_text(skills / f"{node.id}.md", f"{node.skill}\n")
        write_jsonl(folder / "ideas.jsonl", [d.to_json() for d in self.queue.ideas.values()])
        rated = {n.id: {"rating": n.score, "error": n.error, "failed": n.failed} for n in self.tree.nodes.values()}
        write_json(folder / "ratings.json", rated, indent=1)
        _write_matches(folder / "matches.npz", self.matches)
        _write_replays(folder / "replay.npz", self.replays)


def _write_matches(path: Path, matches: list[Match]) -> None:
    sizes = np.array([len(m.margins) for m in matches], np.int64)
    margins = np.concatenate([m.by_side for m in matches]) if matches else np.zeros((0, 2))
    names = [np.array([getattr(m, side) for m in matches], "U32") for side in ("first", "second")]
    np.savez(path, first=names[0], second=names[1], pairs=sizes, margins=margins)


def _read_matches(path: Path) -> list[Match]:
    with np.load(path) as stored:
        parts = np.split(stored["margins"], np.cumsum(stored["pairs"])[:-1]) if len(stored["pairs"]) else []
        return [
            Match(str(a), str(b), part.mean(1), part)
            for a, b, part in zip(stored["first"], stored["second"], parts, strict=True)
        ]


def _write_replays(path: Path, replays: dict[str, Replay]) -> None:
    arrays: dict[str, Any] = {f"{id}/{name}": getattr(r, name) for id, r in replays.items() for name in _COLUMNS}
    np.savez(path, **arrays)


def _read_replays(path: Path) -> dict[str, Replay]:
    with np.load(path) as stored:
        ids = dict.fromkeys(key.partition("/")[0] for key in stored.files)
        return {id: Replay(**{name: stored[f"{id}/{name}"] for name in _COLUMNS}) for id in ids}
