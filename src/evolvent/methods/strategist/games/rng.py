"""One counter-based random stream for both engines: SplitMix64 (Steele, Lea, Flood 2014), draw k = mix(key + k·golden).

The reference form is here, its compiled twin in `rng_kernels`; a test holds them together. A stream is made for each
purpose (a game's chance, a seat's search at a ply), so a number never depends on what was drawn elsewhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GOLDEN = 0x9E3779B97F4A7C15
FIRST = 0xBF58476D1CE4E5B9
SECOND = 0x94D049BB133111EB
MASK = 0xFFFFFFFFFFFFFFFF


def mix(x: int) -> int:
    """Finalizer of SplitMix64: a bijection of 64-bit integers whose every output bit depends on every input bit."""
    x = (x ^ (x >> 30)) * FIRST & MASK
    x = (x ^ (x >> 27)) * SECOND & MASK
    return x ^ (x >> 31)


def combine(key: int, part: int) -> int:
    """A new key from a key and an integer."""
    return mix((key ^ mix((part + GOLDEN) & MASK)) + GOLDEN & MASK)


def key_of(*parts: int) -> int:
    """Key of a stream, from integers that name its purpose."""
    key = 0
    for part in parts:
        key = combine(key, part & MASK)
    return key


class Stream:
    """A stream of draws; its only state is a 64-bit counter."""

    def __init__(self, key: int) -> None:
        self.state = key & MASK

    def draw(self) -> int:
        """64 random bits."""
        self.state = (self.state + GOLDEN) & MASK
        return mix(self.state)

    def below(self, n: int) -> int:
        """An integer in [0, n); takes no draw when n is 1. Bias at most n / 2**32."""
        return (self.draw() >> 32) * n >> 32 if n > 1 else 0

    def uniform(self) -> float:
        """A float in [0, 1) with 53 random bits."""
        return (self.draw() >> 11) * 2.0**-53


def keys_of(seeds: NDArray[np.uint64], *parts: int) -> NDArray[np.uint64]:
    """`key_of(seed, *parts)` for many seeds at once."""
    keys = _combine_all(np.zeros(len(seeds), np.uint64), seeds)
    for part in parts:
        keys = _combine_all(keys, np.full(len(seeds), part & MASK, np.uint64))
    return keys


def first_below(keys: NDArray[np.uint64], n: int) -> NDArray[np.int64]:
    """`Stream(key).below(n)` for many keys at once."""
    drawn = _mix_all(keys + np.uint64(GOLDEN)) >> np.uint64(32)
    return (drawn * np.uint64(n) >> np.uint64(32)).astype(np.int64)


def first_uniform(keys: NDArray[np.uint64]) -> NDArray[np.float64]:
    """`Stream(key).uniform()` for many keys at once."""
    bits = _mix_all(keys + np.uint64(GOLDEN)) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def _mix_all(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(FIRST)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(SECOND)
    return x ^ (x >> np.uint64(31))


def _combine_all(keys: NDArray[np.uint64], parts: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return _mix_all((keys ^ _mix_all(parts + np.uint64(GOLDEN))) + np.uint64(GOLDEN))
