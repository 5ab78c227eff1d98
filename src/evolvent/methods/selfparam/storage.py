"""The original model of a SELF-PARAM run, beside the run's stages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from evolvent.data.files import write_json
from evolvent.errors import ConfigError, ModelError
from evolvent.methods.selfparam.config import SelfParamConfig
from evolvent.models.local import LocalModel
from evolvent.models.resolve import checkpoint_folder, load_local
from evolvent.runs.lineage import weight_digest
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

    def check_weights(self) -> None:
        """Whether the model can be trained, and is the one that the run folder's results are of.

        Stages know a model by its reference; the weights of a folder may have changed since, and a model that is passed
        loaded may be another one.

        Raises:
            ConfigError: the results are of other weights than the model has now.
            ModelError: its weights are quantised.
        """
        folder = Path(checkpoint_folder(self.reference))
        config = folder / "config.json"
        if config.is_file() and "quantization_config" in json.loads(config.read_text()):
            raise ModelError(
                f"{self.reference}: quantised weights cannot be trained and stored as they are: name the checkpoint "
                "that was quantised"
            )
        file = self.folder.path("model.json")
        now = {"reference": self.reference, "weights": weight_digest(folder)}
        before = json.loads(file.read_text()) if file.is_file() else now
        if not isinstance(self._model, (str, Path)) and file.is_file():
            passed = self.folder.path("base.passed")
            save_checkpoint(self._model, passed)
            now["weights"] = weight_digest(passed)
            shutil.rmtree(passed)
        if before["reference"] == now["reference"] and before["weights"] != now["weights"]:
            raise ConfigError(
                f"{self.folder.folder}: its results are of other weights than {self.reference} holds now, or than the "
                "model that was passed: choose another output_dir, or give the weights of before"
            )
        write_json(file, now)

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
