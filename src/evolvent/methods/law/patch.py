"""An edit as it is stored: low rank, and reversible to the last bit.

The factors are rounded to integers on a grid for each row and column, so small that their product has no rounding in
float64, whatever the order of the sums. So the edited weights W' = round(W + Δ) are the same on every machine, and the
original bits are those of round(W' − Δ) with a correction that is mostly zeros and packs well.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from evolvent.errors import DataError, ModelError

GRID_BITS = 20  # of a factor's entry; products have 40 bits, and sums of 4096 of them fit the 53 bits of float64
_INTEGERS = {torch.float32: np.uint32, torch.bfloat16: np.uint16, torch.float16: np.uint16, torch.float64: np.uint64}


@dataclass(frozen=True)
class Patch:
    """One edit of one matrix: Δ = (left · 2^rows) (right · 2^columns), exactly.

    Attributes:
        name: of the weight.
        left: integers (d, r); rows: exponents (d,).
        right: integers (r, m); columns: exponents (m,).
        correction: packed difference between the original bits and those of round(W' − Δ).
        before: SHA-256 of the original weight; after: of the edited one.
    """

    name: str
    left: Tensor
    rows: Tensor
    right: Tensor
    columns: Tensor
    correction: bytes
    before: str
    after: str

    @property
    def delta(self) -> Tensor:
        """Δ (d, m), float64."""
        product = self.left.double() @ self.right.double()
        return torch.ldexp(torch.ldexp(product, self.rows[:, None]), self.columns[None, :])

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """Δ as a product of (d, r) and (r, m), float64: an adapter's B and A."""
        return torch.ldexp(self.left.double(), self.rows[:, None]), torch.ldexp(
            self.right.double(), self.columns[None, :]
        )


def make_patch(name: str, weight: Tensor, left: Tensor, right: Tensor) -> tuple[Patch, Tensor]:
    """The patch that adds left @ right to a weight, and the patched weight in its own type.

    Args:
        name: of the weight.
        weight: W (d, m).
        left: (d, r); right: (r, m), float64.
    """
    if left.shape[1] > min(left.shape[0], 1 << 12):
        left, right = torch.eye(left.shape[0], dtype=left.dtype), left @ right
    whole_left, rows = _on_grid(left, dim=1)
    whole_right, columns = _on_grid(right, dim=0)
    patch = Patch(name, whole_left, rows, whole_right, columns, b"", digest(weight), "")
    delta = patch.delta
    edited = (weight.double() + delta).to(weight.dtype)
    if not bool(torch.isfinite(edited).all()):
        raise ModelError(f"{name}: the edited weight is not finite; lower beta_rel, or use dtype float32")
    restored = (edited.double() - delta).to(weight.dtype)
    correction = _packed(_bits(weight) ^ _bits(restored))
    return Patch(name, whole_left, rows, whole_right, columns, correction, patch.before, digest(edited)), edited


def undo(patch: Patch, weight: Tensor) -> Tensor:
    """The original weight, bit for bit.

    Raises:
        ModelError: the weight is not the one that this patch made.
    """
    if digest(weight) != patch.after:
        raise ModelError(f"{patch.name}: these weights are not those that the patch was made for; nothing was changed")
    restored = (weight.double() - patch.delta).to(weight.dtype)
    bits = _bits(restored) ^ _unpacked(patch.correction, weight)
    original = torch.from_numpy(bits.view(np.uint8).copy()).view(weight.dtype).reshape(weight.shape)
    if digest(original) != patch.before:
        raise ModelError(f"{patch.name}: the patch is damaged; nothing was changed")
    return original


def save_patches(path: Path, patches: Mapping[str, Patch]) -> None:
    """Write patches, in the order in which they were applied."""
    tensors: dict[str, Tensor] = {}
    notes = []
    for key, patch in patches.items():
        for part in ("left", "rows", "right", "columns"):
            tensors[f"{key}/{part}"] = getattr(patch, part).contiguous()
        tensors[f"{key}/correction"] = torch.frombuffer(bytearray(patch.correction), dtype=torch.uint8)
        notes.append({"key": key, "name": patch.name, "before": patch.before, "after": patch.after})
    temporary = path.with_suffix(".new")
    save_file(tensors, temporary, metadata={"patches": json.dumps(notes)})
    temporary.replace(path)


def load_patches(path: Path) -> dict[str, Patch]:
    """Read what :func:`save_patches` wrote.

    Raises:
        DataError: there is no such file, or it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            notes = json.loads(file.metadata()["patches"])
            return {
                n["key"]: Patch(
                    name=n["name"],
                    left=file.get_tensor(f"{n['key']}/left"),
                    rows=file.get_tensor(f"{n['key']}/rows"),
                    right=file.get_tensor(f"{n['key']}/right"),
                    columns=file.get_tensor(f"{n['key']}/columns"),
                    correction=bytes(file.get_tensor(f"{n['key']}/correction").numpy()),
                    before=n["before"],
                    after=n["after"],
                )
                for n in notes
            }
    except Exception as error:  # safetensors' own class is not public
        raise DataError(f"{path}: not a patch that LAW wrote ({error})") from error


def digest(weight: Tensor) -> str:
    """SHA-256 of a weight's bits."""
    return hashlib.sha256(_bits(weight).tobytes()).hexdigest()


def _on_grid(factor: Tensor, *, dim: int) -> tuple[Tensor, Tensor]:
    """Integers below 2^GRID_BITS and an exponent for each row (dim 1) or column (dim 0)."""
    largest = factor.abs().amax(dim=dim).clamp(min=1e-300)
    exponents = largest.log2().ceil().to(torch.int32) - GRID_BITS
    spread = exponents[:, None] if dim == 1 else exponents[None, :]
    return torch.ldexp(factor, -spread).round().to(torch.int32), exponents


def _bits(weight: Tensor) -> np.ndarray:  # type: ignore[type-arg]
    flat = weight.detach().cpu().contiguous().view(torch.uint8).numpy()
    return flat.reshape(-1).view(_INTEGERS[weight.dtype])


def _packed(bits: np.ndarray) -> bytes:  # type: ignore[type-arg]
    """Bytes of equal place together, so that runs of zeros are long."""
    planes = bits.view(np.uint8).reshape(len(bits), bits.itemsize).T
    return zlib.compress(planes.tobytes(), 6)


def _unpacked(packed: bytes, like: Tensor) -> np.ndarray:  # type: ignore[type-arg]
    size = like.element_size()
    planes = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(size, like.numel())
    return np.ascontiguousarray(planes.T).reshape(-1).view(_INTEGERS[like.dtype])
