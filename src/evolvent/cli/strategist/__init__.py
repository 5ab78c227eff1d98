"""`evolvent strategist`: readable skills for games, learnt from self-play by search and reflection."""

from __future__ import annotations

import typer

from evolvent.cli.strategist import learning, looking, playing

app = typer.Typer(no_args_is_help=True, help=__doc__)
app.command("run")(learning.run)
app.command("probe")(learning.probe)
app.command("rl")(learning.rl)
app.command("fit-beliefs")(learning.fit_beliefs)
app.command("show")(looking.show)
app.command("ideas")(looking.ideas)
app.command("replay")(looking.replay)
app.command("exploit")(looking.exploit)
app.command("export")(looking.export)
app.command("import-openspiel")(looking.import_openspiel)
app.command("arena")(playing.arena)
app.command("play")(playing.play)
app.command("serve")(playing.serve)
