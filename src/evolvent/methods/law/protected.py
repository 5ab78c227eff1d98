"""Second moments of the prompts that an edit must leave alone, block after block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evolvent.methods.law.decoder import Decoder, States
from evolvent.models.prefixes import Tokens


class ProtectedPrompts:
    """Rows whose keys are summed at one edited block after the other; each block goes on where the last one ended.

    Args:
        decoder: the model; between two calls of `moment`, only blocks from the one asked for last on may change.
        rows: token ids.
        skip: a position of each row where the edit acts, or None.
    """

    def __init__(self, decoder: Decoder, rows: Sequence[Tokens], skip: Sequence[int | None]) -> None:
        self.decoder, self.rows, self.skip = decoder, rows, skip
        self.distinct = list(dict.fromkeys(rows))
        self.states = States(decoder)

    def moment(self, layer: int, *, active: Sequence[bool] | None = None) -> Tensor:
        """Σ kkᵀ (m, m), float64, over the positions of all rows; a beginning that rows share counts once.

        Args:
            layer: block whose keys are summed; rises from call to call.
            active: rows whose `skip` is left out; default all.
        """
        on = [True] * len(self.rows) if active is None else active
        places = zip(self.rows, self.skip, on, strict=True)
        seen = {hash(row[: at + 1]) for row, at, left_out in places if at is not None and left_out}
        fresh: list[Tensor] = []
        for row in self.distinct:
            beginnings = [hash(row[: at + 1]) for at in range(len(row))]
            fresh.append(torch.tensor([b not in seen for b in beginnings]))
            seen.update(beginnings)
        width = self.decoder.width
        total = torch.zeros(width, width, dtype=torch.float64)

        def add(batch: list[int], _: int, keys: Tensor, __: Tensor) -> None:
            chosen = torch.zeros(keys.shape[:2], dtype=torch.bool)
            for place, i in enumerate(batch):
                chosen[place, : len(fresh[i])] = fresh[i]
            wanted = keys[chosen.to(keys.device)].float().cpu()
            total.add_((wanted.T @ wanted).double())

        self.decoder.visit(self.distinct, [layer], add, states=self.states)
        return total
