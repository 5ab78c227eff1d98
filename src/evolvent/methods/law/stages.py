"""What the results of LAW's stages depend on, and how a round is read back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evolvent.methods.law.config import LawConfig
from evolvent.methods.law.patch import Patch, load_patches
from evolvent.methods.law.reverting import PATCHES
from evolvent.methods.law.washing import LayerEdit

QUESTIONS = ("probe_mode", "max_new_tokens", "contexts", "seed", "attacks")
TARGETS = (
    "target",
    "target_steps",
    "target_dtype",
    "target_lr",
    "clamp",
    "kl_factor",
    "weight_decay",
    "target_loss",
)
WASH = (
    "method",
    "t_grid",
    "anti",
    "ascent_steps",
    "ascent_lr",
    "budget_ratio",
    "beta_rel",
    "lam",
    "lam_scale",
    "ridge",
    "key_contexts",
    "contrast",
    "mu_ratio",
    "protect",
    "sentences",
    "even",
    "edit_position",
    "eliminate",
    "gone_margin",
    "stats_tokens",
)


def settings(args: LawConfig, names: Sequence[str]) -> dict[str, Any]:
    """Some settings, as JSON has them."""
    stored = args.model_dump(mode="json")
    return {name: stored[name] for name in names}


def asked(args: LawConfig) -> dict[str, Any]:
    """How facts are asked for. Few-shot and lens ask in the audit only: with them, older measurements stay good."""
    found = settings(args, QUESTIONS)
    return {**found, "attacks": [a for a in found["attacks"] if a not in ("few-shot", "lens")]}


def load_round(folder: Path) -> tuple[list[LayerEdit], dict[str, Patch]]:
    """Edits and patches of a finished round, in order."""
    edits = [LayerEdit(**e) for e in json.loads((folder / "edits.json").read_text())]
    return edits, load_patches(folder / PATCHES)
