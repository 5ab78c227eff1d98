"""The original model of a SELF-PARAM run, beside the run's stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from evolvent.methods.selfparam.config import SelfParamConfig
from evolvent.models.local import LocalModel
from evolvent.models.resolve import load_local
from evolvent.runs.stages import OnProgress, Stages
from evolvent.training.finetune import save_checkpoint

LARGE = 500_000_000  # weights; above it LoRA is trained


class Storage(Stages):
    """Where a run keeps what it computed; open it in a `with` statement.

    Args:
        model: a reference to local weights, or a loaded model.
        args: settings of the run.
        on_progress: called with (stage, done, total, note).
    """

    method = "selfparam"
    args: SelfParamConfig

    def __init__(self, model: str | Path | LocalModel, args: SelfParamConfig, on_progress: OnProgress) -> None:
        super().__init__(args, on_progress)
        self._model = model
        self._base: LocalModel | None = None

    def known(self) -> dict[str, Any]:
        """What every stage depends on."""
        return {"model": self.reference}

    @property
    def reference(self) -> str:
        """The original model, as training can load it."""
        return str(self._model) if isinstance(self._model, (str, Path)) else self.kept(self._model, save_checkpoint)

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

    def release(self) -> None:
        """Let go of the original model; it is loaded again when it is needed."""
        self._base = None
