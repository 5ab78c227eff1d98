"""Which blocks are edited."""

from __future__ import annotations

from evolvent.errors import ModelError
from evolvent.methods.law.config import LawConfig
from evolvent.methods.law.decoder import Decoder

FIRST_LAYER = 0.13  # of the depth; measured on SmolLM2: block 4 of 30


def layers_for(decoder: Decoder, args: LawConfig) -> tuple[int, ...]:
    """The blocks of `args.layers`; "auto" takes `n_layers` from 0.13 of the depth on, behind the attention sinks.

    Raises:
        ModelError: there is no such block, or none behind the last one.
    """
    if len(decoder) < 2:
        raise ModelError(f"{decoder.model.name} has one block, and at least one must follow the last edited one")
    if args.layers == "auto":
        first = round(FIRST_LAYER * len(decoder))
        return tuple(range(first, min(first + args.n_layers, len(decoder) - 1)))
    if args.layers[-1] >= len(decoder) - 1:
        raise ModelError(
            f"layers={args.layers}: {decoder.model.name} has blocks 0 to {len(decoder) - 1}, and at least one must "
            "follow the last edited one"
        )
    return args.layers
