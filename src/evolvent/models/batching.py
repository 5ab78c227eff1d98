"""Length-sorted batches under a token budget, and running them when memory is short."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

import torch

logger = logging.getLogger(__name__)

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


def token_budget_batches(lengths: Sequence[int], max_tokens: int, max_rows: int = 256) -> list[list[int]]:
    """Group row indices so that rows x longest row stays within `max_tokens`.

    Rows of like length go together, longest first, so that a budget that is too large fails on the first
    batch. A row longer than the budget is a batch of its own. Every index appears exactly once.
    """
    batches: list[list[int]] = []
    current: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        longest = lengths[current[0]] if current else lengths[index]
        if current and ((len(current) + 1) * longest > max_tokens or len(current) == max_rows):
            batches.append(current)
            current = []
        current.append(index)
    if current:
        batches.append(current)
    return batches


def run_batches(batches: Iterable[list[int]], run: Callable[[list[int]], None]) -> None:
    """Run each batch; one that is killed by memory is halved and its halves are run instead.

    Raises:
        torch.OutOfMemoryError, RuntimeError: when even a single row does not fit.
    """
    pending = list(reversed(list(batches)))
    while pending:
        batch = pending.pop()
        try:
            run(batch)
        except (RuntimeError, MemoryError) as error:
            if len(batch) == 1 or not _is_out_of_memory(error):
                raise
            middle = len(batch) // 2
            logger.warning("out of memory with %d rows: going on with halves", len(batch))
            pending += [batch[middle:], batch[:middle]]


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        words in str(error).lower() for words in OUT_OF_MEMORY
    )


def common_prefix_length(sequences: Sequence[Sequence[int]]) -> int:
    """Number of leading tokens that all sequences share."""
    if not sequences:
        return 0
    first, last = min(map(list, sequences)), max(map(list, sequences))
    length = 0
    for a, b in zip(first, last, strict=False):
        if a != b:
            break
        length += 1
    return length
