"""The page on this machine, with semantic search behind it: `/`, `/api/search` and `/api/recommend` on 127.0.0.1."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from evolvent.errors import EvolventError
from evolvent.methods.atlas.budget import Budget
from evolvent.methods.atlas.page import html
from evolvent.methods.atlas.recommend import as_row

if TYPE_CHECKING:
    from evolvent.methods.atlas.atlas import Atlas


def make_server(atlas: Atlas, port: int) -> ThreadingHTTPServer:
    """A server of the page, bound to 127.0.0.1; port 0 takes a free one."""
    page = html(atlas, with_api=True).encode()
    one_at_a_time = threading.Lock()  # the encoder is not made for several threads

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            host = (self.headers.get("Host") or "").rpartition(":")[0]
            if host not in ("127.0.0.1", "localhost"):  # another name that points here is not ours
                self._send(403, b"only 127.0.0.1", "text/plain")
                return
            if parts.path in ("/", "/index.html"):
                self._send(200, page, "text/html; charset=utf-8")
                return
            asked = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            answers = {"/api/search": _search, "/api/recommend": _recommend}
            if parts.path not in answers:
                self._send(404, b"{}", "application/json")
                return
            try:
                with one_at_a_time:
                    status, answer = 200, answers[parts.path](atlas, asked)
            except (EvolventError, ValueError) as error:
                status, answer = 400, {"error": str(error)}
            self._send(status, json.dumps(answer, ensure_ascii=False).encode(), "application/json; charset=utf-8")

        def _send(self, status: int, content: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: the terminal belongs to the person."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def _search(atlas: Atlas, asked: dict[str, str]) -> dict[str, Any]:
    hits = atlas.search(asked.get("q", ""), min(int(asked.get("k", "50")), 500), where=asked.get("where"))
    found = [{"id": h.entry.id, "score": round(h.score, 4), "why": h.why} for h in hits]
    return {"mode": hits.mode, "notices": hits.notices, "hits": found}


def _recommend(atlas: Atlas, asked: dict[str, str]) -> dict[str, Any]:
    budget = Budget(float(asked["vram"]), asked.get("method", "inference")) if asked.get("vram") else None  # type: ignore[arg-type]
    found = atlas.recommend(
        asked.get("task", ""),
        field=asked.get("field") or None,
        modalities=[m for m in asked.get("modality", "").split(",") if m],
        use=asked.get("use") or None,
        budget=budget,
        weights=asked.get("weights", "hub"),
        k=min(int(asked.get("k", "5")), 50),
    )
    unknown = [{"id": e.id, "checkpoint": c.hf_id if c else None, "reason": why} for e, c, why in found.unknown]
    return {"choices": [as_row(c) for c in found.choices], "unknown": unknown, "notices": found.notices}
