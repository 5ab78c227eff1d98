"""Verbs that change the table: your own rows, revisions of the list, other files; and what was changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.markup import escape

from evolvent.cli.atlas.options import (
    Config,
    Fields,
    Json,
    Modalities,
    Name,
    Offline,
    Settings,
    exit_if_nothing,
    open_atlas,
    pairs_of,
    print_json,
)
from evolvent.cli.console import console, errors
from evolvent.errors import ConfigError, DataError

if TYPE_CHECKING:
    from evolvent.methods.atlas.atlas import Atlas


def add_command(
    cells: Annotated[list[str], typer.Argument(help="COLUMN=VALUE; lists as [a, b]; or a YAML or JSON file of a row")],
    draft: Annotated[bool, typer.Option("--draft", help="not yet approved")] = False,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Add a model of your own."""
    given: dict[str, Any] = {}
    for cell in cells:
        if "=" in cell:
            given |= _cells([cell])
        elif Path(cell).is_file():
            given |= yaml.safe_load(Path(cell).read_text(encoding="utf-8")) or {}
        else:
            raise ConfigError(f"{cell}: neither COLUMN=VALUE nor a file")
    entry = open_atlas(config, settings).add(given, status="draft" if draft else None)
    console.print(f"added {entry.id}", highlight=False)


def edit_command(
    name: Name,
    cells: Annotated[list[str], typer.Argument(help="COLUMN=VALUE; lists as [a, b]; null for unknown")],
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Change cells of a row."""
    entry = open_atlas(config, settings).edit(name, **_cells(cells))
    console.print(f"edited {entry.id}", highlight=False)


def remove_command(name: Name, config: Config = None, settings: Settings = None) -> None:
    """Take a row out of your table (undo brings it back)."""
    open_atlas(config, settings).remove(name)
    console.print("removed", highlight=False)


def undo_command(config: Config = None, settings: Settings = None) -> None:
    """Take back the last change."""
    done = open_atlas(config, settings).undo()
    console.print(f"took back {done.action} of {done.when} ({len(done.changes)} cells)", highlight=False)


def log_command(as_json: Json = False, config: Config = None, settings: Settings = None) -> None:
    """Print every change to your table."""
    actions = open_atlas(config, settings).history()
    if as_json:
        from dataclasses import asdict

        print_json([asdict(a) for a in actions])
        return
    for a in actions:
        where = f" of {a.undoes}" if a.undoes else f" {a.note}" if a.note else ""
        console.print(f"{a.n}  {a.when}  {escape(a.who)}  {a.action}{escape(where)}", highlight=False)
        for c in a.changes[:20]:
            old, new = ("", c.id) if c.cell == "*" else (c.old, c.new)
            console.print(f"     {c.id} {c.cell}: {escape(str(old))} -> {escape(str(new))}", highlight=False)


def validate_command(config: Config = None, settings: Settings = None) -> None:
    """Check every rule over the whole table."""
    atlas = open_atlas(config, settings)
    problems = atlas.validate()
    for text in problems:
        console.print(escape(text), highlight=False, soft_wrap=True)
    for text in atlas.warnings():
        errors.print(escape(text), highlight=False, soft_wrap=True)
    if problems:
        raise typer.Exit(3)
    console.print(f"{len(atlas)} rows, no problem", highlight=False)


def import_command(
    file: Annotated[Path, typer.Argument(help="list README.md, .jsonl, .csv or .bib; or hub:OWNER/NAME")],
    kind: Annotated[str | None, typer.Option(help="list, jsonl, csv, bibtex or epoch")] = None,
    columns: Annotated[list[str] | None, typer.Option("--columns", help="OURS=THEIRS")] = None,
    field: Fields = None,
    modality: Modalities = None,
    sections: Annotated[list[str] | None, typer.Option("--map", help="'SECTION=modality,modality'")] = None,
    force: Annotated[bool, typer.Option("--force", help="accept many withdrawals and unreadable bullets")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would change (list)")] = False,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Merge a revision of the list, or add rows of another file as drafts."""
    from evolvent.methods.atlas.imports import kind_of

    atlas = open_atlas(config, settings)
    if str(file).startswith("hub:"):
        entry = atlas.import_hub(str(file).removeprefix("hub:"), field or (), modality or ())
        console.print(f"added {entry.id}", highlight=False)
        return
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    if kind_of(file, kind) == "list":
        _refresh(atlas, str(file), dry_run, force, sections)
        return
    defaults = {"fields": field or None, "modalities": modality or None}
    added = atlas.import_rows(file, kind, columns=pairs_of(columns, "--columns"), defaults=defaults)
    console.print(f"added {len(added)} rows", highlight=False)


def refresh_command(
    revision: Annotated[str | None, typer.Argument(help="file or address; default the list's own")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would change")] = False,
    force: Annotated[bool, typer.Option("--force", help="accept many withdrawals and unreadable bullets")] = False,
    sections: Annotated[list[str] | None, typer.Option("--map", help="'SECTION=modality,modality'")] = None,
    offline: Offline = None,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Merge the list as it is now into the table."""
    _refresh(open_atlas(config, settings, offline), revision, dry_run, force, sections)


def diff_command(
    revision: Annotated[str | None, typer.Argument(help="a revision of the list; default your own changes")] = None,
    sections: Annotated[list[str] | None, typer.Option("--map", help="'SECTION=modality,modality'")] = None,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Show what a revision of the list would change, or what you changed."""
    atlas = open_atlas(config, settings)
    if revision is not None:
        _refresh(atlas, revision, True, True, sections)
        return
    from evolvent.methods.atlas.merge import MergeReport
    from evolvent.methods.atlas.overlay import living

    mine = [c for a in living(atlas.history()) for c in a.changes]
    console.print(MergeReport(changes=mine).to_diff(), markup=False, highlight=False, soft_wrap=True)
    exit_if_nothing(mine)


def _cells(given: Sequence[str]) -> dict[str, Any]:
    """COLUMN=VALUE as cells: lists and tables in YAML, everything else as it stands; null is unknown."""
    from evolvent.methods.atlas.entry import LISTS

    found: dict[str, Any] = {}
    for column, text in pairs_of(given, "cell").items():
        structured = column in (*LISTS, "provenance", "extra", "hub", "year", "source_order", "in_survey_tables")
        try:
            found[column] = yaml.safe_load(text) if structured or text == "null" else text
        except yaml.YAMLError as error:
            raise ConfigError(f"{column}={text}: not YAML: {str(error).splitlines()[0]}") from error
    return found


def _refresh(atlas: Atlas, revision: str | None, dry_run: bool, force: bool, sections: Sequence[str] | None) -> None:
    named = {name: value.split(",") for name, value in pairs_of(sections, "--map").items()}
    report = atlas.refresh(revision, dry_run=dry_run, force=force, sections=named)
    console.print(report.to_diff(), markup=False, highlight=False, soft_wrap=True)
    counted = ", ".join(f"{n} {name}" for name, n in report.counts().items() if n) or "nothing changed"
    console.print(f"{'would be: ' if dry_run else ''}{counted}", highlight=False)
