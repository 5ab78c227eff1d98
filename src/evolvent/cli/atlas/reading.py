"""Verbs that look at the table: find, show, compare, recommend, connect, count, export."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from evolvent.cli.atlas.options import (
    Config,
    Json,
    Limit,
    Modalities,
    Name,
    Names,
    Settings,
    UnknownRows,
    Where,
    exit_if_nothing,
    open_atlas,
    print_json,
)
from evolvent.cli.console import console, errors, shortened
from evolvent.errors import DataError

if TYPE_CHECKING:
    from evolvent.methods.atlas.entry import Entry
    from evolvent.methods.atlas.where import Filtered


def list_command(
    where: Where = None,
    unknown: UnknownRows = None,
    as_json: Json = False,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """List the rows that fit a filter."""
    atlas = open_atlas(config, settings)
    found = atlas.filter(where, unknown=unknown)  # type: ignore[arg-type]  # checked by the settings
    listed = unknown or atlas.args.unknown
    if as_json:
        print_json([e.row() for e in found.rows])
    else:
        _print_entries(found.rows)
        _print_unknown(found, listed)
    exit_if_nothing(found.rows)


def search_command(
    query: Annotated[str, typer.Argument(help="in your own words")],
    k: Limit = 10,
    mode: Annotated[str, typer.Option(help="auto, hybrid, dense or lexical")] = "auto",
    where: Where = None,
    as_json: Json = False,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Find models for a task in your own words."""
    hits = open_atlas(config, settings).search(query, k, mode, where)  # type: ignore[arg-type]  # checked there
    if as_json:
        print_json(
            [
                {"id": h.entry.id, "name": h.entry.name, "score": h.score, "parts": dict(h.parts), "why": h.why}
                for h in hits
            ]
        )
    else:
        table = Table("id", "model", "title", "score", f"why ({hits.mode})")
        for h in hits:
            cells = (h.entry.id, h.entry.name, shortened(h.entry.title, 60), f"{h.score:.3f}", h.why)
            table.add_row(*map(escape, cells))
        console.print(table)
        for notice in hits.notices:
            errors.print(escape(notice))
    exit_if_nothing(hits)


