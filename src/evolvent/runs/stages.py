"""The stages of a run: what each depends on, and the open folder that keeps them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from evolvent.runs.folder import Run

T = TypeVar("T")

OnProgress = Callable[[str, int, int, str], None]


class Stages:
    """Base of what holds a run folder; it opens when it is first needed, and a `with` statement closes it.

    A stage is computed again when its inputs change, or what `known` says.

    Args:
        args: settings with `output_dir` and `on_config_change`.
        on_progress: called with (stage, done, total, note).
    """

    method: ClassVar[str]

    def __init__(self, args: Any, on_progress: OnProgress) -> None:
        self.args, self.on_progress = args, on_progress
        self._run: Run | None = None

    @property
    def folder(self) -> Run:
        """The open run folder."""
        if self._run is None:
            self._run = Run.open(
                self.args.output_dir,
                method=self.method,
                config=self.args,
                on_config_change=self.args.on_config_change,
            )
        return self._run

    def __enter__(self) -> Self:
        _ = self.folder
        return self

    def __exit__(self, *error: object) -> None:
        self.release()
        if self._run is not None:
            self._run.close()
            self._run = None

    def release(self) -> None:
        """Let go of models in memory; they are loaded again when they are needed."""

    def known(self) -> dict[str, Any]:
        """What every stage depends on."""
        return {}

    def stage(
        self, name: str, inputs: Mapping[str, Any], compute: Callable[[Path], None], load: Callable[[Path], T]
    ) -> T:
        """One stage, see :meth:`Run.stage`."""
        self.on_progress(name, 0, 1, "")
        result = self.folder.stage(name, {**self.known(), **inputs}, compute, load=load)
        self.on_progress(name, 1, 1, "")
        return result

    def settings(self, *names: str) -> dict[str, Any]:
        """Some settings, as a stage's inputs."""
        return {name: getattr(self.args, name) for name in names}

    def kept(self, model: Any, save: Callable[[Any, Path], None]) -> str:
        """The folder of a model that was passed loaded, written once so that later processes find it."""
        folder = self.folder.path("base")
        if not folder.is_dir():
            save(model, folder.with_suffix(".tmp"))
            folder.with_suffix(".tmp").rename(folder)
        return str(folder)


def digest(value: Any) -> str:
    """A short digest of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
