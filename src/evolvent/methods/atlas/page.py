"""The table as one web page: everything inlined, no external request, usable from a file.

The scripts are templates/*.js, joined in order behind MiniSearch (MIT, vendored with its licence). The content security
policy allows exactly these scripts and this style, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from evolvent.data.files import write_text
from evolvent.methods.atlas.budget import ACTIVATIONS, BYTES_PER_PARAMETER
from evolvent.methods.atlas.entry import COLUMNS, NULL_FOR_UNKNOWN
from evolvent.methods.atlas.exports import ORIGIN, bibtex_entry, citation_keys, origin
from evolvent.methods.atlas.graph import generic_data, layout
from evolvent.methods.atlas.recommend import NO_RANKING, USES, WEIGHTS, uses_of
from evolvent.methods.atlas.views import COMPARED, applications
from evolvent.methods.atlas.vocabulary import OTHER_WORDS, source, vocabulary, words

if TYPE_CHECKING:
    from evolvent.methods.atlas.atlas import Atlas

SCRIPTS = ("dom", "filter", "search", "exports", "table", "card", "pictures", "recommend", "main")


def build(atlas: Atlas, folder: Path) -> Path:
    """Write `index.html` into a folder, made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_text(folder / "index.html", html(atlas))


def html(atlas: Atlas, *, with_api: bool = False) -> str:
    """The page.

    Args:
        with_api: whether `/api/search` and `/api/recommend` answer beside it.
    """
    library = _asset("minisearch.js")
    script = '"use strict";\n(() => {\n' + "\n".join(_asset(f"{name}.js") for name in SCRIPTS) + "\n})();\n"
    style = _asset("atlas.css")
    policy = (
        f"default-src 'none'; script-src {_hash(library)} {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        f"base-uri 'none'; form-action 'none'{'; connect-src ' + chr(39) + 'self' + chr(39) if with_api else ''}"
    )
    template = jinja2.Environment(autoescape=True).from_string(_asset("index.html.j2"))
    return template.render(
        policy=policy,
        style=style,
        library=library,
        script=script,
        data=_inert_json(page_data(atlas)),
        licence=_asset("LICENSE-minisearch.txt"),
        origin=origin(),
        api="yes" if with_api else "no",
        count=len(atlas),
    )


def page_data(atlas: Atlas) -> dict[str, Any]:
    """What the scripts read: rows as lists in the order of the columns, the graph with its layout, vocabularies."""
    entries = atlas.entries
    keys = citation_keys(entries)
    place = {e.id: i for i, e in enumerate(entries)}
    graph = atlas.graph("similar")
    points = layout(graph, atlas.args.seed) if len(entries) > 1 else {e.id: (0.5, 0.5) for e in entries}
    features: dict[str, int] = {}
    edges = []
    for a, b, edge in graph.edges(data=True):
        shared = [features.setdefault(part, len(features)) for part in edge["shared"].split("; ")]
        edges.append([place[a], place[b], round(edge["similarity"], 3), shared])
    lineage = [[place.get(a, a), place.get(b, b), d["kind"]] for a, b, d in atlas.graph("lineage").edges(data=True)]
    return {
        "columns": list(COLUMNS),
        "nullForUnknown": list(NULL_FOR_UNKNOWN),
        "rows": [list(e.model_dump(mode="json").values()) for e in entries],
        "bibtex": [bibtex_entry(e, keys[e.id]) for e in entries],
        "weights": [e.weights for e in entries],
        "uses": [uses_of(e) for e in entries],
        "graph": {
            "points": [[round(points[e.id][0], 3), round(points[e.id][1], 3)] for e in entries],
            "edges": edges,
            "features": list(features),
        },
        "lineage": lineage,
        "applications": applications(),
        "vocabulary": vocabulary(),
        "otherWords": OTHER_WORDS,
        "words": {k: v for k, v in words().items() if k != "conferences"},
        "generic": sorted(generic_data()),
        "compared": list(COMPARED),
        "recommend": {"weights": WEIGHTS, "bytes": BYTES_PER_PARAMETER, "activations": ACTIVATIONS,
                      "uses": list(USES), "notice": NO_RANKING},
        "source": source(),
        "origin": origin(),
        "originColumn": ORIGIN,
    }  # fmt: skip


def _inert_json(value: Any) -> str:
    """JSON that cannot end its script element, whatever a row says."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _asset(name: str) -> str:
    return resources.files("evolvent.methods.atlas").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
