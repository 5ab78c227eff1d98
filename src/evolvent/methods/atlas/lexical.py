"""The lexical half of search: BM25 over the cards, in SQLite's full-text index."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence

from evolvent.methods.atlas.cards import card, card_synonyms
from evolvent.methods.atlas.entry import Entry
from evolvent.methods.atlas.vocabulary import words

MAX_CHARACTERS = 4000
MAX_WORDS = 64


class LexicalIndex:
    """BM25 over cards and their synonyms.

    Args:
        entries: the table.
        synonym_weight: of a synonym, where a word of the card itself has 1.
    """

    def __init__(self, entries: Sequence[Entry], synonym_weight: float) -> None:
        self.ids = [e.id for e in entries]
        self.synonym_weight = synonym_weight
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        self._database.execute(
            "CREATE VIRTUAL TABLE cards USING fts5(card, synonyms, tokenize='porter unicode61', detail=column)"
        )
        self._database.executemany(
            "INSERT INTO cards(rowid, card, synonyms) VALUES (?, ?, ?)",
            ((i, card(e), card_synonyms(e)) for i, e in enumerate(entries)),
        )

    def scores(self, query: str) -> dict[str, float]:
        """BM25 of the rows that share a word with the query, divided by the largest: id -> (0, 1]."""
        terms = query_words(query)
        if not terms:
            return {}
        match = " OR ".join(f'"{term}"' for term in terms)
        columns = "" if self.synonym_weight else "card : "
        weight = self.synonym_weight or 1.0
        rows = self._database.execute(
            "SELECT rowid, -bm25(cards, 1.0, ?) FROM cards WHERE cards MATCH ?", (weight, f"{columns}({match})")
        ).fetchall()
        best = max((score for _, score in rows), default=0.0)
        return {self.ids[i]: score / best for i, score in rows if score > 0}


def query_words(query: str) -> list[str]:
    """Words of a query without stop words; every operator of the index is only a word or nothing."""
    stop = set(words()["stop_words"])
    found = re.findall(r"\w+", query[:MAX_CHARACTERS].lower())
    kept = [w for w in dict.fromkeys(found) if w not in stop] or list(dict.fromkeys(found))
    return kept[:MAX_WORDS]
