"""`evolvent law ledger`: erasure requests that come one by one, with receipts.

A request leaves neither its facts nor their keys behind; a release takes out all that was asked for so far.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from evolvent.cli.console import console, progress
from evolvent.cli.law.options import Corpus, FactsFile, References, TemplatesFile, facts_from
from evolvent.cli.options import ConfigFile, Settings, SkipBadRows, settings_from
from evolvent.errors import ConfigError, NothingSelectedError

if TYPE_CHECKING:
    from evolvent.methods.law.ledger import Ledger

app = typer.Typer(no_args_is_help=True, help=__doc__)

Folder = Annotated[Path, typer.Argument(help="folder of the ledger")]
OwnReceiptFile = Annotated[
    Path, typer.Option("--receipt", help="the requester's own receipt; the ledger keeps no copy")
]


@app.command("add")
def add(
    folder: Folder,
    facts: FactsFile,
    receipt: OwnReceiptFile,
    request: Annotated[str | None, typer.Option("--request", help="id of the request; random if left out")] = None,
    model: Annotated[str | None, typer.Option("--model", help='of a new ledger: "embedded", folder or hub id')] = None,
    references: References = None,
    corpus: Corpus = None,
    templates: TemplatesFile = None,
    skip_bad_rows: SkipBadRows = False,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Take a request in. The first one begins the ledger: it says the model, references, corpus and settings."""
    from evolvent.methods.law.ledger import Ledger

    rows = facts_from(facts, templates, skip_bad_rows)
    with progress() as on_progress:
        if not (folder / "ledger.json").is_file():
            ledger = _begin(folder, model or "embedded", references, corpus, templates, config, settings, on_progress)
        elif model or references or corpus or config or settings:
            raise ConfigError(f"{folder}: model, references, corpus and settings were fixed when this ledger began")
        else:
            ledger = Ledger(folder, on_progress=on_progress)
        added = ledger.add(rows, receipt=receipt, request=request)
    console.print(
        f"request {added.request}: {added.washed} of {added.facts} facts are known and were added\n"
        f"receipt {receipt}  (keep it: only it opens the commitments)",
        soft_wrap=True,
        highlight=False,
    )


@app.command("list")
def list_requests(folder: Folder) -> None:
    """The requests so far, with their chain checked."""
    from evolvent.methods.law.ledger import Ledger

    ledger = Ledger(folder)
    table = Table("", "request", "time", "facts", "known", "receipt")
    for receipt in ledger.receipts():
        cells = (receipt.number, receipt.request, receipt.time, receipt.facts, receipt.washed, receipt.sha256[:12])
        table.add_row(*map(str, cells))
    console.print(table)
    head = ledger.head
    console.print(
        f"{head.facts} facts in {head.requests} requests, blocks {', '.join(map(str, head.layers))} of {head.model}; "
        "the chain of receipts is whole",
        highlight=False,
    )


@app.command("release")
def release(
    folder: Folder,
    out: Annotated[Path, typer.Option("--out", help="folder that gets checkpoint/ and undo/")],
    settings: Settings = None,
) -> None:
    """Wash all that was asked for so far out of the original model."""
    from evolvent.methods.law.config import LawConfig
    from evolvent.methods.law.ledger import Ledger
    from evolvent.methods.law.ledger import release as wash

    given: dict[str, Any] = {}
    if settings:
        changed = settings_from(LawConfig, None, settings, {"output_dir": out})
        given = changed.model_dump(exclude_unset=True, exclude={"output_dir"})
    with console.status("solving"):
        done = wash(Ledger(folder), out, changes=given)
    table = Table("block", "λ", "β", "‖Δ‖ / ‖W‖")
    for edit in done.edits:
        table.add_row(str(edit.layer), f"{edit.lam:.3g}", f"{edit.beta:.4f}", f"{edit.norm:.3f}")
    console.print(table)
    console.print(
        f"{done.facts} facts of {done.requests} requests, perplexity x{done.perplexity_ratio:.3f}", highlight=False
    )
    console.print(f"model   {done.model}", soft_wrap=True, highlight=False)


@app.command("verify")
def verify(
    folder: Folder,
    receipt: OwnReceiptFile,
    facts: FactsFile,
    checkpoint: Annotated[Path, typer.Option("--model", help="released checkpoint that is asked")],
    templates: TemplatesFile = None,
    attacks: Annotated[str, typer.Option(help="comma-separated, see the setting `attacks`")] = "paraphrase,chat,4bit",
    output: Annotated[Path | None, typer.Option("--json", help="write the certificate there")] = None,
) -> None:
    """Was this fact in that request, and is it gone from these weights?"""
    from evolvent.data.files import write_json
    from evolvent.methods.law.ledger import Ledger
    from evolvent.methods.law.ledger import verify as check

    rows = facts_from(facts, templates, False)
    names = [name.strip() for name in attacks.split(",") if name.strip()]
    with console.status(f"asking for {len(rows)} facts"):
        found = check(Ledger(folder), receipt, rows, checkpoint, attacks=names)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(output, found.certificate, indent=2)
    table = Table("asked by", "facts", "came back", "at most")
    for name, row in found.certificate["evidence"]["attacks"].items():
        table.add_row(name, str(row["tried"]), str(row["recovered"]), f"{row['at_most']:.1%}")
    console.print(table)
    console.print(
        f"request {found.request}, number {found.number} of the chain: {found.facts} facts were in it, the model knew "
        f"{found.washed} of them, {len(found.recovered)} come back",
        highlight=False,
    )
    if found.recovered:
        raise typer.Exit(NothingSelectedError.exit_code)


def _begin(
    folder: Path,
    model: str,
    references: str | None,
    corpus: str | None,
    templates: Path | None,
    config: Path | None,
    settings: list[str] | None,
    on_progress: Any,
) -> Ledger:
    from evolvent.methods.law.config import LawConfig
    from evolvent.methods.law.ledger import Ledger

    return Ledger.begin(
        folder,
        model=model,
        args=settings_from(LawConfig, config, settings, {"output_dir": folder}),
        references=facts_from(references, templates, False) if references else (),
        corpus=corpus,
        on_progress=on_progress,
    )
