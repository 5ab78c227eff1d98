"""Verbs that reach outside the table: the hub, links, weights, the web page."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from evolvent.cli.atlas.options import (
    Config,
    Json,
    Name,
    Offline,
    Settings,
    Where,
    open_atlas,
    print_json,
)
from evolvent.cli.console import console, errors, progress

if TYPE_CHECKING:
    pass


def hub_command(
    names: Annotated[list[str] | None, typer.Argument(help="ids; default all")] = None,
    as_json: Json = False,
    offline: Offline = None,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Read licence, gating and true sizes from the hub: config.json and weight headers only."""
    atlas = open_atlas(config, settings, offline)
    with nullcontext() if as_json else progress() as on_progress:
        facts, failed, found = atlas.read_hub(names, on_progress)
    if as_json:
        told = {n: f.model_dump(mode="json") for n, f in facts.items()}
        print_json({"facts": told, "failed": failed, "findings": [vars(f) for f in found]})
    else:
        for finding in found:
            console.print(f"{finding.id}: {finding.code}: {escape(finding.text)}", highlight=False, soft_wrap=True)
        console.print(f"{len(facts)} repositories read, {len(failed)} not", highlight=False)
        for text in failed.values():
            errors.print(escape(text), highlight=False, soft_wrap=True)
    if failed and not facts:
        raise typer.Exit(4)


def links_command(
    where: Where = None,
    as_json: Json = False,
    offline: Offline = None,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Check whether the links answer."""
    from evolvent.methods.atlas.hub import check_links

    atlas = open_atlas(config, settings, offline)
    with nullcontext() if as_json else progress() as on_progress:
        answers = dict(check_links(atlas.filter(where).rows, atlas.args, on_progress))
    bad = {url: a for url, a in answers.items() if not (isinstance(a, int) and a < 400)}
    if as_json:
        print_json(answers)
    else:
        for url, answer in bad.items():
            console.print(f"{answer}  {escape(url)}", highlight=False, soft_wrap=True)
        console.print(f"{len(answers)} links, {len(bad)} do not answer", highlight=False)


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
    atlas = open_atlas(config, settings, offline, {k: v for k, v in given.items() if v})
    with console.status(f"loading {name}"):
        loaded = atlas.load_model(name, checkpoint=checkpoint, path=path, strict=strict, dtype=dtype)
    size = sum(p.numel() for p in loaded.model.parameters())
    console.print(
        f"{type(loaded.model).__name__}, {size:,} parameters\nfolder  {loaded.folder}", highlight=False, soft_wrap=True
    )


def build_command(
    out: Annotated[Path, typer.Option("--out", help="folder for index.html")],
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Write the table as one web page that needs nothing else."""
    path = open_atlas(config, settings).build(out)
    console.print(f"{path}  {path.stat().st_size / 1e3:.0f} kB", highlight=False, soft_wrap=True)


def serve_command(
    port: Annotated[int, typer.Option(help="of 127.0.0.1; 0 takes a free one")] = 8765,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Show the page with semantic search, on this machine only."""
    from evolvent.methods.atlas.serve import make_server

    server = make_server(open_atlas(config, settings), port)
    console.print(f"http://127.0.0.1:{server.server_port}/  (Ctrl-C ends)", highlight=False)
    try:
        server.serve_forever()
    finally:
        server.server_close()
