"""Options that the verbs of `evolvent atlas` share, and what they are turned into."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from evolvent.cli.console import errors
from evolvent.errors import ConfigError

if TYPE_CHECKING:
    from evolvent.methods.atlas.atlas import Atlas

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


def open_atlas(
    config: Path | None,
    settings: Sequence[str] | None,
    offline: bool | None = None,
    given: dict[str, Any] | None = None,
) -> Atlas:
    """The table with settings of a file, the environment and flags."""
    from evolvent.methods.atlas.atlas import Atlas
    from evolvent.methods.atlas.config import AtlasConfig

    flags = {key: yaml.safe_load(value) for key, value in pairs_of(settings, "--set").items()} | (given or {})
    if offline is not None:
        flags["offline"] = offline
    return Atlas.load(AtlasConfig.read(config, flags))


def pairs_of(given: Sequence[str] | None, option: str) -> dict[str, str]:
    """KEY=VALUE pairs of an option."""
    found = {}
    for pair in given or ():
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"{option} {pair}: expected KEY=VALUE")
        found[key] = value
    return found


def print_json(value: Any) -> None:
    """A value as JSON on standard output."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=1, default=str))


def exit_if_nothing(found: Any) -> None:
    """Exit code 1 when nothing was found."""
    if not found:
        errors.print("nothing found")
        raise typer.Exit(1)
