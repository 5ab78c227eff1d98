"""Speed, each pair in one run: lexical search, semantic start, loading, refresh, and the page in a real browser.

python -m benchmarks.atlas.speed
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rank_bm25 import BM25Okapi

from benchmarks.atlas.queries import SHARED, read_queries
from benchmarks.results_file import record
from evolvent.methods.atlas.atlas import Atlas
from evolvent.methods.atlas.cards import card, texts_of
from evolvent.methods.atlas.config import AtlasConfig
from evolvent.methods.atlas.lexical import LexicalIndex, query_words
from evolvent.methods.atlas.vectors import Encoder, VectorStore
from evolvent.methods.atlas.vocabulary import read_table

COMMAND = "python -m benchmarks.atlas.speed"


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    atlas = Atlas.load(AtlasConfig(overlay_dir=folder / "overlay"))
    rows = [_lexical(atlas), _loading(folder), _refresh(atlas), _graph(atlas), *_semantic(atlas)]
    rows += _page(atlas, folder)
    record("atlas", rows, COMMAND)
    shutil.rmtree(folder)


def _row(claim: str, unit: str, ours: Sequence[float], name: str, theirs: Sequence[float]) -> dict[str, Any]:
    """Medians, their ratio (how many times faster), and how far the middle 80 % of our runs spread."""
    value, other = statistics.median(ours), statistics.median(theirs)
    deciles = statistics.quantiles(ours, n=10) if len(ours) > 1 else [value, value]
    return {
        "claim": f"atlas/speed/{claim}",
        "value": value,
        "unit": unit,
        "comparator": name,
        "comparator_value": other,
        "ratio": other / value,
        "spread": deciles[-1] - deciles[0],
        "n": len(ours),
    }


def _times(run: Callable[[], Any], repeats: int) -> list[float]:
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        taken.append((time.perf_counter() - started) * 1e3)
    return taken


def _lexical(atlas: Atlas) -> dict[str, Any]:
    """Top ten of the same cards for the same queries, each library in its usual way."""
    queries = [q.query for q in read_queries()]
    index = LexicalIndex(atlas.entries, 0.0)
    cards = [re.findall(r"\w+", card(e).lower()) for e in atlas]
    peer = BM25Okapi(cards)

    def ours(query: str) -> list[Any]:
        scores = index.rank(query)
        best = np.argsort(-scores)[:10]
        return [atlas.entries[i] for i in best if scores[i] > 0]

    def theirs(query: str) -> list[Any]:
        return list(peer.get_top_n(query_words(query), atlas.entries, n=10))

    mine, other = [], []
    for query in queries * 5:
        mine += _times(lambda: ours(query), 1)  # noqa: B023 - called at once
        other += _times(lambda: theirs(query), 1)  # noqa: B023
    return _row("lexical query", "ms", mine, "rank-bm25 over the same cards", other)


def _loading(folder: Path) -> dict[str, Any]:
    text = read_table("models.jsonl")
    args = AtlasConfig(overlay_dir=folder / "none")
    mine, other = [], []
    for _ in range(15):
        mine += _times(lambda: Atlas.load(args), 1)
        other += _times(lambda: [json.loads(line) for line in text.splitlines()], 1)
    return _row("Atlas.load", "ms", mine, "json.loads of each line", other)


def _refresh(atlas: Atlas) -> dict[str, Any]:
    newest = SHARED / "fixtures" / "list-2025-06-21-dd5e953.md"
    older = SHARED / "fixtures" / "list-2024-02-19-6b24e0f.md"
    mine = _times(lambda: atlas.refresh(newest, dry_run=True), 15)
    other = _times(lambda: atlas.refresh(older, dry_run=True, force=True), 15)
    return _row("refresh of 296 entries", "ms", mine, "refresh of the 190 entries of 2024-02-19", other)


def _graph(atlas: Atlas) -> dict[str, Any]:
    mine = _times(atlas.graph, 5)
    from evolvent.methods.atlas.graph import layout

    other = _times(lambda: layout(atlas.graph(), 0), 2)
    return _row("graph of similar models", "ms", mine, "the same with networkx's layout", other)


def _semantic(atlas: Atlas) -> list[dict[str, Any]]:
    encoder = Encoder("auto")
    encoder(["warm up"])
    texts = texts_of(atlas.entries)

    def shipped() -> Any:
        return VectorStore.shipped().of(texts)

    mine = _times(shipped, 9)
    other = _times(lambda: encoder(texts), 1)
    start = _row("semantic start", "ms", mine, "embedding the 849 texts at start", other)
    asked = _times(lambda: encoder(["convert IUPAC names to SMILES"]), 15)
    query = _row("embedding one query", "ms", asked, "embedding the 849 texts", other)
    return [start, query]


def _page(atlas: Atlas, folder: Path) -> list[dict[str, Any]]:
    """Bytes, and times inside the browser: from navigation to ready, and from a key to the drawn table."""
    path = atlas.build(folder / "page")
    raw = path.read_bytes()
    sizes = [("page raw", len(raw), 1e6), ("page gzipped", len(gzip.compress(raw)), 150e3)]
    rows: list[dict[str, Any]] = [
        {
            "claim": f"atlas/speed/{name}",
            "value": size / 1e3,
            "unit": "kB",
            "comparator": "the limit we set",
            "comparator_value": limit / 1e3,
            "ratio": limit / size,
            "n": 1,
        }
        for name, size, limit in sizes
    ]
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        print("no Chromium here: the page is not timed")
        return rows
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        ready, keys = [], []
        for _ in range(7):
            page = browser.new_page()
            page.goto(path.as_uri())
            page.wait_for_selector("html[data-ready]", state="attached")
            ready.append(page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"))
            keys += page.evaluate(
                """async () => {
                  const box = document.getElementById('q'), taken = [];
                  for (const text of ['r', 're', 'retro', 'retrosynthesis', 'protien fold', 'melting point']) {
                    box.value = text;
                    const started = performance.now();
                    history.replaceState(null, '', '#' + new URLSearchParams({ q: text }));
                    dispatchEvent(new HashChangeEvent('hashchange'));
                    document.body.getBoundingClientRect();
                    taken.push(performance.now() - started);
                    await new Promise((next) => setTimeout(next, 5));
                  }
                  return taken;
                }"""
            )
            page.close()
        browser.close()
    limits = [("page ready", ready, 1000.0), ("page keystroke", keys, 50.0)]
    for name, taken, limit in limits:
        rows.append(_row(name, "ms", taken, "the limit we set", [limit]))
    return rows


if __name__ == "__main__":
    main()
