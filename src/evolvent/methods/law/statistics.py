"""Second moments of the general keys, C0 = E[kkᵀ], of all wanted blocks in one pass; kept for the next run.

The cache lies in the user's cache directory, by the fingerprint of the weights, the corpus and the token count.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from evolvent.errors import DataError, ModelError
from evolvent.methods.law.decoder import Decoder
from evolvent.models.embedded import cache_folder

logger = logging.getLogger(__name__)
TOKENS_PER_TEXT = 128
TOKENS_PER_UNIT = 10  # arXiv 2506.04226: far fewer than the usual 44 million suffice


@dataclass(frozen=True)
class Statistics:
    """What general text does at one block.

    Attributes:
        moment: C0 (m, m), float64.
        energy: mean squared norm of the down-projection's output, first tokens of texts (attention sinks) left out.
        largest_key: norm that keys of other than first tokens do not exceed.
        tokens: that were read.
    """

    moment: Tensor
    energy: float
    largest_key: float
    tokens: int


def fingerprint(model: Any) -> str:
    """SHA-256 over the weights of a model in memory."""
    hasher = hashlib.sha256()
    for name, tensor in sorted(model.causal_lm.state_dict().items()):
        hasher.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        hasher.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return hasher.hexdigest()


def statistics(
    decoder: Decoder,
    texts: Sequence[str],
    layers: Sequence[int],
    *,
    tokens: int | None = None,
    model_fingerprint: str,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[int, Statistics]:
    """C0 of the given blocks; those that are cached are read, the others computed in one pass.

    Args:
        decoder: whose keys.
        texts: general text, cut to pieces of 128 tokens.
        layers: blocks.
        tokens: that are read; None: ten for each unit of the MLP.
        model_fingerprint: see :func:`fingerprint`.
        on_progress: called with (tokens read, tokens wanted).

    Raises:
        DataError: no text.
        ModelError: a key is not finite; names the block.
    """
    wanted = tokens or TOKENS_PER_UNIT * decoder.width
    corpus = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    folder = cache_folder() / "law" / model_fingerprint[:32] / f"{corpus}-{wanted}"
    missing = [layer for layer in layers if not _is_complete(folder / f"{layer}.safetensors")]
    if missing:
        pieces = _pieces(decoder, texts, wanted)
        for layer, found in _accumulate(decoder, pieces, missing, on_progress).items():
            store_statistics(folder / f"{layer}.safetensors", found)
    return {layer: load_statistics(folder / f"{layer}.safetensors", decoder.width) for layer in layers}


def _pieces(decoder: Decoder, texts: Sequence[str], wanted: int) -> list[list[int]]:
    pieces: list[list[int]] = []
    count = 0
    for text in texts:
        ids = decoder.model.encode(text)[:TOKENS_PER_TEXT]
        if len(ids) < 2:
            continue
        pieces.append(ids)
        count += len(ids)
        if count >= wanted:
            break
    if not pieces:
        raise DataError("the general corpus has no text: give rows with a text column")
    if count < wanted:
        logger.info("the corpus has %d tokens, %d were wanted", count, wanted)
    return pieces


def _accumulate(
    decoder: Decoder, pieces: Sequence[list[int]], layers: Sequence[int], on_progress: Callable[[int, int], None]
) -> dict[int, Statistics]:
    moments = {layer: torch.zeros(decoder.width, decoder.width) for layer in layers}
    energies = dict.fromkeys(layers, 0.0)
    largest = dict.fromkeys(layers, 0.0)
    biases: dict[int, Any] = {layer: getattr(decoder.projections[layer].module, "bias", None) for layer in layers}
    total = sum(map(len, pieces))
    seen = 0

    def see(batch: list[int], layer: int, inputs: Tensor, values: Tensor) -> None:
        nonlocal seen
        lengths = torch.tensor([len(pieces[i]) for i in batch], device=inputs.device)
        mask = torch.arange(inputs.shape[1], device=inputs.device) < lengths[:, None]
        keys = inputs[mask].float()  # (tokens, m)
        if not bool(torch.isfinite(keys).all()):
            raise ModelError(f"block {layer}: a key on general text is not finite; use dtype float32")
        moments[layer].addmm_(keys.T.cpu(), keys.cpu())
        mask[:, 0] = False  # attention sinks: their size says nothing of other tokens
        bias = 0 if biases[layer] is None else biases[layer]
        energies[layer] += float((values[mask] - bias).float().square().sum())
        largest[layer] = max(largest[layer], float(inputs[mask].float().norm(dim=-1).max()))
        if layer == max(layers):
            seen += int(lengths.sum())
            on_progress(seen, total)

    decoder.visit([tuple(piece) for piece in pieces], layers, see)
    later = total - len(pieces)
    return {
        layer: Statistics(moments[layer].double() / total, energies[layer] / later, largest[layer], total)
        for layer in layers
    }


def store_statistics(path: Path, found: Statistics) -> None:
    """Write those of one block, the moment in float32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    notes = {"energy": found.energy, "largest_key": found.largest_key, "tokens": found.tokens}
    temporary = path.with_suffix(".new")
    save_file({"triangle": packed(found.moment.float())}, temporary, metadata={"notes": json.dumps(notes)})
    temporary.replace(path)


def load_statistics(path: Path, width: int) -> Statistics:
    """Read what :func:`store_statistics` wrote of an MLP of `width` units."""
    with safe_open(path, framework="pt") as file:
        notes = json.loads(file.metadata()["notes"])
        triangle = file.get_tensor("triangle")
    return Statistics(unpacked(triangle, width), **notes)


def packed(moment: Tensor) -> Tensor:
    """The upper triangle of (m, m), row by row: an index of all its entries would be larger than the matrix."""
    return torch.cat([moment[i, i:] for i in range(len(moment))])


def unpacked(triangle: Tensor, width: int) -> Tensor:
    """The symmetric matrix (m, m), float64, of what :func:`packed` kept."""
    moment = torch.zeros(width, width, dtype=torch.float64)
    start = 0
    for i in range(width):
        row = triangle[start : start + width - i].double()
        moment[i, i:] = row
        moment[i:, i] = row
        start += width - i
    return moment


def _is_complete(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        load_file(path)
    except Exception:  # any damage: it is computed again
        logger.warning("%s cannot be read: computed again", path)
        return False
    return True
