"""Search quality of the page itself: the 62 queries, asked of MiniSearch in a real browser.

python -m benchmarks.atlas.page_search
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from urllib.parse import parse_qs

from benchmarks.atlas.queries import judge, read_queries
from benchmarks.results_file import record
from evolvent.methods.atlas.atlas import Atlas
from evolvent.methods.atlas.config import AtlasConfig

COMMAND = "python -m benchmarks.atlas.page_search"


def main() -> None:
    from playwright.sync_api import sync_playwright

    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        raise SystemExit("no Chromium on this machine (Debian: apt-get install chromium)")
    folder = Path(tempfile.mkdtemp())
    atlas = Atlas.load(AtlasConfig(overlay_dir=folder / "overlay"))
    queries = read_queries()
    found: dict[str, list[str]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(atlas.build(folder / "page").as_uri())
        for query in queries:
            page.evaluate(
                """(q) => { history.replaceState(null, '', '#' + new URLSearchParams({ q }));
                            dispatchEvent(new HashChangeEvent('hashchange')); }""",
                query.query,
            )
            links = page.locator("table.rows tbody th a").evaluate_all("(all) => all.slice(0, 50).map((a) => a.hash)")
            found[query.query] = [parse_qs(h.removeprefix("#"))["id"][0] for h in links]
        browser.close()
    unknown = {name for names in found.values() for name in names if name not in atlas}
    assert not unknown, unknown
    rows = []
    for half, asked in (("all", queries), ("odd", [q for q in queries if not q.even])):
        judged = judge(lambda q: found[q], asked)
        lexical = judge(lambda q: [h.entry.id for h in atlas.search(q, 50, "lexical")], asked)
        for kind, value in judged.items():
            rows.append(
                {
                    "claim": f"atlas/search/ndcg@10/{kind}/{half}/page",
                    "value": value["ndcg@10"],
                    "unit": "nDCG@10",
                    "comparator": "lexical",
                    "comparator_value": lexical[kind]["ndcg@10"],
                    "ratio": value["ndcg@10"] / lexical[kind]["ndcg@10"],
                    "n": value["n"],
                    "hit@1": value["hit@1"],
                    "hit@5": value["hit@5"],
                }
            )
    record("atlas", rows, COMMAND)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
