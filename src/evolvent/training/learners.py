"""Two ways to change a model: in this process, or through a provider's fine-tuning job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from evolvent.errors import ModelError
from evolvent.training.config import FineTuneConfig
from evolvent.training.examples import TrainingExample
from evolvent.training.finetune import Progress, fine_tune

if TYPE_CHECKING:
    from evolvent.models.endpoint import EndpointModel


class Learner(Protocol):
    """Turns a model reference and examples into the reference of a fine-tuned model."""

    def train(
        self,
        source: str,
        examples: Sequence[TrainingExample],
        args: FineTuneConfig,
        folder: Path,
        *,
        labeled: int = 0,
        labeled_share: float = 0.0,
        on_progress: Progress | None = None,
    ) -> str:
        """Fine-tune `source`; whatever is needed to resume lies in `folder`."""
        ...


class LocalLearner:
    """Trains weights in this process, see :func:`~evolvent.training.finetune.fine_tune`.

    Args:
        activations: folder of cached activations that trainings of one trunk share.
    """

    def __init__(self, activations: Path | None = None) -> None:
        self.activations = activations

    def train(
        self,
        source: str,
        examples: Sequence[TrainingExample],
        args: FineTuneConfig,
        folder: Path,
        *,
        labeled: int = 0,
        labeled_share: float = 0.0,
        on_progress: Progress | None = None,
    ) -> str:
        """The new checkpoint's folder."""
        result = fine_tune(
            source,
            examples,
            args,
            output_dir=folder,
            labeled=labeled,
            labeled_share=labeled_share,
            on_progress=on_progress,
            activations=self.activations,
        )
        return str(result.checkpoint)


class JobLearner:
    """Trains through the fine-tuning jobs of an endpoint; learning rates and schedules are the provider's.

    Args:
        endpoint: the model server that offers fine-tuning.
        max_cost: most that one job may cost, in the currency of the endpoint's prices.
    """

    def __init__(self, endpoint: EndpointModel, *, max_cost: float | None = None) -> None:
        self.endpoint = endpoint
        self.max_cost = max_cost

    def train(
        self,
        source: str,
        examples: Sequence[TrainingExample],
        args: FineTuneConfig,
        folder: Path,
        *,
        labeled: int = 0,
        labeled_share: float = 0.0,
        on_progress: Progress | None = None,
    ) -> str:
        """The reference `endpoint:MODEL@URL` of the model that the job made.

        Raises:
            ModelError: the job ended without a model.
        """
        from evolvent.training.jobs import fine_tune_job

        name = source.removeprefix("endpoint:").rpartition("@")[0] or source
        epochs = max(1, round(args.total_steps(len(examples)) * args.batch_size / len(examples)))
        result = fine_tune_job(
            self.endpoint,
            examples,
            state_dir=folder,
            base_model=name,
            epochs=epochs,
            seed=args.seed,
            max_cost=self.max_cost,
        )
        if not result.model:
            raise ModelError(f"fine-tuning job {result.job_id} ended as {result.status}: {result.error or 'no model'}")
        return f"endpoint:{result.model}@{self.endpoint.base_url}"
