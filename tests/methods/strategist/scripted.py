"""A writer for unit tests: gives skills of the corpus in turn, ideas in the form asked for, now and then a broken one.

A model that can write does not run on this machine; this one shows that the prompts, the parsing, the repair and the
bookkeeping work. No claim of quality rests on it.
"""

from __future__ import annotations

from attacks import HARMLESS

from evolvent.models.protocol import Choice, Completion

WORKING = [s for name, s in HARMLESS.items() if "nine values" not in name and "position" not in name]


class ScriptedModel:
    name = "scripted"

    class DiedError(RuntimeError):
        """The machine went away."""

    def __init__(self, die_after: int | None = None, broken_after_seed: bool = False) -> None:
        self.die_after, self.broken = die_after, broken_after_seed
        self.asked: list[str] = []

    def generate(self, prompts, sampling):
        return [[self._completion(p[-1]["content"])] for p in prompts]

    def loglikelihood(self, pairs):
        raise AssertionError("not asked for likelihoods")

    def choose(self, prompts, options):
        return [Choice(tuple(-float(len(t)) for t in o), (1,) * len(o), tuple(map(len, o))) for o in options]

    def _completion(self, prompt: str) -> Completion:
        if self.die_after is not None and len(self.asked) >= self.die_after:
            raise self.DiedError
        self.asked.append(prompt)
        return Completion(self._answer(prompt), (-0.5,) * 8, "stop")

    def _answer(self, prompt: str) -> str:
        # Answers depend on the prompt alone, so that a resumed run gets the same ones.
        pick = sum(map(ord, prompt))
        if "Idea 1: …" in prompt:
            return "\n".join(f"Idea {i}: In the endgame, look at card {pick % 97 + i}." for i in range(1, 4))
        if "cannot be used" in prompt:
            return f"Sorry.\n```python\n{WORKING[pick % len(WORKING)]}```"
        if "Change it by this one idea" in prompt:
            if self.broken or pick % 2:
                return "```python\nimport os\n```"
            return f"```python\n{WORKING[pick % len(WORKING)]}```"
        if "in one ```python block" in prompt:
            return f"```python\n{WORKING[pick % len(WORKING)]}```"
        return "It undervalues high cards (Examples 1 and 2)."
