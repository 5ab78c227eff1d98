"""The washed model as a checkpoint with lineage, and beside it the patches that undo it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolvent.methods.law.patch import Patch, save_patches
from evolvent.methods.law.reverting import PATCHES, UNDO
from evolvent.models.local import LocalModel
from evolvent.models.quiet import quiet
from evolvent.runs.lineage import Lineage, write_lineage

WARNING = "The undo file of the run folder brings the facts back: do not ship it with these weights"


@quiet()
def publish(folder: Path, model: LocalModel, patches: Mapping[str, Patch], lineage: Lineage) -> Path:
    """Write `checkpoint/` and `undo/` into a folder; a checkpoint that is there is replaced when the new one is whole.

    Args:
        folder: of the run.
        model: the washed model.
        patches: all of its edits, in the order in which they were made.
        lineage: of the checkpoint.
    """
    target = folder / "checkpoint"
    temporary = target.with_name("checkpoint.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.module.save_pretrained(temporary)
    model.tokenizer.save_pretrained(temporary)
    write_lineage(temporary, lineage, place=target)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    undo = folder / UNDO
    undo.mkdir(exist_ok=True)
    save_patches(undo / PATCHES, patches)
    return target


def before_and_after(metrics: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The plain metrics of the original and of the washed model, by the same names."""
    before = {k.removesuffix("/base"): v for k, v in metrics.items() if k.endswith("/base")}
    after = {k.removesuffix("/law"): v for k, v in metrics.items() if k.endswith("/law")}
    return before, after