def show_command(
    name: Name,
    as_json: Json = False,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Show everything about a model, with the source of each fact."""
    entry = open_atlas(config, settings)[name]
    if as_json:
        print_json(entry.row())
        return
    from evolvent.methods.atlas.views import shown

    table = Table("", "", "source", title=escape(f"{entry.name}: {entry.title}"), title_justify="left")
    for column in type(entry).model_fields:
        if column in ("id", "name", "title", "provenance", "checkpoints", "hub", "extra"):
            continue
        text = shown(entry, column)
        if text:
            table.add_row(column, escape(text), entry.provenance.get(column, ""))
    for c in entry.checkpoints:
        told = " ".join(part for part in (c.label, c.hf_id or c.url) if part)
        table.add_row("checkpoint", escape(told), entry.provenance.get("checkpoints", ""))
    if entry.hub is not None:
        table.add_row("hub", escape(json.dumps(entry.hub.model_dump(exclude_none=True))), "hub")
    console.print(table)


def compare_command(
    names: Names,
    diff_only: Annotated[bool, typer.Option("--diff-only", help="only rows in which they differ")] = False,
    as_json: Json = False,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Put two to six models side by side."""
    compared = open_atlas(config, settings).compare(names)
    if as_json:
        print_json(dict(compared.rows(diff_only=diff_only)))
        return
    table = Table("", *(escape(e.name) for e in compared.entries))
    for column, cells in compared.rows(diff_only=diff_only):
        table.add_row(column, *map(escape, cells))
    console.print(table)


def recommend_command(
    task: Annotated[str, typer.Argument(help="what the model is for, in a sentence")],
    field: Annotated[str | None, typer.Option("--field", help="field of science")] = None,
    modality: Modalities = None,
    use: Annotated[str | None, typer.Option(help="method that is to run on it, e.g. semievol")] = None,
    vram: Annotated[float | None, typer.Option("--vram-gb", help="memory of the machine in GB")] = None,
    method: Annotated[str, typer.Option("--method", help="inference, 4bit, lora, qlora or full")] = "inference",
    language: Annotated[list[str] | None, typer.Option("--language", help="ISO 639-1 code it must know")] = None,
    weights: Annotated[str, typer.Option(help="hub, any or none")] = "hub",
    k: Limit = 5,
    as_json: Json = False,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Say which models to start from, and why."""
    from evolvent.methods.atlas.budget import Budget
    from evolvent.methods.atlas.recommend import as_row

    found = open_atlas(config, settings).recommend(
        task,
        field=field,
        modalities=modality or (),
        use=use,
        budget=Budget(vram, method) if vram is not None else None,  # type: ignore[arg-type]  # checked there
        languages=language or (),
        weights=weights,
        k=k,
    )
    if as_json:
        unknown = [{"id": e.id, "checkpoint": c.hf_id if c else None, "reason": why} for e, c, why in found.unknown]
        print_json({"choices": [as_row(c) for c in found.choices], "unknown": unknown, "notices": found.notices})
    else:
        for rank, choice in enumerate(found.choices, start=1):
            parts = "  ".join(f"{name} {value:.2f}" for name, value in choice.parts.items())
            console.print(
                f"[bold]{rank}. {escape(choice.entry.name)}[/]  {choice.score:.2f}  ({parts})", highlight=False
            )
            console.print(f"   {escape(choice.reference)}", highlight=False, soft_wrap=True)
            console.print(f"   because {escape('; '.join(choice.reasons))}", highlight=False)
            console.print(f"   check   {escape('; '.join(choice.cautions))}", highlight=False, style="dim")
        if found.unknown:
            console.print(f"\nUnknown, so neither in nor out ({len(found.unknown)}):", highlight=False)
            for entry, checkpoint, why in found.unknown[:k]:
                place = checkpoint.hf_id or checkpoint.url if checkpoint else "no weights"
                console.print(f"   {escape(entry.name)} ({escape(place)}): {why}", highlight=False, soft_wrap=True)
        for notice in found.notices:
            errors.print(escape(notice), highlight=False)
    exit_if_nothing(found.choices)


def graph_command(
    name: Annotated[str | None, typer.Argument(help="model whose neighbours are shown")] = None,
    view: Annotated[str, typer.Option(help="similar, hub or lineage")] = "similar",
    cross_field: Annotated[bool, typer.Option("--cross-field", help="only models of other fields")] = False,
    to: Annotated[str | None, typer.Option("--to", help="show the way to that model")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="write the graph: .graphml, .gexf or .json")] = None,
    as_json: Json = False,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Show what a model is connected with and why, or write the whole graph."""
    atlas = open_atlas(config, settings)
    if out is not None:
        from evolvent.data.files import write_text
        from evolvent.methods.atlas.exports import graph_text

        form = out.suffix.removeprefix(".")
        write_text(out, graph_text(atlas.graph(view), form))  # type: ignore[arg-type]  # checked there
        console.print(str(out), highlight=False, soft_wrap=True)
        return
    if name is None:
        graph = atlas.graph(view)  # type: ignore[arg-type]  # checked there
        console.print(f"{graph.number_of_nodes()} nodes, {graph.number_of_edges()} edges ({view})", highlight=False)
        return
    if view == "lineage":
        graph = atlas.graph("lineage")
        entry = atlas[name]
        edges = [(a, b, d["kind"]) for a, b, d in graph.edges(data=True) if entry.id in (a, b)]
        if as_json:
            print_json([{"from": a, "to": b, "kind": kind} for a, b, kind in edges])
        for a, b, kind in [] if as_json else edges:
            console.print(f"{escape(a)} -> {escape(b)}  ({kind})", highlight=False)
        exit_if_nothing(edges)
        return
    found = atlas.neighbors(name, cross_field=cross_field) if to is None else atlas.path(name, to)
    _print_connections(found, as_json)
    exit_if_nothing(found)


def bridges_command(
    first: Annotated[str, typer.Argument(help="a field")],
    second: Annotated[str, typer.Argument(help="another one")],
    k: Limit = 10,
    as_json: Json = False,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Show the strongest connections between two fields."""
    found = open_atlas(config, settings).bridges(first, second, k)
    _print_connections(found, as_json)
    exit_if_nothing(found)


def timeline_command(
    where: Where = None,
    color: Annotated[str, typer.Option(help="column to count by")] = "survey_type",
    as_json: Json = False,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Count models by year and by another column."""
    from evolvent.methods.atlas.views import timeline

    points = timeline(open_atlas(config, settings).filter(where).rows, color)
    if as_json:
        print_json(points)
    else:
        groups = sorted({str(p["group"] or "unknown") for p in points})
        table = Table("year", *map(escape, groups))
        for year in sorted({p["month"][:4] for p in points}):
            mine = [str(p["group"] or "unknown") for p in points if p["month"].startswith(year)]
            table.add_row(year, *(str(mine.count(g) or "") for g in groups))
        console.print(table)
    exit_if_nothing(points)


def stats_command(as_json: Json = False, config: Config = None, settings: Settings = None) -> None:
    """Print the table in numbers."""
    counted = open_atlas(config, settings).stats()
    if as_json:
        print_json(counted)
        return
    table = Table("", "")
    for name, value in counted.items():
        if name != "matrix":
            text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
            table.add_row(name, text)
    console.print(table)


def applications_command(
    stage: Annotated[str | None, typer.Option(help="e.g. 'theorem proving'")] = None,
    field: Annotated[str | None, typer.Option("--field", help="field of science")] = None,
    as_json: Json = False,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """List applications in scientific discovery that the survey names."""
    rows = open_atlas(config, settings).applications(stage=stage, field=field)
    if as_json:
        print_json(rows)
    else:
        table = Table("stage", "field", "what", "name", "model")
        for r in rows:
            name = r["name"] or f"{r['citation']} {r['year']}"
            table.add_row(*map(escape, (r["stage"], r["field"], r["what"], name, r["atlas_model"] or "")))
        console.print(table)
    exit_if_nothing(rows)


def export_command(
    out: Annotated[Path, typer.Argument(help=".csv .json .jsonl .yaml .md .bib .graphml .gexf .parquet")],
    where: Where = None,
    form: Annotated[str | None, typer.Option("--format", help="in place of the ending")] = None,
    view: Annotated[str, typer.Option(help="of a graph: similar, hub or lineage")] = "similar",
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Write rows to a file."""
    atlas = open_atlas(config, settings)
    rows = atlas.filter(where).rows if where else None
    if rows is not None:
        exit_if_nothing(rows)
    atlas.export(out, rows, form, view)  # type: ignore[arg-type]  # checked there
    console.print(f"{len(atlas) if rows is None else len(rows)} rows  {out}", highlight=False, soft_wrap=True)


def cite_command(names: Names, config: Config = None, settings: Settings = None) -> None:
    """Print BibTeX."""
    atlas = open_atlas(config, settings)
    for name in names:
        console.print(atlas.cite(name), markup=False, highlight=False, soft_wrap=True)


def mine_command(
    card: Annotated[str | None, typer.Option("--card", help="print the model card of one of them")] = None,
    as_json: Json = False,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """List the models that you made with this toolkit, and what they go back to."""
    from evolvent.methods.atlas import artefacts

    atlas = open_atlas(config, settings)
    made = {a.id: a for a in atlas.artefacts()}
    if card is not None:
        if card not in made:
            raise DataError(f"no model {card!r} of yours; there are: {', '.join(made) or 'none'}")
        text = artefacts.card(made[card], atlas.entries, made)
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        return
    if as_json:
        print_json([a.row() for a in made.values()])
    else:
        table = Table("id", "method", "made from", "goes back to", "folder")
        for a in made.values():
            cells = (a.id, a.lineage.method, ", ".join(a.parents), ", ".join(artefacts.roots(a, made)), str(a.folder))
            table.add_row(*map(escape, cells))
        console.print(table)
    exit_if_nothing(made)


def _print_entries(rows: Sequence[Entry]) -> None:
    table = Table("id", "model", "venue", "field", "modalities", "type", "size", "weights")
    for e in rows:
        cells = (
            e.id,
            e.name,
            e.venue,
            ", ".join(e.fields),
            ", ".join(e.all_modalities),
            ", ".join(e.survey_type or ()),
        )
        table.add_row(*map(escape, cells), ", ".join(e.parameters), e.weights)
    console.print(table)


def _print_unknown(found: Filtered, unknown: str) -> None:
    if not found.unknown or unknown == "include":
        return
    if unknown == "exclude":
        errors.print(f"{len(found.unknown)} rows left out: a needed cell is unknown", highlight=False)
        return
    console.print(f"unknown, so neither in nor out ({len(found.unknown)}):", highlight=False)
    for entry, reasons in found.unknown:
        console.print(f"  {escape(entry.id)}: {'; '.join(reasons)}", highlight=False, soft_wrap=True)


def _print_connections(found: Sequence[Any], as_json: bool) -> None:
    if as_json:
        print_json([{"source": c.source, "target": c.target, "similarity": c.similarity, "why": c.why} for c in found])
        return
    table = Table("from", "to", "similarity", "because of")
    for c in found:
        table.add_row(escape(c.source), escape(c.target), f"{c.similarity:.2f}", escape(c.why))
    console.print(table)
