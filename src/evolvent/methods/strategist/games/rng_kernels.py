"""The compiled twin of `rng`. A stream is a uint64 array of length 1."""

from __future__ import annotations

from typing import Any

import numpy as np

from evolvent.methods.strategist.games import rng as reference
from evolvent.methods.strategist.games.compiled import kernel

GOLDEN = np.uint64(reference.GOLDEN)
FIRST = np.uint64(reference.FIRST)
SECOND = np.uint64(reference.SECOND)
S11, S27, S30, S31, S32 = (np.uint64(s) for s in (11, 27, 30, 31, 32))


@kernel
def mix(x: Any) -> Any:
    """See `rng.mix`."""
    x = (x ^ (x >> S30)) * FIRST
    x = (x ^ (x >> S27)) * SECOND
    return x ^ (x >> S31)


@kernel
def combine(key: Any, part: Any) -> Any:
    """See `rng.combine`."""
    return mix((key ^ mix(np.uint64(part) + GOLDEN)) + GOLDEN)


@kernel
def draw(stream: Any) -> Any:
    """See `rng.Stream.draw`."""
    state = stream[0] + GOLDEN
    stream[0] = state
    return mix(state)


@kernel
def below(stream: Any, n: Any) -> Any:
    """See `rng.Stream.below`."""
    if n <= 1:
        return 0
    return np.int64(((draw(stream) >> S32) * np.uint64(n)) >> S32)


@kernel
def uniform(stream: Any) -> Any:
    """See `rng.Stream.uniform`."""
    return np.float64(draw(stream) >> S11) * 2.0**-53
