"""Every answer of a model is on disk before it is used; after a kill the same questions get the same answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from evolvent.models.protocol import Choice, Completion, LanguageModel, Prompt, Sampling, Score
from evolvent.runs.folder import ShardedJsonl


class Journal:
    """In a `with` statement: stands before the model of a proposer."""

    def __init__(self, proposer: Any, log: ShardedJsonl) -> None:
        self.holder = getattr(proposer, "writer", proposer)
        self.log = log

    def __enter__(self) -> Journal:
        self.model = getattr(self.holder, "model", None)
        if self.model is not None:
            self.holder.model = JournaledModel(self.model, self.log)
        return self

    def __exit__(self, *error: object) -> None:
        if self.model is not None:
            self.holder.model = self.model


class JournaledModel:
    """A language model whose answers are kept by question."""

    def __init__(self, model: LanguageModel, log: ShardedJsonl) -> None:
        self.model, self.log, self.name = model, log, model.name
        self.known = {row["key"]: row["answer"] for row in log.rows()}

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """As the protocol says."""
        asked = {"prompts": list(prompts), "sampling": asdict(sampling)}
        found = self._once(asked, lambda: [[asdict(c) for c in row] for row in self.model.generate(prompts, sampling)])
        return [[Completion(c["text"], tuple(c["token_log_probs"]), c["finish_reason"]) for c in row] for row in found]

    def loglikelihood(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """As the protocol says."""
        found = self._once({"pairs": list(pairs)}, lambda: [asdict(s) for s in self.model.loglikelihood(pairs)])
        return [Score(**row) for row in found]

    def choose(self, prompts: Sequence[Prompt], options: Sequence[Sequence[str]]) -> list[Choice]:
        """As the protocol says."""
        asked = {"prompts": list(prompts), "options": [list(o) for o in options]}
        found = self._once(asked, lambda: [asdict(c) for c in self.model.choose(prompts, options)])
        return [Choice(**{name: tuple(value) for name, value in row.items()}) for row in found]

    def _once(self, asked: Any, answer: Any) -> Any:
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        if key not in self.known:
            self.known[key] = json.loads(json.dumps(answer()))
            self.log.append([{"key": key, "asked": asked, "answer": self.known[key]}])
        return self.known[key]
