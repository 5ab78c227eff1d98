"""The 62 test queries, and how a ranking of ids is judged on them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "atlas"
Ranker = Callable[[str], Sequence[str]]


@dataclass(frozen=True)
class Query:
    id: str
    query: str
    kind: str
    relevant: frozenset[str]

    @property
    def even(self) -> bool:
        """Of the half that weights are chosen on."""
        return int(self.id.removeprefix("q")) % 2 == 0


def read_queries(folder: Path = SHARED) -> list[Query]:
    lines = (folder / "search_queries.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [Query(r["id"], r["query"], r["kind"], frozenset(r["relevant"])) for r in rows]


def ndcg(ranking: Sequence[str], relevant: frozenset[str], k: int = 10) -> float:
    """Binary gains; the ideal ranking has min(k, relevant) of them at its top."""
    gained = sum(1 / math.log2(i + 2) for i, name in enumerate(ranking[:k]) if name in relevant)
    return gained / sum(1 / math.log2(i + 2) for i in range(min(k, len(relevant))))


def judge(rank: Ranker, queries: Sequence[Query]) -> dict[str, dict[str, float]]:
    """Kind of query -> nDCG@10, hit@1, hit@5 and recall@50."""
    found: dict[str, dict[str, float]] = {}
    for kind in ("paraphrase", "keyword"):
        mine = [q for q in queries if q.kind == kind]
        rankings = [list(rank(q.query)) for q in mine]
        pairs = list(zip(rankings, (q.relevant for q in mine), strict=True))
        found[kind] = {
            "ndcg@10": sum(ndcg(r, t) for r, t in pairs) / len(pairs),
            "hit@1": sum(bool(t & set(r[:1])) for r, t in pairs) / len(pairs),
            "hit@5": sum(bool(t & set(r[:5])) for r, t in pairs) / len(pairs),
            "recall@50": sum(len(t & set(r[:50])) / len(t) for r, t in pairs) / len(pairs),
            "n": len(pairs),
        }
    return found
