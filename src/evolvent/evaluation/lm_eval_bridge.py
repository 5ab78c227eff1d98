"""To lm-evaluation-harness and back: its benchmarks on our checkpoints, and our questions as one of its tasks.

Needs the extra `eval` (`pip install "evolvent[eval]"`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from evolvent.data.files import write_jsonl, write_text
from evolvent.data.records import Question
from evolvent.data.tasks import Task
from evolvent.errors import ConfigError, DataError
from evolvent.models.resolve import ENDPOINT_PREFIX, adapter_base, checkpoint_folder


def write_task(questions: Sequence[Question], task: Task, folder: str | Path, *, name: str) -> Path:
    """Write `NAME.yaml` and `NAME.jsonl`: the same prompts, options and gold answers as an lm-eval task.

    Its `acc` is our accuracy with normalization="sum", its `acc_norm` the one with "character".

    Raises:
        ConfigError: the task asks in chats, or its answers are not choices.
        DataError: a question without an answer.
    """
    if task.kind != "choice":
        raise ConfigError(f"lm-eval scores choices, and this is a {task.kind} task")
    rows = []
    for question in questions:
        prompt = task.prompt(question)
        if not isinstance(prompt, str):
            raise ConfigError("lm-eval renders chats itself (apply_chat_template): write a task with chat=False")
        if question.answer_index is None:
            raise DataError(f"row {question.id}: no answer")
        choices = [option.strip() for option in task.options(question)]
        rows.append({"prompt": prompt, "choices": choices, "gold": question.answer_index})
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    data = write_jsonl(target / f"{name}.jsonl", rows)
    settings = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data.resolve())}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{prompt}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold",
        "target_delimiter": " ",
        "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm")],
        "metadata": {"version": 1},
    }
    return write_text(target / f"{name}.yaml", yaml.safe_dump(settings, sort_keys=False))


def run_lm_eval(
    checkpoint: str | Path,
    tasks: Sequence[str],
    *,
    task_folder: str | Path | None = None,
    batch_size: int = 8,
    limit: int | None = None,
    dtype: str = "auto",
    **options: Any,
) -> dict[str, dict[str, float]]:
    """Run lm-eval's Hugging Face backend on a checkpoint, full or adapter.

    Args:
        checkpoint: "embedded", folder, hub id or GGUF.
        tasks: names of its tasks, or of those in `task_folder`.
        task_folder: where :func:`write_task` wrote.
        batch_size: rows of a forward pass.
        limit: rows of each task.
        dtype: of the weights.
        options: further arguments of `lm_eval.simple_evaluate`.

    Returns:
        task -> metric -> value.

    Raises:
        ConfigError: the extra is not installed, or the checkpoint is an endpoint.
    """
    if str(checkpoint).startswith(ENDPOINT_PREFIX):
        raise ConfigError(f"{checkpoint}: lm-eval has its own client for endpoints (model local-completions)")
    try:
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ConfigError('lm-eval is not installed: pip install "evolvent[eval]"') from error
    folder = checkpoint_folder(checkpoint)
    arguments = {"pretrained": folder, "dtype": dtype}
    adapter = Path(folder) / "adapter_config.json"
    if adapter.is_file():
        arguments |= {"pretrained": adapter_base(adapter), "peft": folder}
    manager = TaskManager(include_path=str(task_folder) if task_folder else None)
    found = simple_evaluate(
        model="hf",
        model_args=arguments,
        tasks=list(tasks),
        task_manager=manager,
        batch_size=batch_size,
        limit=limit,
        **options,
    )
    results = json.loads(json.dumps(found["results"], default=str))
    return {
        task: {key.partition(",")[0]: value for key, value in metrics.items() if isinstance(value, float)}
        for task, metrics in results.items()
    }
