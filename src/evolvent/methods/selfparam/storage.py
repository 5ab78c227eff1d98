"""The run folder of one SELF-PARAM run, its stages, and the original model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from evolvent.methods.selfparam.config import SelfParamConfig
from evolvent.models.local import LocalModel
from evolvent.models.resolve import load_local
from evolvent.runs.folder import Run
from evolvent.training.finetune import save_checkpoint

T = TypeVar("T")

OnProgress = Callable[[str, int, int, str], None]

LARGE = 500_000_000  # weights; above it LoRA is trained


class Storage:
    """Where a run keeps what it computed; open it in a `with` statement.

    Args:
        model: a reference to local weights, or a loaded model.
        args: settings of the run.
        on_progress: called with (stage, done, total, note).
    """

    def __init__(self, model: str | Path | LocalModel, args: SelfParamConfig, on_progress: OnProgress) -> None:
        self.args, self.on_progress = args, on_progress
        self._model = model
        self._run: Run | None = None
        self._base: LocalModel | None = None

    def known(self) -> dict[str, Any]:
        """What every stage depends on."""
        return {"model": self.reference}

    def __enter__(self) -> Self:
        if self._run is None:
            self._run = Run.open(
                self.args.output_dir,
                method="selfparam",
                config=self.args,
                on_config_change=self.args.on_config_change,
            )
        return self

    def __exit__(self, *error: object) -> None:
        self._base = None
        if self._run is not None:
            self._run.close()
            self._run = None

    @property
    def folder(self) -> Run:
        """The open run folder."""
        self.__enter__()
        assert self._run is not None
        return self._run

    @property
    def reference(self) -> str:
        """The original model, as training can load it."""
        if isinstance(self._model, (str, Path)):
            return str(self._model)
        folder = self.folder.path("base")
        if not folder.is_dir():
            save_checkpoint(self._model, folder.with_suffix(".tmp"))
            folder.with_suffix(".tmp").rename(folder)
        return str(folder)

    @property
    def base(self) -> LocalModel:
        """The original model, loaded."""
        if self._base is None:
            self._base = load_local(self.reference, dtype=self.args.dtype)
        return self._base

    @property
    def peft(self) -> Literal["full", "lora"]:
        """What is trained."""
        return self.args.peft or ("lora" if self.base.parameter_count > LARGE else "full")

    def stage(self, name: str, inputs: dict[str, Any], compute: Callable[[Path], None], load: Callable[[Path], T]) -> T:
        """One stage; it also depends on what `known` says, such as the data."""
        self.on_progress(name, 0, 1, "")
        result = self.folder.stage(name, {**self.known(), **inputs}, compute, load=load)
        self.on_progress(name, 1, 1, "")
        return result

    def settings(self, *names: str) -> dict[str, Any]:
        """Some settings, as a stage's inputs."""
        return {name: getattr(self.args, name) for name in names}

    def release(self) -> None:
        """Let go of the original model; it is loaded again when it is needed."""
        self._base = None


def digest(value: Any) -> str:
    """A short digest of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
