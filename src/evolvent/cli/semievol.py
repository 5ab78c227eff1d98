"""`evolvent semievol`: fine-tune from few labelled and many unlabelled rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from evolvent.cli.console import console, progress
from evolvent.cli.options import (
    Chat,
    Columns,
    ConfigFile,
    ExportFormat,
    Force,
    KeepOverlap,
    Kind,
    Labeled,
    Labels,
    Model,
    Out,
    Rerun,
    Resume,
    Settings,
    SkipBadRows,
    Style,
    StyleOption,
    TaskKind,
    TemplateText,
    Test,
    Unlabeled,
    reader_from,
    settings_from,
    task_from,
)
from evolvent.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from evolvent.data.readers import Questions
    from evolvent.data.tasks import Task
    from evolvent.methods.semievol.semievol import SemiEvol

app = typer.Typer(no_args_is_help=True, help="Fine-tune from few labelled and many unlabelled rows.")


@app.command("run")
def run(
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
    keep_overlap: KeepOverlap = False,
) -> None:
    """Everything: warm up, label, select, evolve, compare, report."""
    asked = task_from(task, template, labels, style, chat, model)
    read = reader_from(columns, labels, skip_bad_rows)
    with progress() as on_progress:
        method = _semievol(
            model,
            labeled,
            unlabeled,
            test,
            asked,
            read,
            on_progress,
            config,
            settings,
            out,
            resume,
            rerun,
            force,
            keep_overlap,
        )
        result = method.run()
    if method.evaluations:
        _print_results(result.metrics)
    console.print(f"model   {result.model}\nreport  {result.report_path}", soft_wrap=True, highlight=False)


@app.command("label")
def label(
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
    keep_overlap: KeepOverlap = False,
) -> None:
    """Only as far as the selection: pseudo-labels with their evidence, and the selected ones as training rows."""
    from evolvent.data.exports import export_rows
    from evolvent.data.files import read_jsonl

    asked = task_from(task, template, labels, style, chat, model)
    read = reader_from(columns, labels, skip_bad_rows)
    with progress() as on_progress:
        method = _semievol(
            model,
            labeled,
            unlabeled,
            test,
            asked,
            read,
            on_progress,
            config,
            settings,
            out,
            resume,
            rerun,
            force,
            keep_overlap,
        )
        kept = method.label()
    target = out / f"selected-{form.value}.{'json' if form is ExportFormat.alpaca else 'jsonl'}"
    export_rows(target, (row for _, row in read_jsonl(out / "selected.jsonl")), form.value)
    console.print(
        f"{len(kept)} of {len(method.pool)} rows selected\nevery row's fate  {out / 'pool.parquet'}\nexport  {target}",
        soft_wrap=True,
        highlight=False,
    )


@app.command("report")
def report(folder: Annotated[Path, typer.Argument(help="run folder")]) -> None:
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


@app.command("doctor")
def doctor(
    labeled: Annotated[str, typer.Argument(help="rows with answers")],
    unlabeled: Annotated[str, typer.Argument(help="rows without")],
    test: Test = None,
    labels: Labels = None,
    columns: Columns = None,
    skip_bad_rows: SkipBadRows = False,
) -> None:
    """Look at the data only: answers, classes, duplicates, overlap with the test rows."""
    from evolvent.data.overlap import data_gate

    read = reader_from(columns, labels, skip_bad_rows)
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


def demo(
    out: Out = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="of the split and the run")] = 0,
    unlabeled: Annotated[int, typer.Option(help="unlabelled rows")] = 600,
    test: Annotated[int, typer.Option(help="test rows")] = 400,
) -> None:
    """BBC news, 5 topics: 20 labelled headlines, 600 unlabelled ones, 400 to test on; three voters."""
    from evolvent import SemiEvol, SemiEvolConfig, samples

    news = samples.bbc_news(labeled=20, unlabeled=unlabeled, test=test, seed=seed)
    console.print(
        f"20 labelled and {unlabeled} unlabelled BBC news headlines, {test} to test on; "
        "SmolLM2-135M-Instruct on this machine's processor.",
        highlight=False,
    )
    with progress() as on_progress:
        method = SemiEvol(
            "embedded",
            news.labeled,
            news.unlabeled,
            task=news.task,
            eval_dataset=news.test,
            args=SemiEvolConfig(output_dir=out, seed=seed, peft="top_layers", n_configs=3),
            on_progress=on_progress,
        )
        result = method.run()
    _print_results(result.metrics)
    console.print(f"report  {result.report_path}", soft_wrap=True, highlight=False)


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
    keep_overlap: bool,
) -> SemiEvol:
    from evolvent import SemiEvol, SemiEvolConfig

    if not resume and (out / "config.yaml").is_file():
        raise ConfigError(f"{out} holds a run already: leave out --no-resume to go on, or choose another --out")
    given: dict[str, Any] = {"output_dir": out, **({"force": True} if force else {})}
    given |= {"keep_overlap": True} if keep_overlap else {}
    return SemiEvol(
        model,
        read(labeled, True),
        read(unlabeled, False),
        args=settings_from(SemiEvolConfig, config, settings, given | ({"on_config_change": "rerun"} if rerun else {})),
        task=task,
        eval_dataset=read(test, True) if test is not None else None,
        on_progress=on_progress,
    )


def _print_results(metrics: Mapping[str, Any]) -> None:
    from evolvent.methods.semievol.report import results_table

    _, rows, caption = results_table(metrics)
    table = Table("variant", "accuracy, %", "SemiEvol gains", "p", caption=caption, caption_style="dim")
    for name, accuracy, interval, _, gain, gained, p_value in rows:
        cells = [f"{accuracy} ({interval})", f"{gain} ({gained})" if gain else "", p_value]
        table.add_row(name, *cells, style="bold" if name == "SemiEvol" else None)
    console.print(table)
