"""`evolvent law`: wash facts out of a model, look whether they are gone, bring them back."""

from __future__ import annotations

import typer

from evolvent.cli.law import ledger, running

app = typer.Typer(no_args_is_help=True, help="Wash facts out of a model by closed-form edits.")
app.command("run")(running.run)
app.command("probe")(running.probe)
app.command("facts")(running.facts_command)
app.command("revert")(running.revert)
app.command("report")(running.report)
app.add_typer(ledger.app, name="ledger")
demo = running.demo
