"""Prompts that begin alike: a radix tree of their token prefixes, each computed once and kept as keys and values.

Few-shot prompts share an instruction, then often their first demonstrations. The tree finds every such run of tokens,
however deep; `LocalModel` computes it once for all the prompts that pass through it. The idea is RadixAttention's
(Zheng et al., "SGLang", arXiv 2312.07104), here over the prompts of one call instead of a server's history.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from evolvent.models.batching import common_prefix_length

MIN_SHARED = 16  # tokens; below this another forward pass costs more than it saves

Tokens = tuple[int, ...]


class Prefix:
    """A run of tokens that at least two prompts have in common, after those of `parent`.

    Attributes:
        tokens: its own tokens.
        parent: the prefix before it, or None.
        length: tokens from the beginning of the prompt to its end.
        depth: number of prefixes before it.
        layers: keys and values of each layer, (tokens, heads, head size); filled by `keep`.
    """

    __slots__ = ("depth", "layers", "length", "parent", "tokens")

    def __init__(self, tokens: Tokens, parent: Prefix | None) -> None:
        self.tokens, self.parent = tokens, parent
        self.length: int = len(tokens) + length_of(parent)
        self.depth: int = parent.depth + 1 if parent else 0
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def path(self) -> list[Prefix]:
        """This prefix and those before it, in the order of their tokens."""
        return [*(self.parent.path() if self.parent else ()), self]


def length_of(prefix: Prefix | None) -> int:
    """Tokens up to the end of a prefix; 0 for none."""
    return prefix.length if prefix else 0


def share_prefixes(
    contexts: Sequence[Tokens], *, at_least: int = MIN_SHARED
) -> tuple[list[Prefix], list[Prefix | None]]:
    """The prefixes that contexts share, parents before children, and the deepest prefix of each context.

    Every context keeps at least one token of its own, at which its next token is predicted.

    Args:
        contexts: token ids, each at least one token long.
        at_least: shorter runs are not worth a forward pass of their own.
    """
    order = sorted(range(len(contexts)), key=lambda i: contexts[i])
    rows = [contexts[i] for i in order]
    # tokens that row i shares with row i + 1; a row that begins another one keeps its last token
    shared = [min(common_prefix_length([a, b]), len(a) - 1) for a, b in pairwise(rows)]
    prefixes: list[Prefix] = []
    deepest: list[Prefix | None] = [None] * len(contexts)
    pending: list[tuple[int, int, Prefix | None]] = [(0, len(rows), None)] if rows else []
    while pending:
        start, end, parent = pending.pop()
        if end - start == 1:
            deepest[order[start]] = parent
            continue
        common = min(shared[start : end - 1])
        if common - length_of(parent) >= at_least:
            parent = Prefix(rows[start][length_of(parent) : common], parent)
            prefixes.append(parent)
        cuts = [i + 1 for i in range(start, end - 1) if shared[i] == common]
        pending += [(a, b, parent) for a, b in zip([start, *cuts], [*cuts, end], strict=True)]
    return sorted(prefixes, key=lambda p: p.depth), deepest


def by_depth(prefixes: Sequence[Prefix]) -> Iterator[list[Prefix]]:
    """Groups that can be computed together, parents before children."""
    for depth in range(max((p.depth for p in prefixes), default=-1) + 1):
        yield [p for p in prefixes if p.depth == depth]


def in_chunks(contexts: Sequence[Tokens], max_tokens: int) -> Iterator[list[Tokens]]:
    """Neighbours in lexicographic order, so many at once that their distinct tokens stay within `max_tokens`."""
    chunk: list[Tokens] = []
    held = 0
    for context in sorted(contexts):
        new = len(context) - (common_prefix_length([chunk[-1], context]) if chunk else 0)
        if chunk and held + new > max_tokens:
            yield chunk
            chunk, held, new = [], 0, len(context)
        chunk.append(context)
        held += new
    if chunk:
        yield chunk


def past(prefixes: Sequence[Prefix | None], device: torch.device) -> tuple[DynamicCache, torch.Tensor]:
    """The cache of rows that stand behind these prefixes, left-padded, and its mask (rows, longest prefix)."""
    paths = [prefix.path() if prefix else [] for prefix in prefixes]
    longest = max(map(length_of, prefixes))
    lengths = torch.tensor([longest - length_of(p) for p in prefixes], device=device)
    mask = (torch.arange(longest, device=device)[None] >= lengths[:, None]).long()
    cache = DynamicCache()
    some = next((path[0] for path in paths if path), None)
    for layer in range(len(some.layers) if some else 0):
        assert some is not None
        columns = []
        for part in (0, 1):  # keys, values
            nothing = some.layers[layer][part][:0]
            rows = [torch.cat([p.layers[layer][part] for p in path]) if path else nothing for path in paths]
            columns.append(pad_sequence(rows, batch_first=True, padding_side="left").transpose(1, 2))
        cache.update(columns[0], columns[1], layer)
    return cache, mask


def keep(prefixes: Sequence[Prefix], cache: DynamicCache) -> None:
    """Store each prefix's own keys and values, which are the last ones of its left-padded row."""
    for layer in cache.layers:
        for row, prefix in enumerate(prefixes):
            count = len(prefix.tokens)
            prefix.layers.append(
                (
                    layer.keys[row, :, -count:].transpose(0, 1).contiguous(),
                    layer.values[row, :, -count:].transpose(0, 1).contiguous(),
                )
            )
