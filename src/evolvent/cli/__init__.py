"""The command line: one command a method. It parses, calls and prints; what happens is in the library.

Exit codes: 0 done, 2 bad input, 3 an endpoint failed, 4 nothing was selected, or facts are left, 130 interrupted.
"""

from __future__ import annotations

import logging
import os
import sys

import typer

from evolvent.cli import atlas, law, models, selfparam, semievol, strategist
from evolvent.cli.console import errors
from evolvent.errors import EvolventError, NothingSelectedError

INTERRUPTED = 130  # what Typer makes of a KeyboardInterrupt

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(semievol.app, name="semievol")
app.add_typer(law.app, name="law")
app.add_typer(atlas.app, name="atlas")
app.add_typer(selfparam.app, name="selfparam")
app.add_typer(strategist.app, name="strategist")
app.command("evaluate")(models.evaluate_command)
app.command("log")(models.log_command)
app.command("diff")(models.diff_command)

demo = typer.Typer(no_args_is_help=True, help="A whole run on real text with the embedded model; needs no download.")
app.add_typer(demo, name="demo")
demo.command("semievol")(semievol.demo)
demo.command("law")(law.demo)


def main() -> None:
    """Entry point: errors that we raise on purpose are one message, not a traceback (--debug shows it)."""
    # torch runs backwards in a thread pool of its own: the forward one must sleep then, not spin.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app(args=[a for a in arguments if a != "--debug"], prog_name="evolvent")
    except EvolventError as error:
        if debug:
            raise
        label = "nothing selected" if isinstance(error, NothingSelectedError) else "error"
        errors.print(f"[bold red]{label}:[/] ", end="")
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            errors.print("interrupted; the same command goes on from here")
        raise
