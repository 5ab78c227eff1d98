"""The lexical half of search: BM25 over the cards, with the tokens and Porter stems of SQLite's full-text index.

SQLite's own bm25() counts occurrences row by row for each query; here what a stem adds to a row's score is computed
once, so that a query adds up a few short arrays. The formula is SQLite's, and the tests compare the two:

    sum over stems t of  idf(t) * f (k1 + 1) / (f + k1 (1 - b + b length / mean length)),   k1 = 1.2, b = 0.75,
    f = occurrences in the card + weight * occurrences in the synonyms,   idf(t) = ln((N - n + 0.5) / (n + 0.5))
"""

from __future__ import annotations

import math
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np

from evolvent.methods.atlas.cards import card, card_synonyms
from evolvent.methods.atlas.entry import Entry
from evolvent.methods.atlas.vocabulary import words

MAX_CHARACTERS = 4000
MAX_WORDS = 64
K1, B = 1.2, 0.75
LEAST_IDF = 1e-6  # of a stem that most rows have, as in SQLite
Scores = np.ndarray[Any, np.dtype[np.float64]]


class LexicalIndex:
    """BM25 over cards and their synonyms.

    Args:
        entries: the table.
        synonym_weight: of a synonym, where a word of the card itself has 1; 0 leaves synonyms out.
    """

    def __init__(self, entries: Sequence[Entry], synonym_weight: float) -> None:
        self.ids = [e.id for e in entries]
        texts = [(card(e), card_synonyms(e) if synonym_weight else "") for e in entries]
        database = sqlite3.connect(":memory:")
        database.execute("CREATE VIRTUAL TABLE cards USING fts5(card, synonyms, tokenize='porter unicode61')")
        database.executemany("INSERT INTO cards(rowid, card, synonyms) VALUES (?, ?, ?)", _numbered(texts))
        database.execute("CREATE VIRTUAL TABLE stems USING fts5vocab(cards, 'instance')")
        counted = database.execute("SELECT term, doc, col, count(*) FROM stems GROUP BY term, doc, col").fetchall()
        weight = {"card": 1.0, "synonyms": synonym_weight}
        frequency: defaultdict[str, defaultdict[int, float]] = defaultdict(lambda: defaultdict(float))
        length = np.zeros(len(texts))
        for stem, row, column, count in counted:
            frequency[stem][row] += weight[column] * count
            length[row] += count
        self._postings = {stem: self._impacts(rows, length) for stem, rows in frequency.items()}
        self._stems = _Stems(re.findall(r"\w+", " ".join(f"{a} {b}" for a, b in texts).lower()))

    @staticmethod
    def _impacts(rows: dict[int, float], length: Scores) -> tuple[Any, Scores]:
        """Rows that have a stem, and what it adds to their scores."""
        places = np.fromiter(rows, np.int64, len(rows))
        f = np.fromiter(rows.values(), np.float64, len(rows))
        idf = math.log((len(length) - len(rows) + 0.5) / (len(rows) + 0.5))
        norm = K1 * (1 - B + B * length[places] / length.mean())
        return places, max(idf, LEAST_IDF) * f * (K1 + 1) / (f + norm)

    def rank(self, query: str) -> Scores:
        """Scores (rows,), divided by the largest; 0 where no word of the query stands."""
        scores = np.zeros(len(self.ids))
        for word in query_words(query):
            for stem in self._stems.of(word):
                posting = self._postings.get(stem)
                if posting is not None:
                    scores[posting[0]] += posting[1]
        best = scores.max(initial=0.0)
        return scores / best if best > 0 else scores

    def scores(self, query: str) -> dict[str, float]:
        """Id -> score in (0, 1] of the rows that share a word with the query."""
        scores = self.rank(query)
        return {self.ids[i]: float(scores[i]) for i in np.flatnonzero(scores)}


class _Stems:
    """Stems of words, as SQLite makes them; those of the table's words are made beforehand."""

    def __init__(self, known: Iterable[str]) -> None:
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        self._database.execute("CREATE VIRTUAL TABLE asked USING fts5(word, tokenize='porter unicode61')")
        self._database.execute("CREATE VIRTUAL TABLE stems USING fts5vocab(asked, 'instance')")
        self._known: dict[str, tuple[str, ...]] = {}
        self._learn(list(dict.fromkeys(known)))

    def of(self, word: str) -> tuple[str, ...]:
        """Stems of a word; several where SQLite sees several tokens, none where it sees none."""
        if word not in self._known:
            self._learn([word])
        return self._known[word]

    def _learn(self, new: Sequence[str]) -> None:
        self._database.execute("DELETE FROM asked")
        self._database.executemany("INSERT INTO asked(rowid, word) VALUES (?, ?)", enumerate(new))
        found: dict[int, list[str]] = {}
        for stem, row in self._database.execute("SELECT term, doc FROM stems ORDER BY doc, offset"):
            found.setdefault(row, []).append(stem)
        for i, word in enumerate(new):
            self._known[word] = tuple(found.get(i, ()))


@cache
def _stop_words() -> frozenset[str]:
    return frozenset(words()["stop_words"])


def query_words(query: str) -> list[str]:
    """Words of a query without stop words; every operator of the index is only a word or nothing."""
    found = dict.fromkeys(re.findall(r"\w+", query[:MAX_CHARACTERS].lower()))
    kept = [w for w in found if w not in _stop_words()] or list(found)
    return kept[:MAX_WORDS]


def _numbered(texts: Sequence[tuple[str, str]]) -> Iterable[tuple[int, str, str]]:
    return ((i, *pair) for i, pair in enumerate(texts))
