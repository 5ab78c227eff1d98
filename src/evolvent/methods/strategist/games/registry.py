"""The games by name."""

from __future__ import annotations

from inspect import signature
from typing import Any

from evolvent.errors import ConfigError
from evolvent.methods.strategist.games.protocol import Game


def make_game(name: str, **settings: Any) -> Game:
    """A game from its name and settings.

    Args:
        name: "gops", "avalon", or "openspiel:" and a game string of OpenSpiel.
        settings: see :class:`~evolvent.methods.strategist.games.gops.Gops` and
            :class:`~evolvent.methods.strategist.games.avalon.Avalon`.

    Raises:
        ConfigError: an unknown name or setting, or a setting that is out of bounds.
    """
    if name.startswith("openspiel:"):
        from evolvent.methods.strategist.games.openspiel import SpielGame

        return _built(SpielGame, name, {"spiel_name": name.removeprefix("openspiel:"), **settings})
    if name == "gops":
        from evolvent.methods.strategist.games.gops import Gops

        return _built(Gops, name, settings)
    if name == "avalon":
        from evolvent.methods.strategist.games.avalon import Avalon

        return _built(Avalon, name, settings)
    raise ConfigError(f"unknown game {name!r}; there are 'gops', 'avalon' and 'openspiel:NAME'")


def _built(kind: Any, name: str, settings: dict[str, Any]) -> Game:
    known = [key for key in signature(kind).parameters if key != "spiel_name"]
    if unknown := [key for key in settings if key not in known and key != "spiel_name"]:
        raise ConfigError(f"{name}: unknown setting {unknown[0]!r}; there are {', '.join(known) or 'none'}")
    game: Game = kind(**settings)
    return game
