"""`evolvent evaluate`, `log` and `diff`: what a model answers, where it comes from, what changed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from evolvent.cli.console import console, shortened
from evolvent.cli.options import (
    Chat,
    Columns,
    Dtype,
    Kind,
    Labels,
    SkipBadRows,
    Style,
    StyleOption,
    TaskKind,
    TemplateText,
    reader_from,
    task_from,
)
from evolvent.errors import ConfigError


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
    dtype: Dtype = "auto",
    output: Annotated[Path | None, typer.Option("--json", help="write metrics and every answer there")] = None,
) -> None:
    """Ask a model questions with known answers."""
    from evolvent import evaluate, load
    from evolvent.evaluation.evaluate import summary

    if normalization not in ("sum", "token", "character"):
        raise ConfigError(f"--normalization {normalization}: give sum, token or character")
    questions = reader_from(columns, labels, skip_bad_rows)(file, True)
    asked = task_from(task, template, labels, style, chat, model).fitted(questions)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
    with console.status(f"asking {len(questions)} questions"):
        evaluation = evaluate(load(model, dtype=dtype), questions, asked, normalization=normalization)  # type: ignore[arg-type]
    if output is not None:
        evaluation.save(output)
    table = Table("metric", "value")
    for name, value in summary(evaluation).items():
        shown = f"{value[0]:.4f} – {value[1]:.4f}" if isinstance(value, list) else f"{value:.4g}"
        table.add_row(name, shown)
    console.print(table)


def log_command(folder: Annotated[Path, typer.Argument(help="checkpoint folder")]) -> None:
    """Print where a checkpoint comes from, latest change first."""
    from evolvent.runs.lineage import render_chain

    console.print(render_chain(folder), soft_wrap=True, highlight=False, markup=False)


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
    dtype: Dtype = "auto",
    limit: Annotated[int, typer.Option(help="changed answers to print")] = 20,
) -> None:
    """Show which answers changed between two models, and whether the difference is real."""
    from evolvent import compare, evaluate, load

    questions = reader_from(columns, labels, False)(probes, True)
    asked = task_from(task, template, labels, style, chat, before).fitted(questions)
    with console.status(f"asking {len(questions)} questions twice"):
        found = [
            evaluate(load(model, dtype=dtype), questions, asked, normalization="token") for model in (before, after)
        ]
    comparison = compare(*found)
    table = Table("question", "before", "after", "right")
    text = {q.id: q.question for q in questions}
    for name, old, new, gold in comparison.changed[:limit]:
        table.add_row(shortened(text[name]), str(old), str(new), gold)
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
