"""The sums of a ledger on disk: the upper triangle of S and all of B for each block, whole numbers in float64."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from evolvent.data.files import write_whole
from evolvent.errors import DataError
from evolvent.methods.law.ledger.columns import streamed
from evolvent.methods.law.spectral import Streamed
from evolvent.methods.law.statistics import packed, unpacked


def sums_digest(sums: Mapping[int, Streamed]) -> str:
    """SHA-256 over the sums of all blocks."""
    hasher = hashlib.sha256()
    for layer in sorted(sums):
        hasher.update(f"{layer} {sums[layer].count}".encode())
        hasher.update(packed(sums[layer].moment).numpy().tobytes())
        hasher.update(sums[layer].cross.numpy().tobytes())
    return hasher.hexdigest()


def save_sums(path: Path, sums: Mapping[int, Streamed], **notes: str) -> None:
    """Write them, with notes, completely or not at all."""
    tensors: dict[str, torch.Tensor] = {}
    for layer, found in sums.items():
        tensors[f"{layer}/moment"] = packed(found.moment)
        tensors[f"{layer}/cross"] = found.cross.contiguous()
        notes["count"] = str(found.count)
    write_whole(path, lambda new: save_file(tensors, new, metadata=notes))


def load_sums(path: Path, layers: Sequence[int]) -> dict[int, Streamed]:
    """Read what :func:`save_sums` wrote.

    Raises:
        DataError: there is no such file, or it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            count = int(file.metadata()["count"])
            return {
                layer: _read(file.get_tensor(f"{layer}/moment"), file.get_tensor(f"{layer}/cross"), count)
                for layer in layers
            }
    except Exception as error:  # safetensors' own class is not public
        raise DataError(f"{path}: not the sums of a ledger ({error}); only a copy of the file helps") from error


def _read(triangle: torch.Tensor, cross: torch.Tensor, count: int) -> Streamed:
    return streamed(unpacked(triangle, cross.shape[1]), cross, count)


def notes_of(path: Path) -> dict[str, str]:
    """What was noted beside sums."""
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())
