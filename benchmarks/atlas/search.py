"""Search quality on the 62 queries: engines and baselines, with the weights chosen on the even half.

python -m benchmarks.atlas.search
"""

from __future__ import annotations

import itertools
import re
import sqlite3
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.atlas.queries import SHARED, Query, Ranker, judge, ndcg, read_queries
from benchmarks.results_file import record
from evolvent.methods.atlas.config import AtlasConfig
from evolvent.methods.atlas.entry import Entry, read_entries
from evolvent.methods.atlas.lexical import LexicalIndex, query_words
from evolvent.methods.atlas.recommend import recommend
from evolvent.methods.atlas.search import SearchEngine
from evolvent.methods.atlas.source_list import parse_list
from evolvent.methods.atlas.vocabulary import read_table

COMMAND = "python -m benchmarks.atlas.search"
LIST = "list-2025-06-21-dd5e953.md"


def main() -> None:
    entries = read_entries(read_table("models.jsonl"), "models.jsonl", checked=True)
    queries = read_queries()
    even, odd = [q for q in queries if q.even], [q for q in queries if not q.even]
    words_weight = _choose_synonym_weight(entries, even)
    parts = _Parts(entries, words_weight)
    weights = _choose_weights(parts, even)
    print(f"chosen on the {len(even)} even queries: synonym weight {words_weight}, weights {weights}")
    default = AtlasConfig()
    print(f"in use: synonym weight {default.synonym_weight}, weights {default.weights}")
    engine = SearchEngine(entries, default)

    def found_by(mode: Any) -> Ranker:
        return lambda query: [h.entry.id for h in engine.search(query, 50, mode)]

    engines: dict[str, Ranker] = {
        "grep": _grep(entries),
        "title BM25": _title_bm25(entries),
        "lexical without synonyms": _ranked(LexicalIndex(entries, 0.0)),
        "lexical": found_by("lexical"),
        "dense cards": parts.ranker((0, 1, 0)),
        "dense facets": parts.ranker((0, 0, 1)),
        "hybrid": found_by("hybrid"),
    }
    rows: list[dict[str, Any]] = []
    for half, asked in (("all", queries), ("odd", odd)):
        judged = {name: judge(rank, asked) for name, rank in engines.items()}
        for kind in ("paraphrase", "keyword"):
            for name, found in judged.items():
                mine = found[kind]
                base = judged["title BM25"][kind]["ndcg@10"]
                seconds, spread = _seconds(engines[name], asked)
                rows.append(
                    {
                        "claim": f"atlas/search/ndcg@10/{kind}/{half}/{name}",
                        "value": mine["ndcg@10"],
                        "unit": "nDCG@10",
                        "comparator": "title BM25",
                        "comparator_value": base,
                        "ratio": mine["ndcg@10"] / base,
                        "ci95": _bootstrap(engines[name], [q for q in asked if q.kind == kind]),
                        "n": mine["n"],
                        "hit@1": mine["hit@1"],
                        "hit@5": mine["hit@5"],
                        "recall@50": mine["recall@50"],
                        "seconds_per_query": seconds,
                        "seconds_spread": spread,
                    }
                )
    rows += _recommend_rows(entries, odd)
    record("atlas", rows, COMMAND)


def _recommend_rows(entries: Sequence[Entry], queries: Sequence[Query]) -> list[dict[str, Any]]:
    """The order of `recommend` on the same queries; rows and relevant rows are those with weights on the hub."""
    engine = SearchEngine(entries, AtlasConfig())
    reachable = {e.id for e in entries if e.weights == "hub"}
    asked = [Query(q.id, q.query, q.kind, q.relevant & reachable) for q in queries]
    asked = [q for q in asked if q.relevant]

    def recommended(query: str) -> list[str]:
        return [c.entry.id for c in recommend(engine, query, k=50).choices]

    def searched(query: str) -> list[str]:
        return [h.entry.id for h in engine.search(query, 50, among=sorted(reachable))]

    rows = []
    for kind in ("paraphrase", "keyword"):
        mine = [q for q in asked if q.kind == kind]
        value = judge(recommended, asked)[kind]["ndcg@10"]
        base = judge(searched, asked)[kind]["ndcg@10"]
        rows.append(
            {
                "claim": f"atlas/recommend/ndcg@10/{kind}/odd",
                "value": value,
                "unit": "nDCG@10",
                "comparator": "hybrid search among the same rows",
                "comparator_value": base,
                "ratio": value / base,
                "ci95": _bootstrap(recommended, mine),
                "n": len(mine),
            }
        )
    return rows


