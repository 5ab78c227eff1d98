"""Options that several commands of `evolvent law` share, and what they mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evolvent.errors import DataError

if TYPE_CHECKING:
    from evolvent.data.facts import Facts

FactsFile = Annotated[str, typer.Option("--facts", help="what to forget: JSONL, CSV, Parquet, CounterFact, zsRE")]
References = Annotated[str | None, typer.Option("--references", help="other subjects of the same relations")]
Corpus = Annotated[str | None, typer.Option("--corpus", help="general text, column `text`; else the model writes it")]
TemplatesFile = Annotated[Path | None, typer.Option("--templates", help="JSON: relation -> prompt, paraphrases")]


def facts_from(source: str, templates: Path | None, skip: bool) -> Facts:
    """The facts of a command line."""
    from evolvent.data.facts import check_templates, read_facts

    given = None
    if templates is not None:
        if not templates.is_file():
            raise DataError(f"{templates}: no such file")
        try:
            given = json.loads(templates.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise DataError(f"{templates}, line {error.lineno}: not valid JSON ({error.msg})") from error
        check_templates(given, str(templates))
    return read_facts(source, templates=given, skip_bad_rows=skip)
