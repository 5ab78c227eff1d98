"""Fine-tuning by a provider's job API (OpenAI's wire format): upload, create, poll; safe to kill at any instant.

What was paid for is never paid for twice: ids are stored the moment they are known, and a job that was created just
before a kill is found again by the name of its training file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolvent.data.exports import openai_row
from evolvent.data.files import write_json
from evolvent.errors import ConfigError, EndpointError
from evolvent.models.endpoint import CHARACTERS_PER_TOKEN, EndpointModel
from evolvent.training.examples import TrainingExample

logger = logging.getLogger(__name__)

FINISHED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a fine-tuning job ended.

    Attributes:
        job_id: at the provider.
        status: "succeeded", "failed" or "cancelled".
        model: name of the fine-tuned model; None unless it succeeded.
        trained_tokens: as billed, when the provider says so.
        error: the provider's words.
    """

    job_id: str
    status: str
    model: str | None
    trained_tokens: int | None = None
    error: str | None = None


def fine_tune_job(
    endpoint: EndpointModel,
    examples: Sequence[TrainingExample],
    *,
    state_dir: str | Path,
    base_model: str,
    epochs: int = 2,
    seed: int = 0,
    max_cost: float | None = None,
    poll_seconds: float = 10.0,
    on_status: Callable[[str], None] | None = None,
) -> JobResult:
    """Train `base_model` on the examples and wait for the result.

    Args:
        endpoint: the server; its prices are the basis of the cost estimate.
        examples: prompts become the messages of a chat.
        state_dir: where the ids are kept; a second call with the same examples goes on with the same job.
        base_model: what the provider trains.
        epochs: passes over the examples.
        seed: handed to the provider.
        max_cost: most that the job may cost; needs `endpoint.prices`.
        poll_seconds: pause between two looks at the job.
        on_status: called with each new status.

    Raises:
        ConfigError: it would cost more than `max_cost`; nothing was uploaded.
        EndpointError: the provider refused, or failed for good.
    """
    import openai

    content = "".join(json.dumps(openai_row(e.prompt, e.completion)) + "\n" for e in examples)
    digest = hashlib.sha256(json.dumps([content, base_model, epochs, seed]).encode()).hexdigest()[:16]
    _check_cost(endpoint, content, epochs, max_cost)
    state = _State(Path(state_dir) / "job.json", digest)
    client = openai.OpenAI(
        api_key=endpoint.api_key,
        base_url=endpoint.base_url,
        timeout=endpoint.timeout_seconds,
        max_retries=endpoint.max_retries,
    )
    try:
        with client:
            name = f"evolvent-{digest}.jsonl"
            file_id = state.get("file_id") or _find_file(client, name) or _upload(client, name, content)
            state.put("file_id", file_id)
            job_id = (
                _alive(client, state.get("job_id"))
                or _find_job(client, file_id)
                or _create(client, file_id, base_model, epochs, seed)
            )
            state.put("job_id", job_id)
            return _wait(client, job_id, poll_seconds, on_status)
    except openai.APIError as error:
        raise EndpointError(
            f"fine-tuning at {endpoint.base_url}: {str(error).splitlines()[0][:300]}; "
            "run again to go on with the same job"
        ) from error


class _State:
    """Ids of a job on disk."""

    def __init__(self, path: Path, digest: str) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        stored = json.loads(path.read_text()) if path.is_file() else {}
        self.values: dict[str, str] = stored if stored.get("digest") == digest else {"digest": digest}

    def get(self, key: str) -> str | None:
        return self.values.get(key)

    def put(self, key: str, value: str) -> None:
        if self.values.get(key) != value:
            self.values[key] = value
            write_json(self.path, self.values)


def _check_cost(endpoint: EndpointModel, content: str, epochs: int, max_cost: float | None) -> None:
    if max_cost is None:
        return
    if endpoint.prices is None:
        raise ConfigError("max_cost needs the endpoint's prices: EndpointModel(..., prices=Prices(..., training=...))")
    estimate = len(content) / CHARACTERS_PER_TOKEN * epochs * endpoint.prices.training / 1e6
    if estimate > max_cost:
        raise ConfigError(
            f"this fine-tuning job may cost {estimate:.4g}, more than max_cost={max_cost:g}; nothing was uploaded"
        )


def _find_file(client: Any, name: str) -> str | None:
    return next((f.id for f in client.files.list(purpose="fine-tune") if f.filename == name), None)


def _upload(client: Any, name: str, content: str) -> str:
    return str(client.files.create(file=(name, content.encode()), purpose="fine-tune").id)


def _alive(client: Any, job_id: str | None) -> str | None:
    """A stored job, unless it failed."""
    if job_id is None or client.fine_tuning.jobs.retrieve(job_id).status in ("failed", "cancelled"):
        return None
    return job_id


def _find_job(client: Any, file_id: str) -> str | None:
    """A live or finished job on that file; failed and cancelled ones do not count."""
    jobs = client.fine_tuning.jobs.list()
    return next((j.id for j in jobs if j.training_file == file_id and j.status not in ("failed", "cancelled")), None)


def _create(client: Any, file_id: str, base_model: str, epochs: int, seed: int) -> str:
    job = client.fine_tuning.jobs.create(
        model=base_model,
        training_file=file_id,
        seed=seed,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": epochs}}},
    )
    return str(job.id)


def _wait(client: Any, job_id: str, poll_seconds: float, on_status: Callable[[str], None] | None) -> JobResult:
    said = None
    while True:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status != said:
            said = job.status
            logger.info("fine-tuning job %s: %s", job_id, said)
            if on_status:
                on_status(said)
        if job.status in FINISHED:
            error = getattr(job.error, "message", None) if job.error else None
            return JobResult(job_id, job.status, job.fine_tuned_model, job.trained_tokens, error)
        time.sleep(poll_seconds)
