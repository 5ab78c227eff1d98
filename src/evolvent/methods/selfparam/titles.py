"""Which known title is meant: exact names first, then the nearest by edit distance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

BLOCK = 256  # names compared with all titles at once


@dataclass(frozen=True, slots=True)
class Match:
    """The known title nearest to a name, and how many edits away it is."""

    title: str
    distance: int


class TitleIndex:
    """Known titles.

    Args:
        titles: in any order; case does not matter when they are compared.

    The nearest title is that with the fewest edits (insert, delete, replace), then the one closest in length, then the
    first in alphabetical order. The published script leaves ties to the order of a Python set, which changes from run
    to run.
    """

    def __init__(self, titles: Iterable[str]) -> None:
        self._spellings: dict[str, list[str]] = {}
        for title in sorted(set(titles)):
            self._spellings.setdefault(title.lower(), []).append(title)
        self._folded = sorted(self._spellings, key=lambda folded: (len(folded), folded))
        self._known: dict[str, Match] = {}

    def match(self, names: Sequence[str]) -> list[Match]:
        """The nearest title of each name; a name is looked up once in the life of the index."""
        for name in names:
            if name not in self._known and name.lower() in self._spellings:
                self._known[name] = Match(self._first(name, [name.lower()]), 0)
        new = list(dict.fromkeys(name for name in names if name not in self._known))
        for start in range(0, len(new), BLOCK):
            block = new[start : start + BLOCK]
            # Titles stand first: they are short, and short ones of like length are compared several at a time.
            distances = cdist(self._folded, [n.lower() for n in block], scorer=Levenshtein.distance, dtype=np.uint16)
            for name, column in zip(block, distances.T, strict=True):  # (titles,)
                least = int(column.min())
                tied = [self._folded[i] for i in np.flatnonzero(column == least)]
                self._known[name] = Match(self._first(name, tied), least)
        return [self._known[name] for name in names]

    def _first(self, name: str, tied: Sequence[str]) -> str:
        titles = [title for folded in tied for title in self._spellings[folded]]
        return min(titles, key=lambda title: (abs(len(title) - len(name)), title))
