"""Options that several commands share, and what they are turned into."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from evolvent.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from evolvent.data.readers import Questions
    from evolvent.data.tasks import Task


class TaskKind(StrEnum):
    """Kinds of answers."""

    choice = "choice"
    numeric = "numeric"
    text = "text"


class Style(StrEnum):
    """How the options of a choice task are answered."""

    auto = "auto"
    words = "words"
    letters = "letters"


class ExportFormat(StrEnum):
    """Forms of exported training rows."""

    trl = "trl"
    openai = "openai"
    alpaca = "alpaca"


Model = Annotated[str, typer.Option("--model", help='"embedded", folder, hub id, .gguf or endpoint:NAME@URL')]
Labeled = Annotated[str, typer.Option("--labeled", help="rows with answers: JSONL, CSV, Parquet, datasets folder")]
Unlabeled = Annotated[str, typer.Option("--unlabeled", help="rows without; answers that are there stay hidden")]
Test = Annotated[str | None, typer.Option("--test", help="labelled rows to measure on")]
Kind = Annotated[TaskKind, typer.Option("--task", help="kind of answer")]
TemplateText = Annotated[str | None, typer.Option("--template", help="Jinja text of one question, up to its answer")]
Labels = Annotated[str | None, typer.Option("--labels", help="comma-separated options of rows that bring none")]
StyleOption = Annotated[Style, typer.Option("--style", help="answer choices by their words or by letters")]
Chat = Annotated[bool | None, typer.Option("--chat/--no-chat", help="ask through the chat template")]
Columns = Annotated[list[str] | None, typer.Option("--columns", help="FIELD=COLUMN, for example question=Q")]
SkipBadRows = Annotated[bool, typer.Option("--skip-bad-rows", help="count bad rows instead of stopping at them")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file of settings")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, over the file's settings")]
Out = Annotated[Path, typer.Option("--out", help="run folder; a run that is there already goes on")]
Dtype = Annotated[str, typer.Option("--dtype", help="of local weights: auto, float32, bfloat16 or float16")]
Rerun = Annotated[bool, typer.Option("--rerun", help="with other settings: repeat the stages that they concern")]
Resume = Annotated[bool, typer.Option("--resume/--no-resume", help="whether a run that is there may go on")]
KeepOverlap = Annotated[bool, typer.Option("--keep-overlap", help="keep training rows that are also test rows")]
Force = Annotated[bool, typer.Option("--force", help="go on after a warm-up that is no better than guessing")]


def settings_from(
    config: Any,
    file: Path | None,
    pairs: Sequence[str] | None,
    given: Mapping[str, Any],
    preset: Mapping[str, Any] | None = None,
) -> Any:
    """A config out of a YAML file and KEY=VALUE pairs, over those of a preset."""
    from pydantic import ValidationError

    values: dict[str, Any] = dict(preset or {})
    if file is not None:
        if not file.is_file():
            raise ConfigError(f"{file}: no such file")
        read = _yaml(file.read_text(encoding="utf-8"), str(file)) or {}
        if not isinstance(read, dict):
            raise ConfigError(f"{file}: expected settings as KEY: VALUE")
        values |= read
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair}: expected KEY=VALUE")
        values[key] = _yaml(value, f"--set {pair}")
    try:
        return config.model_validate({**values, **given})
    except ValidationError as error:
        where = str(file) if file is not None else "settings"
        said = [f"{where}, {'.'.join(map(str, e['loc'])) or 'together'}: {e['msg']}" for e in error.errors()]
        raise ConfigError("\n".join(said)) from error


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML: {error}") from error


def task_from(
    kind: TaskKind, template: str | None, labels: str | None, style: Style, chat: bool | None, model: str
) -> Task:
    """How questions are asked; an endpoint is asked in chats unless said otherwise."""
    from evolvent.data.tasks import ChoiceTask, NumericTask, TextTask

    values: dict[str, Any] = {"chat": model.startswith("endpoint:") if chat is None else chat}
    if template is not None:
        values["template"] = template.replace("\\n", "\n")
    if kind is TaskKind.numeric:
        return NumericTask(**values)
    if kind is TaskKind.text:
        return TextTask(**values)
    return ChoiceTask(**values, style=style.value, labels=tuple(labels_from(labels)) or None)


def labels_from(labels: str | None) -> list[str]:
    """Comma-separated labels."""
    return [label.strip() for label in (labels or "").split(",") if label.strip()]


def reader_from(columns: Sequence[str] | None, labels: str | None, skip: bool) -> Callable[[str, bool], Questions]:
    """A function that reads a file of questions: (source, whether rows must have answers)."""
    from evolvent.data.readers import read_questions

    mapping = dict(pair.split("=", 1) for pair in columns or () if "=" in pair)
    if len(mapping) != len(columns or ()):
        raise ConfigError("--columns: expected FIELD=COLUMN")

    def read(source: str, labeled: bool) -> Questions:
        mine = mapping if labeled else {k: v for k, v in mapping.items() if k != "answer"}
        return read_questions(
            source, columns=mine, labeled=labeled, choices=labels_from(labels) or None, skip_bad_rows=skip
        )

    return read