class _Parts:
    """b, d and m of every row for every query, computed once."""

    def __init__(self, entries: Sequence[Entry], synonym_weight: float) -> None:
        self.entries = entries
        self.lexical = LexicalIndex(entries, synonym_weight)
        self.dense = SearchEngine(entries, AtlasConfig()).dense()
        self._kept: dict[str, Any] = {}

    def of(self, query: str) -> Any:
        if query not in self._kept:
            b = self.lexical.scores(query)
            dm = self.dense.compare(query)
            self._kept[query] = np.array([[b.get(e.id, 0.0), *dm[e.id][:2]] for e in self.entries])
        return self._kept[query]  # (rows, 3)

    def ranker(self, weights: Sequence[float]) -> Ranker:
        def rank(query: str) -> list[str]:
            scores = self.of(query) @ np.array(weights)
            return [self.entries[i].id for i in np.argsort(-scores, kind="stable")]

        return rank


def _choose_weights(parts: _Parts, queries: Sequence[Query]) -> tuple[float, ...]:
    """The point of a grid of tenths with the best mean nDCG@10 over all even queries."""
    tenths = [(b, d, 10 - b - d) for b, d in itertools.product(range(11), repeat=2) if b + d <= 10]
    return max(
        (tuple(w / 10 for w in point) for point in tenths),
        key=lambda w: statistics.fmean(ndcg(parts.ranker(w)(q.query), q.relevant) for q in queries),
    )


def _choose_synonym_weight(entries: Sequence[Entry], queries: Sequence[Query]) -> float:
    def mean(weight: float) -> float:
        rank = _ranked(LexicalIndex(entries, weight))
        return statistics.fmean(ndcg(rank(q.query), q.relevant) for q in queries)

    return max((0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0), key=mean)


def _ranked(index: LexicalIndex) -> Ranker:
    def rank(query: str) -> list[str]:
        scores = index.scores(query)
        return sorted(scores, key=lambda name: -scores[name])

    return rank


def _grep(entries: Sequence[Entry]) -> Ranker:
    """Entries of the list's Markdown whose two lines hold every word of the query: what the list itself offers."""
    text = (SHARED / "fixtures" / LIST).read_text(encoding="utf-8")
    lines = text.splitlines()
    ids = {e.paper_url: e.id for e in entries}
    blocks = [
        (ids[e.cells["paper_url"]], " ".join(lines[e.line - 1 : e.line + 1]).lower()) for e in parse_list(text).entries
    ]

    def rank(query: str) -> list[str]:
        asked = re.findall(r"\w+", query.lower())
        return [name for name, block in blocks if all(word in block for word in asked)]

    return rank


def _title_bm25(entries: Sequence[Entry]) -> Ranker:
    """BM25 of the titles alone, stemmed and without stop words like our own index."""
    database = sqlite3.connect(":memory:")
    database.execute("CREATE VIRTUAL TABLE titles USING fts5(title, tokenize='porter unicode61')")
    database.executemany("INSERT INTO titles(rowid, title) VALUES (?, ?)", enumerate(e.title for e in entries))

    def rank(query: str) -> list[str]:
        match = " OR ".join(f'"{word}"' for word in query_words(query))
        found = database.execute("SELECT rowid FROM titles WHERE titles MATCH ? ORDER BY bm25(titles)", (match,))
        return [entries[i].id for (i,) in found]

    return rank


def _seconds(rank: Ranker, queries: Sequence[Query]) -> tuple[float, float]:
    taken = []
    for query in queries:
        started = time.perf_counter()
        rank(query.query)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken), statistics.quantiles(taken, n=10)[-1] - statistics.quantiles(taken, n=10)[0]


def _bootstrap(rank: Ranker, queries: Sequence[Query]) -> list[float]:
    gains = np.array([ndcg(rank(q.query), q.relevant) for q in queries])
    drawn = np.random.default_rng(0).integers(0, len(gains), (2000, len(gains)))
    return [float(x) for x in np.quantile(gains[drawn].mean(axis=1), (0.025, 0.975))]


if __name__ == "__main__":
    main()
