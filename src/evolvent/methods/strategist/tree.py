"""The strategy tree: every skill there was, whose child it is, by which idea, and how well it plays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evolvent.methods.strategist.skills import Skill, skill_from


@dataclass
class Node:
    """A skill in the tree.

    Attributes:
        id: "s0", "s1", … in the order of birth.
        skill: what plays.
        parent: id, None for a seed.
        idea: id of the idea that made it.
        evolution: in which round it was made; 0 for seeds.
        generation: edges to its seed.
        proposer: what had the idea and wrote the skill; "seed" for what is given.
        score: rating in points, on the scale of the whole run.
        error: standard error of it.
        failed: why it is not used; None for a skill that plays.
        notes: of how it was made, such as "recalibrated" or "rewrite".
    """

    id: str
    skill: Skill | None
    parent: str | None = None
    idea: str | None = None
    evolution: int = 0
    generation: int = 0
    proposer: str = "seed"
    score: float = 0.0
    error: float = 0.0
    failed: str | None = None
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As stored."""
        skill = self.skill.to_json() if self.skill is not None else None
        return {**{k: v for k, v in vars(self).items() if k != "skill"}, "skill": skill}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Node:
        """From what `to_json` gave."""
        return cls(**{**row, "skill": skill_from(row["skill"]) if row["skill"] else None})


class StrategyTree:
    """All nodes by id."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}

    def __getitem__(self, node: str) -> Node:
        return self.nodes[node]

    def __len__(self) -> int:
        return len(self.nodes)

    def add(self, skill: Skill | None, *, parent: Node | None = None, idea: str | None = None, **fields: Any) -> Node:
        """A new node."""
        generation = parent.generation + 1 if parent else 0
        node = Node(f"s{len(self.nodes)}", skill, parent.id if parent else None, idea, generation=generation, **fields)
        self.nodes[node.id] = node
        return node

    @property
    def alive(self) -> list[Node]:
        """Skills that play, best first; the elder one of equals."""
        playing = [n for n in self.nodes.values() if n.failed is None]
        return sorted(playing, key=lambda n: (-n.score, int(n.id[1:])))

    @property
    def best(self) -> Node:
        """The skill with the highest rating."""
        return self.alive[0]

    def select(self, random: np.random.Generator, *, topk: int, temperature: float) -> Node:
        """softmax(z / T) over the best `topk` of the whole tree (paper, "BFS2")."""
        found: Node = draw_softmax(self.alive[:topk], [n.score for n in self.alive[:topk]], temperature, random)
        return found

    def lineage(self, node: Node) -> list[Node]:
        """From the seed to a node."""
        chain = [node]
        while chain[0].parent is not None:
            chain.insert(0, self.nodes[chain[0].parent])
        return chain


def draw_softmax(
    options: Sequence[Any], scores: Sequence[float], temperature: float, random: np.random.Generator
) -> Any:
    """One option with probability softmax(score / temperature)."""
    logits = np.array(scores, float) / temperature
    weights = np.exp(logits - logits.max())
    return options[int(np.searchsorted(np.cumsum(weights) / weights.sum(), random.random(), side="right"))]
