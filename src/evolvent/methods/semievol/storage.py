"""How SemiEvol's stages are kept: what each one depends on, where it lies, and which model is in memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

from evolvent.data.records import Question
from evolvent.data.tasks import Task
from evolvent.errors import ModelError
from evolvent.evaluation.evaluate import Evaluation
from evolvent.methods.semievol.collaboration import Response
from evolvent.methods.semievol.config import SemiEvolConfig
from evolvent.models.endpoint import Prices
from evolvent.models.protocol import LanguageModel
from evolvent.models.resolve import ENDPOINT_PREFIX, adapter_base, checkpoint_folder, load
from evolvent.runs.folder import ShardedJsonl
from evolvent.runs.lineage import Lineage, write_lineage
from evolvent.runs.stages import OnProgress, Stages, digest
from evolvent.training.config import FineTuneConfig
from evolvent.training.examples import TrainingExample

T = TypeVar("T")


class SemiEvolStages(Stages):
    """The run folder of one SemiEvol run.

    A stage's inputs are its own settings, the digests of the rows it reads and the identity of the models it uses
    (for a model that this run trained: the inputs of that training). So a changed setting repeats exactly the stages
    that depend on it.
    """

    method = "semievol"
    args: SemiEvolConfig

    def __init__(self, model: str | Path | LanguageModel, args: SemiEvolConfig, on_progress: OnProgress) -> None:
        super().__init__(args, on_progress)
        self._given = model
        self._data: dict[str, str] = {}
        self._task = ""
        self._identity: dict[str, str] = {}
        self._loaded: tuple[str, LanguageModel] | None = None
        self._learner: Any = None

    # ------------------------------------------------------------------------------------------- folder

    @cached_property
    def base(self) -> str:
        """A reference from which stages can load the base model again."""
        model: Any = self._given
        if isinstance(model, (str, Path)):
            return str(model)
        if hasattr(model, "base_url"):
            return f"{ENDPOINT_PREFIX}{model.name}@{model.base_url}"
        if not hasattr(model, "module"):
            raise ModelError(f"{model!r}: SemiEvol needs weights or an endpoint; pass a reference or a loaded model")
        from evolvent.training.finetune import save_checkpoint

        return self.kept(model, save_checkpoint)

    def __enter__(self) -> Self:
        super().__enter__()
        _ = self.base
        return self

    def release(self) -> None:
        """Let go of the model in memory."""
        self._loaded = None

    def set_data(self, rows: Mapping[str, Sequence[Question]], task: Task) -> None:
        """Fix what the stages read; the answers that a row hides are not part of it."""
        self._data = {name: digest([_visible(q) for q in questions]) for name, questions in rows.items()}
        self._task = digest(task.model_dump(mode="json"))

    def event(self, kind: str, **fields: Any) -> None:
        """Write to events.jsonl."""
        self.folder.event(kind, **fields)

    def run(
        self,
        name: str,
        inputs: Mapping[str, Any],
        compute: Callable[[Path], None],
        *,
        load: Callable[[Path], T],
        data: Sequence[str] = (),
    ) -> T:
        """One stage; it depends on the task and on those rows of the data that `data` names."""
        known = {"task": self._task, **{f"data/{part}": self._data[part] for part in data}}
        return self.stage(name, {**inputs, **known}, compute, load)

    # ------------------------------------------------------------------------------------------- models

    def model(self, reference: str) -> LanguageModel:
        """The model of that reference; one is kept in memory."""
        if self._loaded is None or self._loaded[0] != reference:
            self._loaded = None
            self._loaded = (reference, self._load(reference))
        return self._loaded[1]

    def _load(self, reference: str) -> LanguageModel:
        given: Any = self._given
        if not isinstance(given, (str, Path)):
            if reference == self.base:
                return given  # type: ignore[no-any-return]
            name, _, url = reference.removeprefix(ENDPOINT_PREFIX).rpartition("@")
            if hasattr(given, "sibling") and url == given.base_url:
                return given.sibling(name)  # type: ignore[no-any-return]
        options: dict[str, Any] = {}
        if reference.startswith(ENDPOINT_PREFIX):
            options = {
                "cache_dir": self.folder.folder / "responses-cache",
                "max_cost": self.args.max_cost,
                "prices": Prices(**{"prompt": 0.0, "completion": 0.0, **self.args.prices})
                if self.args.prices
                else None,
            }
        return load(reference, dtype=self.args.dtype, **options)

    def train(
        self,
        name: str,
        source: str,
        examples: Sequence[TrainingExample],
        settings: FineTuneConfig,
        *,
        labeled: int = 0,
        labeled_share: float = 0.0,
    ) -> str:
        """A training stage; the reference of the model it made.

        Raises:
            ConfigError: the disk has no room for it.
        """
        inputs = {
            "source": self.identity(source),
            "examples": digest([(e.prompt, e.completion, e.weight) for e in examples]),
            "settings": settings.model_dump(mode="json"),
            "labeled": labeled,
            "labeled_share": labeled_share,
        }

        def compute(folder: Path) -> None:
            self._loaded = None
            self.folder.require_space(_training_bytes(source, settings), f"training ({name})")
            reference = self.learner.train(
                source,
                examples,
                settings,
                folder,
                labeled=labeled,
                labeled_share=labeled_share,
                on_progress=lambda step, steps, loss: self.on_progress(name, step, steps, f"loss {loss:.3f}"),
            )
            path = Path(reference)
            (folder / "model.json").write_text(
                json.dumps({"checkpoint": path.name} if path.is_dir() else {"endpoint": reference})
            )
            shutil.rmtree(folder / "trainer", ignore_errors=True)

        reference = self.run(name, inputs, compute, load=_trained)
        self._identity[reference] = digest(inputs)
        return reference

    def identity(self, reference: str) -> str:
        """What a model is, independent of where this run lies."""
        return self._identity.get(reference, reference)

    @property
    def learner(self) -> Any:
        """Trains weights here, or jobs at the endpoint."""
        if self._learner is None:
            from evolvent.training.learners import JobLearner, LocalLearner

            if self.base.startswith(ENDPOINT_PREFIX):
                self._learner = JobLearner(self.model(self.base), max_cost=self.args.max_cost)  # type: ignore[arg-type]
            else:
                shared = self.folder.folder / "activations" if self.args.peft == "top_layers" else None
                self._learner = LocalLearner(shared)
        return self._learner

    # ------------------------------------------------------------------------------------------ answers

    def responses(
        self,
        name: str,
        inputs: Mapping[str, Any],
        count: int,
        respond: Callable[[Sequence[int]], list[Response]],
    ) -> list[Response]:
        """A stage of `count` responses that is computed shard by shard; finished shards are never repeated.

        Shards are the same rows however often the run was killed, so that results are the same too.
        """

        def compute(folder: Path) -> None:
            file = ShardedJsonl(folder / "responses.jsonl")
            done = file.done_keys()
            size = self.args.shard_rows
            for start in range(0, count, size):
                rows = range(start, min(start + size, count))
                if not all(str(i) in done for i in rows):
                    answered = respond(rows)
                    file.append([{"key": str(i), **r.to_dict()} for i, r in zip(rows, answered, strict=True)])
                self.on_progress(name, rows.stop, count, "rows")

        def load(folder: Path) -> list[Response]:
            stored = {row["key"]: row for row in ShardedJsonl(folder / "responses.jsonl").rows()}
            return [Response.from_dict(stored[str(i)]) for i in range(count)]

        identities = {
            **inputs,
            "model": self.identity(str(inputs["model"])),
            "shard_rows": self.args.shard_rows,
        }
        return self.run(name, {**identities, "seed": self.args.seed}, compute, load=load, data=tuple(self._data))

    def evaluation(
        self, name: str, inputs: Mapping[str, Any], evaluate: Callable[[], Evaluation], *, data: Sequence[str]
    ) -> Evaluation:
        """A stage that measures one model on one set of rows."""
        identities = {**inputs, "model": self.identity(str(inputs["model"]))}
        return self.run(
            name,
            identities,
            lambda folder: evaluate().save(folder / "evaluation.json"),
            load=lambda folder: Evaluation.load(folder / "evaluation.json"),
            data=("labeled", *data),
        )

    # ------------------------------------------------------------------------------------------ results

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write metrics.json."""
        self.folder.write_metrics(metrics)

    def publish(self, final: str, lineage: Lineage) -> str:
        """Copy the resulting model to `checkpoint/` with its lineage; return its reference."""
        target = self.folder.folder / "checkpoint"
        temporary = target.with_name("checkpoint.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        if Path(final).is_dir():
            shutil.copytree(final, temporary)
        else:
            temporary.mkdir()
            (temporary / "endpoint.txt").write_text(final + "\n")
        lineage = lineage.model_copy(
            update={
                "parent": self.base,
                "data": self._data,
                "seed": self.args.seed,
                "config": self.args.model_dump(mode="json"),
                "wall_seconds": sum(self.folder.seconds.values()),
            }
        )
        write_lineage(temporary, lineage, place=target)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        return str(target) if Path(final).is_dir() else final


def _trained(folder: Path) -> str:
    stored = json.loads((folder / "model.json").read_text())
    return str(stored["endpoint"]) if "endpoint" in stored else str(folder / stored["checkpoint"])


def _training_bytes(source: str, settings: FineTuneConfig) -> int:
    """About what a training takes on disk: two states of the trainer and one that is being written, and the result.

    A state is what is saved of the weights, and two moments of every trained weight. 0 for what is not a local folder.
    """
    folder = Path() if source.startswith(ENDPOINT_PREFIX) else Path(checkpoint_folder(source))
    if (folder / "adapter_config.json").is_file():
        folder = Path(adapter_base(folder / "adapter_config.json"))
    if not (folder / "config.json").is_file():
        return 0
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    model = json.loads((folder / "config.json").read_text())
    trained = {
        "full": 1.0,
        "top_layers": settings.trainable_layers / model.get("num_hidden_layers", 1),
        "lora": 2 * settings.lora_r / model.get("hidden_size", 1),
    }[settings.peft]
    trained = min(1.0, trained)
    saved = trained if settings.peft == "lora" else 1.0
    return int(weights * (3 * (saved + 2 * trained) + saved))


def _visible(question: Question) -> list[Any]:
    return [question.id, question.question, question.choices, question.answer, question.context]
