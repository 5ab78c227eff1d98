"""`evolvent atlas`: find, compare and load scientific language models.

Exit codes: 0 done, 1 nothing found, 2 bad use, 3 invalid data, 4 network.
"""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from evolvent.cli.atlas import changing, outside, reading
from evolvent.errors import DataError


class _AtlasGroup(TyperGroup):
    """Here invalid data has an exit code of its own."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # typer's own class of contexts
        try:
            return super().invoke(ctx)
        except DataError as error:
            error.exit_code = 3
            raise


app = typer.Typer(no_args_is_help=True, cls=_AtlasGroup, help=__doc__)
app.command("list")(reading.list_command)
app.command("search")(reading.search_command)
app.command("show")(reading.show_command)
app.command("compare")(reading.compare_command)
app.command("recommend")(reading.recommend_command)
app.command("graph")(reading.graph_command)
app.command("bridges")(reading.bridges_command)
app.command("timeline")(reading.timeline_command)
app.command("stats")(reading.stats_command)
app.command("applications")(reading.applications_command)
app.command("export")(reading.export_command)
app.command("cite")(reading.cite_command)
app.command("mine")(reading.mine_command)
app.command("add")(changing.add_command)
app.command("edit")(changing.edit_command)
app.command("remove")(changing.remove_command)
app.command("undo")(changing.undo_command)
app.command("log")(changing.log_command)
app.command("validate")(changing.validate_command)
app.command("import")(changing.import_command)
app.command("refresh")(changing.refresh_command)
app.command("diff")(changing.diff_command)
app.command("hub")(outside.hub_command)
app.command("links")(outside.links_command)
app.command("load")(outside.load_command)
app.command("build")(outside.build_command)
app.command("serve")(outside.serve_command)
