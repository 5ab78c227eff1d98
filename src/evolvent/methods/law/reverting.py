"""From a washed model back to the original, bit for bit, with the patches of its run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from evolvent.errors import ConfigError, DataError
from evolvent.methods.law.decoder import Decoder
from evolvent.methods.law.patch import Patch, load_patches, undo
from evolvent.models.quiet import quiet
from evolvent.models.resolve import load_local
from evolvent.runs.lineage import Lineage, write_lineage

UNDO = "undo"
PATCHES = "patches.safetensors"


def undo_patches(decoder: Decoder, patches: Sequence[Patch]) -> None:
    """Take patches back, last first: all of them or, when one does not fit, none.

    Raises:
        ModelError: the weights are not those that the patches made.
    """
    by_name = {p.name: p for p in decoder.projections}
    restored: dict[str, torch.Tensor] = {}
    for patch in reversed(patches):
        weight = restored.get(patch.name, by_name[patch.name].weight)
        restored[patch.name] = undo(patch, weight)
    for name, weight in restored.items():
        by_name[name].write(weight)


class AppliedPatches(dict[str, Patch]):
    """The patches that are in a decoder's weights: "round/block" -> patch, in the order in which they came."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    @property
    def digests(self) -> list[str]:
        """Of the edited weights."""
        return [patch.after for patch in self.values()]

    def apply(self, patches: Mapping[str, Patch]) -> None:
        """Add patches to the weights."""
        by_name = {p.name: p for p in self.decoder.projections}
        for key, patch in patches.items():
            projection = by_name[patch.name]
            projection.write((projection.weight.double() + patch.delta).to(projection.weight.dtype))
            self[key] = patch

    def take_back(self, round: int) -> None:
        """Undo the patches of the last round."""
        mine = [key for key in self if key.startswith(f"{round}/")]
        undo_patches(self.decoder, [self.pop(key) for key in mine])

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Inside, the model has its original weights."""
        patches = dict(self)
        undo_patches(self.decoder, list(patches.values()))
        try:
            yield
        finally:
            self.apply(patches)


@quiet()
def revert(run_folder: str | Path, output_dir: str | Path) -> Path:
    """Write the model as it was before a run; every restored matrix is checked against its digest.

    Args:
        run_folder: of the run that washed it, with `checkpoint/` and `undo/`.
        output_dir: gets the original model; must not exist yet.

    Raises:
        DataError: the run has not finished, or its undo file was deleted.
        ConfigError: the output folder exists.
        ModelError: the checkpoint was changed since.
    """
    run, target = Path(run_folder), Path(output_dir)
    checkpoint, patches = run / "checkpoint", run / UNDO / PATCHES
    if not checkpoint.is_dir():
        raise DataError(f"{run}: no checkpoint; this run has not finished")
    if not patches.is_file():
        raise DataError(f"{patches}: no such file; without it only the original model itself has the facts")
    if target.exists():
        raise ConfigError(f"{target} exists: choose another --out")
    stored = json.loads((checkpoint / "config.json").read_text())
    dtype = stored.get("dtype") or stored.get("torch_dtype") or "float32"
    model = load_local(checkpoint, dtype=str(dtype))
    undo_patches(Decoder(model), list(load_patches(patches).values()))
    temporary = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.module.save_pretrained(temporary)
    model.tokenizer.save_pretrained(temporary)
    write_lineage(temporary, Lineage(parent=str(checkpoint), method="law-revert"), place=target)
    temporary.rename(target)
    return target
