"""What one fact adds to a ledger: a key and a displacement for each block, from the original weights and it alone.

The spread of a wash reads each block's keys behind the edits of the blocks before it, and those edits depend on all
facts. Here they are read behind the fact's own displacements in those blocks, which is where an edit that does exactly
what was asked of it would put them. So a fact's column depends on no other fact, and sums of columns on no order.

Columns are rounded to whole numbers of a unit that the block's general text gives. Sums of products of whole numbers
below 2⁵³ have no rounding in float64, so ledgers that got the same facts in whatever pieces are equal to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evolvent.data.records import Fact
from evolvent.errors import DataError
from evolvent.methods.law.decoder import Decoder
from evolvent.methods.law.spectral import Streamed
from evolvent.methods.law.statistics import Statistics
from evolvent.methods.law.wordings import Row

UNIT_BITS = 18  # a key as long as the longest of general text is 2¹⁸ units long; 2¹⁷ such keys fit a ledger
EXACT = 2.0**53  # whole numbers below it are exact in float64


@dataclass(frozen=True)
class Units:
    """What one unit of a block's whole numbers is worth: powers of two."""

    key: float
    residual: float

    @classmethod
    def of(cls, general: Statistics) -> Units:
        """From the longest key and the typical output on general text."""
        return cls(_power(general.largest_key), _power(math.sqrt(general.energy)))


def add_fact(
    sums: Mapping[int, Streamed],
    units: Mapping[int, Units],
    decoder: Decoder,
    fact: Fact,
    rows: Sequence[Row],
    target: Tensor,
) -> None:
    """Add one fact to the sums of every block.

    Args:
        sums: of whole numbers; change.
        units: of the blocks.
        decoder: the original model.
        fact: what to forget; rows: its usable wordings.
        target: its displacement behind the last block (d,), learnt without any other fact.

    Raises:
        DataError: its sums would no longer be exact; nothing was added.
    """
    columns = {
        layer: (_whole(key, units[layer].key), _whole(residual, units[layer].residual))
        for layer, (key, residual) in displacements(decoder, rows, target, sorted(sums)).items()
    }
    for layer, (key, residual) in columns.items():
        moment = float(sums[layer].moment.trace() + key.square().sum())  # bounds every entry of S
        cross = float(sums[layer].cross.abs().max() + key.norm() * residual.norm())
        if max(moment, cross) >= EXACT:
            raise DataError(
                f"fact {fact.id}: its key in block {layer} is {float(key.norm()) / 2**UNIT_BITS:.3g} times as long as "
                f"any of general text, or the {sums[layer].count} facts of this ledger fill it: release what it holds "
                "and begin another one on the released model"
            )
    for layer, (key, residual) in columns.items():
        sums[layer].add(key[:, None], residual[:, None])


def displacements(
    decoder: Decoder, rows: Sequence[Row], target: Tensor, layers: Sequence[int]
) -> dict[int, tuple[Tensor, Tensor]]:
    """block -> the fact's key (m,) and how its value shall move there (d,), float64; means over its wordings.

    Args:
        decoder: the original model.
        rows: the fact's usable wordings.
        target: displacement behind the last block (d,).
        layers: blocks, rising.
    """
    ends = [row.tokens[: row.edit + 1] for row in rows]
    weights = torch.tensor([row.weight for row in rows], dtype=torch.float64)
    weights = weights / weights.sum()
    goals: Tensor | None = None
    added: dict[int, Tensor] = {}
    found = {}
    for number, layer in enumerate(layers):
        keys, states = decoder.read(ends, keys=[layer], residual=layers[-1], added=added)
        assert states is not None
        goals = states.double() + target.double() if goals is None else goals
        residual = weights @ (goals - states.double()) / (len(layers) - number)
        found[layer] = (weights @ keys[layer].double(), residual)
        added[layer] = residual
    return found


def in_units(sums: Streamed, units: Units) -> Streamed:
    """Sums of whole numbers in the units of the model, without rounding."""
    return streamed(sums.moment * units.key**2, sums.cross * (units.key * units.residual), sums.count)


def streamed(moment: Tensor, cross: Tensor, count: int) -> Streamed:
    """Sums S (m, m) and B (d, m) that are there already."""
    sums = Streamed(0, 0)
    sums.moment, sums.cross, sums.count = moment, cross, count
    return sums


def _whole(values: Tensor, unit: float) -> Tensor:
    return (values / unit).round()


def _power(length: float) -> float:
    return 2.0 ** (math.ceil(math.log2(length)) - UNIT_BITS)
