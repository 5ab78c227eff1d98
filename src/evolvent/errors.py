"""The errors that a user can meet. Each says what was wrong, where, what was expected and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class EvolventError(Exception):
    """Base class: catch this to catch everything that Evolvent raises on purpose."""

    exit_code = 2


class DataError(EvolventError):
    """A file, row or field is not what the task needs."""


class ConfigError(EvolventError):
    """A setting is out of bounds, unknown, or contradicts another one or an existing run folder."""


class ModelError(EvolventError):
    """A model cannot be loaded, or cannot do what was asked of it."""


class EndpointError(ModelError):
    """A model server failed for good: retries are used up, or it refused the request."""

    exit_code = 3


class NoLogProbsError(EndpointError):
    """A model server does not tell log-probabilities, so options cannot be scored there."""


class NothingSelectedError(EvolventError):
    """A method finished, but no row passed its selection; the model is unchanged."""

    exit_code = 4


class PromptErrors(ModelError):  # noqa: N818 - it is several errors
    """Some prompts of a batch failed; every other result is kept.

    Attributes:
        failures: index of the prompt in the call -> what was wrong with it.
        results: the results in input order, with None where a prompt failed.
    """

    def __init__(self, failures: Mapping[int, EvolventError], results: Sequence[Any]) -> None:
        self.failures = dict(failures)
        self.results = list(results)
        shown = "; ".join(f"prompt {i}: {error}" for i, error in list(self.failures.items())[:3])
        more = f"; and {len(self.failures) - 3} more" if len(self.failures) > 3 else ""
        super().__init__(f"{len(self.failures)} of {len(self.results)} prompts failed: {shown}{more}")
