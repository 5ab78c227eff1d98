"""`evolvent atlas`: find, compare and load scientific language models.

Exit codes: 0 done, 1 nothing found, 2 bad use, 3 invalid data, 4 network.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from evolvent.cli.console import console, errors, progress, shortened
from evolvent.errors import ConfigError, DataError

if TYPE_CHECKING:
    from evolvent.methods.atlas.atlas import Atlas
    from evolvent.methods.atlas.entry import Entry
    from evolvent.methods.atlas.where import Filtered


class _AtlasGroup(TyperGroup):
    """Here invalid data has an exit code of its own."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # typer's own class of contexts
        try:
            return super().invoke(ctx)
        except DataError as error:
            error.exit_code = 3
            raise


app = typer.Typer(no_args_is_help=True, cls=_AtlasGroup, help=__doc__)

Name = Annotated[str, typer.Argument(help="id, name or alias of a model")]
Names = Annotated[list[str], typer.Argument(help="ids, names or aliases")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Where = Annotated[
    str | None, typer.Option("--where", help='filter, e.g. "field:chemistry params:<=8B weights:hub year:>=2023"')
]
UnknownRows = Annotated[str | None, typer.Option("--unknown", help="rows with null there: exclude, list or include")]
Offline = Annotated[bool | None, typer.Option("--offline/--online", help="never use the network")]
Config = Annotated[Path | None, typer.Option("--config", help="YAML file of settings")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, over file and environment")]
Fields = Annotated[list[str] | None, typer.Option("--field", help="field of science")]
Modalities = Annotated[list[str] | None, typer.Option("--modality", help="text, molecule, protein, image ...")]
Limit = Annotated[int, typer.Option("-k", "--limit", min=1, help="how many")]


@app.command("list")
def list_command(
    where: Where = None,
    unknown: UnknownRows = None,
    as_json: Json = False,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """List the rows that fit a filter."""
    atlas = _open(config, settings)
    found = atlas.filter(where, unknown=unknown)  # type: ignore[arg-type]  # checked by the settings
    listed = unknown or atlas.args.unknown
    if as_json:
        _print_json([e.row() for e in found.rows])
    else:
        _print_entries(found.rows)
        _print_unknown(found, listed)
    _exit_if_nothing(found.rows)


@app.command("search")
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
    hits = _open(config, settings).search(query, k, mode, where)  # type: ignore[arg-type]  # checked there
    if as_json:
        _print_json(
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
    _exit_if_nothing(hits)


@app.command("show")
def show_command(
    name: Name,
    as_json: Json = False,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Show everything about a model, with the source of each fact."""
    entry = _open(config, settings)[name]
    if as_json:
        _print_json(entry.row())
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


@app.command("compare")
def compare_command(
    names: Names,
    diff_only: Annotated[bool, typer.Option("--diff-only", help="only rows in which they differ")] = False,
    as_json: Json = False,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Put two to six models side by side."""
    compared = _open(config, settings).compare(names)
    if as_json:
        _print_json(dict(compared.rows(diff_only=diff_only)))
        return
    table = Table("", *(escape(e.name) for e in compared.entries))
    for column, cells in compared.rows(diff_only=diff_only):
        table.add_row(column, *map(escape, cells))
    console.print(table)


@app.command("recommend")
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

    found = _open(config, settings).recommend(
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
        _print_json({"choices": [as_row(c) for c in found.choices], "unknown": unknown, "notices": found.notices})
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
    _exit_if_nothing(found.choices)


@app.command("graph")
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
    atlas = _open(config, settings)
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
            _print_json([{"from": a, "to": b, "kind": kind} for a, b, kind in edges])
        for a, b, kind in [] if as_json else edges:
            console.print(f"{escape(a)} -> {escape(b)}  ({kind})", highlight=False)
        _exit_if_nothing(edges)
        return
    found = atlas.neighbors(name, cross_field=cross_field) if to is None else atlas.path(name, to)
    _print_connections(found, as_json)
    _exit_if_nothing(found)


@app.command("bridges")
def bridges_command(
    first: Annotated[str, typer.Argument(help="a field")],
    second: Annotated[str, typer.Argument(help="another one")],
    k: Limit = 10,
    as_json: Json = False,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Show the strongest connections between two fields."""
    found = _open(config, settings).bridges(first, second, k)
    _print_connections(found, as_json)
    _exit_if_nothing(found)


@app.command("timeline")
def timeline_command(
    where: Where = None,
    color: Annotated[str, typer.Option(help="column to count by")] = "survey_type",
    as_json: Json = False,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Count models by year and by another column."""
    from evolvent.methods.atlas.views import timeline

    points = timeline(_open(config, settings).filter(where).rows, color)
    if as_json:
        _print_json(points)
    else:
        groups = sorted({str(p["group"] or "unknown") for p in points})
        table = Table("year", *map(escape, groups))
        for year in sorted({p["month"][:4] for p in points}):
            mine = [str(p["group"] or "unknown") for p in points if p["month"].startswith(year)]
            table.add_row(year, *(str(mine.count(g) or "") for g in groups))
        console.print(table)
    _exit_if_nothing(points)


@app.command("stats")
def stats_command(as_json: Json = False, config: Config = None, settings: Settings = None) -> None:
    """Print the table in numbers."""
    counted = _open(config, settings).stats()
    if as_json:
        _print_json(counted)
        return
    table = Table("", "")
    for name, value in counted.items():
        if name != "matrix":
            text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
            table.add_row(name, text)
    console.print(table)


@app.command("applications")
def applications_command(
    stage: Annotated[str | None, typer.Option(help="e.g. 'theorem proving'")] = None,
    field: Annotated[str | None, typer.Option("--field", help="field of science")] = None,
    as_json: Json = False,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """List applications in scientific discovery that the survey names."""
    rows = _open(config, settings).applications(stage=stage, field=field)
    if as_json:
        _print_json(rows)
    else:
        table = Table("stage", "field", "what", "name", "model")
        for r in rows:
            name = r["name"] or f"{r['citation']} {r['year']}"
            table.add_row(*map(escape, (r["stage"], r["field"], r["what"], name, r["atlas_model"] or "")))
        console.print(table)
    _exit_if_nothing(rows)


@app.command("export")
def export_command(
    out: Annotated[Path, typer.Argument(help=".csv .json .jsonl .yaml .md .bib .graphml .gexf .parquet")],
    where: Where = None,
    form: Annotated[str | None, typer.Option("--format", help="in place of the ending")] = None,
    view: Annotated[str, typer.Option(help="of a graph: similar, hub or lineage")] = "similar",
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Write rows to a file."""
    atlas = _open(config, settings)
    rows = atlas.filter(where).rows if where else None
    if rows is not None:
        _exit_if_nothing(rows)
    atlas.export(out, rows, form, view)  # type: ignore[arg-type]  # checked there
    console.print(f"{len(atlas) if rows is None else len(rows)} rows  {out}", highlight=False, soft_wrap=True)


@app.command("cite")
def cite_command(names: Names, config: Config = None, settings: Settings = None) -> None:
    """Print BibTeX."""
    atlas = _open(config, settings)
    for name in names:
        console.print(atlas.cite(name), markup=False, highlight=False, soft_wrap=True)


@app.command("add")
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
    entry = _open(config, settings).add(given, status="draft" if draft else None)
    console.print(f"added {entry.id}", highlight=False)


@app.command("edit")
def edit_command(
    name: Name,
    cells: Annotated[list[str], typer.Argument(help="COLUMN=VALUE; lists as [a, b]; null for unknown")],
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Change cells of a row."""
    entry = _open(config, settings).edit(name, **_cells(cells))
    console.print(f"edited {entry.id}", highlight=False)


@app.command("remove")
def remove_command(name: Name, config: Config = None, settings: Settings = None) -> None:
    """Take a row out of your table (undo brings it back)."""
    _open(config, settings).remove(name)
    console.print("removed", highlight=False)


@app.command("undo")
def undo_command(config: Config = None, settings: Settings = None) -> None:
    """Take back the last change."""
    done = _open(config, settings).undo()
    console.print(f"took back {done.action} of {done.when} ({len(done.changes)} cells)", highlight=False)


@app.command("log")
def log_command(as_json: Json = False, config: Config = None, settings: Settings = None) -> None:
    """Print every change to your table."""
    actions = _open(config, settings).history()
    if as_json:
        from dataclasses import asdict

        _print_json([asdict(a) for a in actions])
        return
    for a in actions:
        where = f" of {a.undoes}" if a.undoes else f" {a.note}" if a.note else ""
        console.print(f"{a.n}  {a.when}  {escape(a.who)}  {a.action}{escape(where)}", highlight=False)
        for c in a.changes[:20]:
            old, new = ("", c.id) if c.cell == "*" else (c.old, c.new)
            console.print(f"     {c.id} {c.cell}: {escape(str(old))} -> {escape(str(new))}", highlight=False)


@app.command("validate")
def validate_command(config: Config = None, settings: Settings = None) -> None:
    """Check every rule over the whole table."""
    atlas = _open(config, settings)
    problems = atlas.validate()
    for text in problems:
        console.print(escape(text), highlight=False, soft_wrap=True)
    for text in atlas.warnings():
        errors.print(escape(text), highlight=False, soft_wrap=True)
    if problems:
        raise typer.Exit(3)
    console.print(f"{len(atlas)} rows, no problem", highlight=False)


@app.command("import")
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

    atlas = _open(config, settings)
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
    added = atlas.import_rows(file, kind, columns=_pairs(columns, "--columns"), defaults=defaults)
    console.print(f"added {len(added)} rows", highlight=False)


@app.command("refresh")
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
    _refresh(_open(config, settings, offline), revision, dry_run, force, sections)


@app.command("diff")
def diff_command(
    revision: Annotated[str | None, typer.Argument(help="a revision of the list; default your own changes")] = None,
    sections: Annotated[list[str] | None, typer.Option("--map", help="'SECTION=modality,modality'")] = None,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Show what a revision of the list would change, or what you changed."""
    atlas = _open(config, settings)
    if revision is not None:
        _refresh(atlas, revision, True, True, sections)
        return
    from evolvent.methods.atlas.merge import MergeReport
    from evolvent.methods.atlas.overlay import living

    mine = [c for a in living(atlas.history()) for c in a.changes]
    console.print(MergeReport(changes=mine).to_diff(), markup=False, highlight=False, soft_wrap=True)
    _exit_if_nothing(mine)


@app.command("hub")
def hub_command(
    names: Annotated[list[str] | None, typer.Argument(help="ids; default all")] = None,
    as_json: Json = False,
    offline: Offline = None,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Read licence, gating and true sizes from the hub: config.json and weight headers only."""
    atlas = _open(config, settings, offline)
    with nullcontext() if as_json else progress() as on_progress:
        facts, failed, found = atlas.read_hub(names, on_progress)
    if as_json:
        told = {n: f.model_dump(mode="json") for n, f in facts.items()}
        _print_json({"facts": told, "failed": failed, "findings": [vars(f) for f in found]})
    else:
        for finding in found:
            console.print(f"{finding.id}: {finding.code}: {escape(finding.text)}", highlight=False, soft_wrap=True)
        console.print(f"{len(facts)} repositories read, {len(failed)} not", highlight=False)
        for text in failed.values():
            errors.print(escape(text), highlight=False, soft_wrap=True)
    if failed and not facts:
        raise typer.Exit(4)


@app.command("links")
def links_command(
    where: Where = None,
    as_json: Json = False,
    offline: Offline = None,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Check whether the links answer."""
    from evolvent.methods.atlas.hub import check_links

    atlas = _open(config, settings, offline)
    with nullcontext() if as_json else progress() as on_progress:
        answers = dict(check_links(atlas.filter(where).rows, atlas.args, on_progress))
    bad = {url: a for url, a in answers.items() if not (isinstance(a, int) and a < 400)}
    if as_json:
        _print_json(answers)
    else:
        for url, answer in bad.items():
            console.print(f"{answer}  {escape(url)}", highlight=False, soft_wrap=True)
        console.print(f"{len(answers)} links, {len(bad)} do not answer", highlight=False)


@app.command("load")
def load_command(
    name: Name,
    checkpoint: Annotated[str | None, typer.Option(help="hub id, label, size or variant")] = None,
    path: Annotated[Path | None, typer.Option(help="folder with weights downloaded by hand")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 ...")] = "auto",
    strict: Annotated[bool, typer.Option("--strict", help="fail when it is not what the row says")] = False,
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="accept pickle weights")] = False,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="run the checkpoint's code")] = False,
    offline: Offline = None,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Download a model, load it once, and say what it is."""
    given = {"allow_pickle": allow_pickle, "trust_remote_code": trust_remote_code}
    atlas = _open(config, settings, offline, {k: v for k, v in given.items() if v})
    with console.status(f"loading {name}"):
        loaded = atlas.load_model(name, checkpoint=checkpoint, path=path, strict=strict, dtype=dtype)
    size = sum(p.numel() for p in loaded.model.parameters())
    console.print(
        f"{type(loaded.model).__name__}, {size:,} parameters\nfolder  {loaded.folder}", highlight=False, soft_wrap=True
    )


@app.command("mine")
def mine_command(
    card: Annotated[str | None, typer.Option("--card", help="print the model card of one of them")] = None,
    as_json: Json = False,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """List the models that you made with this toolkit, and what they go back to."""
    from evolvent.methods.atlas import artefacts

    atlas = _open(config, settings)
    made = {a.id: a for a in atlas.artefacts()}
    if card is not None:
        if card not in made:
            raise DataError(f"no model {card!r} of yours; there are: {', '.join(made) or 'none'}")
        text = artefacts.card(made[card], atlas.entries, made)
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        return
    if as_json:
        _print_json([a.row() for a in made.values()])
    else:
        table = Table("id", "method", "made from", "goes back to", "folder")
        for a in made.values():
            cells = (a.id, a.lineage.method, ", ".join(a.parents), ", ".join(artefacts.roots(a, made)), str(a.folder))
            table.add_row(*map(escape, cells))
        console.print(table)
    _exit_if_nothing(made)


@app.command("build")
def build_command(
    out: Annotated[Path, typer.Option("--out", help="folder for index.html")],
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Write the table as one web page that needs nothing else."""
    path = _open(config, settings).build(out)
    console.print(f"{path}  {path.stat().st_size / 1e3:.0f} kB", highlight=False, soft_wrap=True)


@app.command("serve")
def serve_command(
    port: Annotated[int, typer.Option(help="of 127.0.0.1; 0 takes a free one")] = 8765,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Show the page with semantic search, on this machine only."""
    from evolvent.methods.atlas.serve import make_server

    server = make_server(_open(config, settings), port)
    console.print(f"http://127.0.0.1:{server.server_port}/  (Ctrl-C ends)", highlight=False)
    try:
        server.serve_forever()
    finally:
        server.server_close()


# ------------------------------------------------------------------------------------------------ parts


def _open(
    config: Path | None,
    settings: Sequence[str] | None,
    offline: bool | None = None,
    given: dict[str, Any] | None = None,
) -> Atlas:
    from evolvent.methods.atlas.atlas import Atlas
    from evolvent.methods.atlas.config import AtlasConfig

    flags = {key: yaml.safe_load(value) for key, value in _pairs(settings, "--set").items()} | (given or {})
    if offline is not None:
        flags["offline"] = offline
    return Atlas.load(AtlasConfig.read(config, flags))


def _pairs(given: Sequence[str] | None, option: str) -> dict[str, str]:
    found = {}
    for pair in given or ():
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"{option} {pair}: expected KEY=VALUE")
        found[key] = value
    return found


def _cells(given: Sequence[str]) -> dict[str, Any]:
    """COLUMN=VALUE as cells: lists and tables in YAML, everything else as it stands; null is unknown."""
    from evolvent.methods.atlas.entry import LISTS

    found: dict[str, Any] = {}
    for column, text in _pairs(given, "cell").items():
        structured = column in (*LISTS, "provenance", "extra", "hub", "year", "source_order", "in_survey_tables")
        try:
            found[column] = yaml.safe_load(text) if structured or text == "null" else text
        except yaml.YAMLError as error:
            raise ConfigError(f"{column}={text}: not YAML: {str(error).splitlines()[0]}") from error
    return found


def _refresh(atlas: Atlas, revision: str | None, dry_run: bool, force: bool, sections: Sequence[str] | None) -> None:
    named = {name: value.split(",") for name, value in _pairs(sections, "--map").items()}
    report = atlas.refresh(revision, dry_run=dry_run, force=force, sections=named)
    console.print(report.to_diff(), markup=False, highlight=False, soft_wrap=True)
    counted = ", ".join(f"{n} {name}" for name, n in report.counts().items() if n) or "nothing changed"
    console.print(f"{'would be: ' if dry_run else ''}{counted}", highlight=False)


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
        _print_json([{"source": c.source, "target": c.target, "similarity": c.similarity, "why": c.why} for c in found])
        return
    table = Table("from", "to", "similarity", "because of")
    for c in found:
        table.add_row(escape(c.source), escape(c.target), f"{c.similarity:.2f}", escape(c.why))
    console.print(table)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=1, default=str))


def _exit_if_nothing(found: Any) -> None:
    if not found:
        errors.print("nothing found")
        raise typer.Exit(1)
