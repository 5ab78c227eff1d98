"""The command line: one command a method. It parses, calls and prints; what happens is in the library.

Exit codes: 0 done, 2 bad input, 3 an endpoint failed, 4 nothing was selected, 130 interrupted.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from evolvent.errors import ConfigError, DataError, EvolventError, NothingSelectedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from evolvent.data.readers import Questions
    from evolvent.data.tasks import Task
    from evolvent.methods.semievol.semievol import SemiEvol

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
semievol = typer.Typer(no_args_is_help=True, help="Fine-tune from few labelled and many unlabelled rows.")
demo = typer.Typer(no_args_is_help=True, help="A whole run on real text with the embedded model; needs no download.")
app.add_typer(semievol, name="semievol")
app.add_typer(demo, name="demo")

console = Console()
errors = Console(stderr=True)


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
Rerun = Annotated[bool, typer.Option("--rerun", help="with other settings: repeat the stages that they concern")]
Resume = Annotated[bool, typer.Option("--resume/--no-resume", help="whether a run that is there may go on")]
Force = Annotated[bool, typer.Option("--force", help="go on after a warm-up that is no better than guessing")]


@semievol.command("run")
def semievol_run(
    labeled: Labeled,
    unlabeled: Unlabeled,
    out: Out,
    model: Model = "embedded",
    test: Test = None,
    task: Kind = TaskKind.choice,
    template: TemplateText = None,
    labels: Labels = None,
    style: StyleOption = Style.auto,
    chat: Chat = None,
    columns: Columns = None,
    skip_bad_rows: SkipBadRows = False,
    config: ConfigFile = None,
    settings: Settings = None,
    resume: Resume = True,
    rerun: Rerun = False,
    force: Force = False,
) -> None:
    """Everything: warm up, label, select, evolve, compare, report."""
    asked = _task(task, template, labels, style, chat, model)
    read = _reader(columns, labels, skip_bad_rows)
    with _progress() as on_progress:
        method = _semievol(
            model, labeled, unlabeled, test, asked, read, on_progress, config, settings, out, resume, rerun, force
        )
        result = method.run()
    if method.evaluations:
        _print_results(result.metrics)
    console.print(f"model   {result.model}\nreport  {result.report_path}", soft_wrap=True, highlight=False)


@semievol.command("label")
def semievol_label(
    labeled: Labeled,
    unlabeled: Unlabeled,
    out: Out,
    model: Model = "embedded",
    test: Test = None,
    task: Kind = TaskKind.choice,
    template: TemplateText = None,
    labels: Labels = None,
    style: StyleOption = Style.auto,
    chat: Chat = None,
    columns: Columns = None,
    skip_bad_rows: SkipBadRows = False,
    config: ConfigFile = None,
    settings: Settings = None,
    form: Annotated[ExportFormat, typer.Option("--format", help="form of the exported rows")] = ExportFormat.trl,
    resume: Resume = True,
    rerun: Rerun = False,
    force: Force = False,
) -> None:
    """Only as far as the selection: pseudo-labels with their evidence, and the selected ones as training rows."""
    from evolvent.data.exports import export_rows
    from evolvent.data.files import read_jsonl

    asked = _task(task, template, labels, style, chat, model)
    read = _reader(columns, labels, skip_bad_rows)
    with _progress() as on_progress:
        method = _semievol(
            model, labeled, unlabeled, test, asked, read, on_progress, config, settings, out, resume, rerun, force
        )
        kept = method.label()
    target = out / f"selected-{form.value}.{'json' if form is ExportFormat.alpaca else 'jsonl'}"
    export_rows(target, (row for _, row in read_jsonl(out / "selected.jsonl")), form.value)
    console.print(
        f"{len(kept)} of {len(method.pool)} rows selected\nevery row's fate  {out / 'pool.parquet'}\nexport  {target}",
        soft_wrap=True,
        highlight=False,
    )


@semievol.command("report")
def semievol_report(folder: Annotated[Path, typer.Argument(help="run folder")]) -> None:
    """Print what a run found; its pages lie beside metrics.json as report.html and report.md."""
    for name in ("metrics.json", "report.md"):
        if not (folder / name).is_file():
            raise DataError(f"{folder}: no {name}; this run has not finished: go on with the command that began it")
    metrics = json.loads((folder / "metrics.json").read_text())
    if any(key.startswith("accuracy/test/") for key in metrics):
        _print_results(metrics)
    console.print(
        "\n".join(f"{folder / name}" for name in ("report.html", "report.md", "metrics.json")),
        soft_wrap=True,
        highlight=False,
    )


@semievol.command("doctor")
def semievol_doctor(
    labeled: Annotated[str, typer.Argument(help="rows with answers")],
    unlabeled: Annotated[str, typer.Argument(help="rows without")],
    test: Test = None,
    labels: Labels = None,
    columns: Columns = None,
    skip_bad_rows: SkipBadRows = False,
) -> None:
    """Look at the data only: answers, classes, duplicates, overlap with the test rows."""
    from evolvent.data.overlap import data_gate

    read = _reader(columns, labels, skip_bad_rows)
    files = {"labeled": read(labeled, True), "unlabeled": read(unlabeled, False)}
    if test is not None:
        files["test"] = read(test, True)
    for name, questions in files.items():
        report = questions.report
        said = f"{name}: {report.rows} rows of {report.path}"
        said += f", answers by {report.answer_convention}" if report.answer_convention else ""
        said += f", {len(report.rejected)} rejected" if report.rejected else ""
        console.print(said, soft_wrap=True, highlight=False)
    *_, gate = data_gate(files["labeled"], files["unlabeled"], files.get("test"))
    if len(gate.class_histogram) <= 30:
        shares = ", ".join(f"{answer} {count}" for answer, count in gate.class_histogram.items())
        console.print(f"labelled answers: {shares}", soft_wrap=True, highlight=False)
    for warning in gate.warnings or ["nothing to complain about"]:
        console.print(f"- {warning}", soft_wrap=True, highlight=False)


@demo.command("semievol")
def demo_semievol(
    out: Out = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="of the split and the run")] = 0,
    unlabeled: Annotated[int, typer.Option(help="unlabelled rows")] = 800,
    test: Annotated[int, typer.Option(help="test rows")] = 400,
) -> None:
    """BBC news, 5 topics: 20 labelled headlines, 800 unlabelled ones, 400 to test on."""
    from evolvent import SemiEvol, SemiEvolConfig, samples

    news = samples.bbc_news(labeled=20, unlabeled=unlabeled, test=test, seed=seed)
    console.print(
        f"20 labelled and {unlabeled} unlabelled BBC news headlines, {test} to test on; "
        "SmolLM2-135M-Instruct on this machine's processor.",
        highlight=False,
    )
    with _progress() as on_progress:
        method = SemiEvol(
            "embedded",
            news.labeled,
            news.unlabeled,
            task=news.task,
            eval_dataset=news.test,
            args=SemiEvolConfig(output_dir=out, seed=seed),
            on_progress=on_progress,
        )
        result = method.run()
    _print_results(result.metrics)
    console.print(f"report  {result.report_path}", soft_wrap=True, highlight=False)


@app.command("evaluate")
def evaluate_command(
    model: Annotated[str, typer.Argument(help='"embedded", folder, hub id, .gguf or endpoint:NAME@URL')],
    file: Annotated[str, typer.Argument(help="questions with answers")],
    task: Kind = TaskKind.choice,
    template: TemplateText = None,
    labels: Labels = None,
    style: StyleOption = Style.auto,
    chat: Chat = None,
    columns: Columns = None,
    skip_bad_rows: SkipBadRows = False,
    normalization: Annotated[str, typer.Option(help="of option scores: sum, token or character")] = "sum",
    output: Annotated[Path | None, typer.Option("--json", help="write metrics and every answer there")] = None,
) -> None:
    """Ask a model questions with known answers."""
    from evolvent import evaluate, load
    from evolvent.evaluation.evaluate import summary

    if normalization not in ("sum", "token", "character"):
        raise ConfigError(f"--normalization {normalization}: give sum, token or character")
    questions = _reader(columns, labels, skip_bad_rows)(file, True)
    asked = _task(task, template, labels, style, chat, model).fitted(questions)
    with console.status(f"asking {len(questions)} questions"):
        evaluation = evaluate(load(model), questions, asked, normalization=normalization)  # type: ignore[arg-type]
    if output is not None:
        evaluation.save(output)
    table = Table("metric", "value")
    for name, value in summary(evaluation).items():
        shown = f"{value[0]:.4f} – {value[1]:.4f}" if isinstance(value, list) else f"{value:.4g}"
        table.add_row(name, shown)
    console.print(table)


@app.command("log")
def log_command(folder: Annotated[Path, typer.Argument(help="checkpoint folder")]) -> None:
    """Print where a checkpoint comes from, latest change first."""
    from evolvent.runs.lineage import render_chain

    console.print(render_chain(folder), soft_wrap=True, highlight=False, markup=False)


@app.command("diff")
def diff_command(
    before: Annotated[str, typer.Argument(help="a model")],
    after: Annotated[str, typer.Argument(help="another one")],
    probes: Annotated[str, typer.Option("--probes", help="questions with answers")],
    task: Kind = TaskKind.choice,
    template: TemplateText = None,
    labels: Labels = None,
    style: StyleOption = Style.auto,
    chat: Chat = None,
    columns: Columns = None,
    limit: Annotated[int, typer.Option(help="changed answers to print")] = 20,
) -> None:
    """Show which answers changed between two models, and whether the difference is real."""
    from evolvent import compare, evaluate, load

    questions = _reader(columns, labels, False)(probes, True)
    asked = _task(task, template, labels, style, chat, before).fitted(questions)
    with console.status(f"asking {len(questions)} questions twice"):
        found = [evaluate(load(model), questions, asked, normalization="token") for model in (before, after)]
    comparison = compare(*found)
    table = Table("question", "before", "after", "right")
    text = {q.id: q.question for q in questions}
    for name, old, new, gold in comparison.changed[:limit]:
        table.add_row(_shortened(text[name]), str(old), str(new), gold)
    if comparison.changed:
        console.print(table)
    change = comparison.test
    console.print(
        f"{len(comparison.changed)} of {len(questions)} answers changed; accuracy {found[0].interval.mean:.1%} -> "
        f"{found[1].interval.mean:.1%}, {change.difference * 100:+.1f} points "
        f"[{change.low * 100:+.1f}, {change.high * 100:+.1f}], p = {comparison.p_value:.2g} (exact McNemar)",
        soft_wrap=True,
        highlight=False,
    )


# ------------------------------------------------------------------------------------------------------- parts


def _semievol(
    model: str,
    labeled: str,
    unlabeled: str,
    test: str | None,
    task: Task,
    read: Callable[[str, bool], Questions],
    on_progress: Callable[[str, int, int, str], None],
    config: Path | None,
    settings: Sequence[str] | None,
    out: Path,
    resume: bool,
    rerun: bool,
    force: bool,
) -> SemiEvol:
    from evolvent import SemiEvol, SemiEvolConfig

    if not resume and (out / "config.yaml").is_file():
        raise ConfigError(f"{out} holds a run already: leave out --no-resume to go on, or choose another --out")
    given: dict[str, Any] = {"output_dir": out, **({"force": True} if force else {})}
    return SemiEvol(
        model,
        read(labeled, True),
        read(unlabeled, False),
        args=_settings(SemiEvolConfig, config, settings, given | ({"on_config_change": "rerun"} if rerun else {})),
        task=task,
        eval_dataset=read(test, True) if test is not None else None,
        on_progress=on_progress,
    )


def _settings(config: Any, file: Path | None, pairs: Sequence[str] | None, given: Mapping[str, Any]) -> Any:
    """A config out of a YAML file and KEY=VALUE pairs."""
    from pydantic import ValidationError

    values: dict[str, Any] = {}
    if file is not None:
        if not file.is_file():
            raise ConfigError(f"{file}: no such file")
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        if not isinstance(values, dict):
            raise ConfigError(f"{file}: expected settings as KEY: VALUE")
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair}: expected KEY=VALUE")
        values[key] = yaml.safe_load(value)
    try:
        return config.model_validate({**values, **given})
    except ValidationError as error:
        where = str(file) if file is not None else "settings"
        said = [f"{where}, {'.'.join(map(str, e['loc'])) or 'together'}: {e['msg']}" for e in error.errors()]
        raise ConfigError("\n".join(said)) from error


def _task(
    kind: TaskKind, template: str | None, labels: str | None, style: Style, chat: bool | None, model: str
) -> Task:
    from evolvent.data.tasks import ChoiceTask, NumericTask, TextTask

    values: dict[str, Any] = {"chat": model.startswith("endpoint:") if chat is None else chat}
    if template is not None:
        values["template"] = template.replace("\\n", "\n")
    if kind is TaskKind.numeric:
        return NumericTask(**values)
    if kind is TaskKind.text:
        return TextTask(**values)
    return ChoiceTask(**values, style=style.value, labels=tuple(_labels(labels)) or None)


def _labels(labels: str | None) -> list[str]:
    return [label.strip() for label in (labels or "").split(",") if label.strip()]


def _reader(columns: Sequence[str] | None, labels: str | None, skip: bool) -> Callable[[str, bool], Questions]:
    from evolvent.data.readers import read_questions

    mapping = dict(pair.split("=", 1) for pair in columns or () if "=" in pair)
    if len(mapping) != len(columns or ()):
        raise ConfigError("--columns: expected FIELD=COLUMN")

    def read(source: str, labeled: bool) -> Questions:
        mine = mapping if labeled else {k: v for k, v in mapping.items() if k != "answer"}
        return read_questions(
            source, columns=mine, labeled=labeled, choices=_labels(labels) or None, skip_bad_rows=skip
        )

    return read


def _print_results(metrics: Mapping[str, Any]) -> None:
    from evolvent.methods.semievol.report import results_table

    columns, rows, caption = results_table(metrics)
    table = Table(*columns, caption=caption, caption_style="dim")
    for row in rows:
        table.add_row(*row, style="bold" if row[0] == "SemiEvol" else None)
    console.print(table)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int, str], None]]:
    """A line for each stage, with what is left of it."""
    tasks: dict[str, TaskID] = {}
    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("[dim]{task.fields[note]}"),
        console=console,
    )

    def on_progress(stage: str, done: int, total: int, note: str) -> None:
        if stage not in tasks:
            tasks[stage] = shown.add_task(stage, total=total, note=note)
        if done == total == 1:
            finished = shown.tasks[tasks[stage]].total or 1
            shown.update(tasks[stage], completed=finished, note="")
        else:
            shown.update(tasks[stage], completed=done, total=total, note=note)

    with shown:
        yield on_progress


def _shortened(text: str, length: int = 70) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def main() -> None:
    """Entry point: errors that we raise on purpose are one message, not a traceback (--debug shows it)."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app(args=[a for a in arguments if a != "--debug"])
    except EvolventError as error:
        if debug:
            raise
        label = "nothing selected" if isinstance(error, NothingSelectedError) else "error"
        errors.print(f"[bold red]{label}:[/] ", end="")
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        errors.print("interrupted; the same command goes on from here")
        sys.exit(130)
