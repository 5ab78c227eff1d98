"""A hub on 127.0.0.1 that speaks the wire format of the real one: model info, tree, resolve with ETag and ranges.

with HubStandIn({"owner/name": folder}) as hub:
    environment["HF_ENDPOINT"] = hub.url
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


class HubStandIn:
    """Serves folders as model repositories.

    Attributes:
        repositories: name -> folder; cards: name -> metadata of its model card; gated: names that are refused.
        busy: how many requests are still answered with 429 first; broken: how many downloads of weights are cut.
        requests: (method, path) in order.
    """

    def __init__(self, repositories: dict[str, Path], **more: Any) -> None:
        self.repositories = dict(repositories)
        self.cards: dict[str, dict[str, Any]] = more.get("cards", {})
        self.gated: set[str] = set(more.get("gated", ()))
        self.busy: int = more.get("busy", 0)
        self.broken: int = more.get("broken", 0)
        self.silent: bool = more.get("silent", False)
        self.requests: list[tuple[str, str]] = []
        self.bytes_sent: Counter[str] = Counter()
        self.digests: dict[Path, str] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> HubStandIn:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def sha(self, name: str) -> str:
        """The commit of a repository: changes with its files."""
        told = [f"{p.name}:{p.stat().st_size}:{self.digest(p)}" for p in self.files(name)]
        return hashlib.sha1("".join(told).encode()).hexdigest()

    def files(self, name: str) -> list[Path]:
        return sorted(p for p in self.repositories[name].rglob("*") if p.is_file())

    def digest(self, path: Path) -> str:
        if path not in self.digests:
            self.digests[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        return self.digests[path]

    # ------------------------------------------------------------------------------------------------ answers

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = unquote(urlsplit(request.path).path)
        with self._lock:
            self.requests.append((request.command, path))
            busy = self.busy > 0
            self.busy -= busy
        if self.silent:
            time.sleep(30)
        if busy:
            self.send(request, 429, b"slow down", {"Retry-After": "0"}, body=body)
            return
        if match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/([\w.-]+))?", path):
            self.info(request, match[1], body)
        elif match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/tree/([\w.-]+)(?:/(.*))?", path):
            self.tree(request, match[1], match[3] or "", body)
        elif match := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([\w.-]+)/(.+)", path):
            self.file(request, match[1], match[3], body)
        elif path == "/page":
            self.send(request, 200, b"here", body=body)
        else:
            self.send(request, 404, b"{}", body=body)

    def refused(self, request: BaseHTTPRequestHandler, name: str, body: bool) -> bool:
        if name not in self.repositories:
            headers = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
            self.send(request, 404, b'{"error":"Repository not found"}', headers, body=body)
            return True
        return False

    def info(self, request: BaseHTTPRequestHandler, name: str, body: bool) -> None:
        if self.refused(request, name, body):
            return
        folder = self.repositories[name]
        told = {
            "_id": "1",
            "id": name,
            "modelId": name,
            "sha": self.sha(name),
            "private": False,
            "gated": "manual" if name in self.gated else False,
            "downloads": 42,
            "likes": 1,
            "tags": ["transformers", "arxiv:2501.00001", "en"],
            "library_name": "transformers",
            "lastModified": "2025-01-02T03:04:05.000Z",
            "createdAt": "2025-01-01T00:00:00.000Z",
            "cardData": self.cards.get(name, {}),
            "siblings": [{"rfilename": p.relative_to(folder).as_posix()} for p in self.files(name)],
        }
        self.send(request, 200, json.dumps(told).encode(), {"Content-Type": "application/json"}, body=body)

    def tree(self, request: BaseHTTPRequestHandler, name: str, inside: str, body: bool) -> None:
        if self.refused(request, name, body):
            return
        folder = self.repositories[name]
        if inside and not (folder / inside).is_dir():
            headers = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            self.send(request, 404, b'{"error":"Entry not found"}', headers, body=body)
            return
        rows = []
        for p in self.files(name):
            place = p.relative_to(folder).as_posix()
            if place.startswith(inside):
                row: dict[str, Any] = {
                    "type": "file",
                    "path": place,
                    "size": p.stat().st_size,
                    "oid": self.digest(p)[:40],
                }
                rows.append(row)
        self.send(request, 200, json.dumps(rows).encode(), {"Content-Type": "application/json"}, body=body)

    def file(self, request: BaseHTTPRequestHandler, name: str, inside: str, body: bool) -> None:
        if self.refused(request, name, body):
            return
        if name in self.gated:
            headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to model {name} is restricted."}
            self.send(request, 403, b"restricted", headers, body=body)
            return
        path = self.repositories[name] / inside
        headers = {"X-Repo-Commit": self.sha(name), "Accept-Ranges": "bytes"}
        if not path.is_file():
            headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            self.send(request, 404, b"Entry not found", headers, body=body)
            return
        headers["ETag"] = f'"{self.digest(path)}"'
        content = path.read_bytes()
        status = 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""), flags=re.IGNORECASE)
        if asked:
            first = int(asked[1])
            last = min(int(asked[2]) if asked[2] else len(content) - 1, len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        with self._lock:
            cut = self.broken > 0 and body and len(content) > 10_000 and inside.endswith(".safetensors")
            self.broken -= cut
        self.bytes_sent[inside] += len(content) if body else 0
        self.send(request, status, content, headers, body=body, cut=cut)

    @staticmethod
    def send(
        request: BaseHTTPRequestHandler,
        status: int,
        content: bytes,
        headers: dict[str, str] | None = None,
        *,
        body: bool,
        cut: bool = False,
    ) -> None:
        request.send_response(status)
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if body and cut:  # the connection ends half way
            request.wfile.write(content[: len(content) // 2])
            request.wfile.flush()
            request.close_connection = True
            request.connection.close()
        elif body:
            request.wfile.write(content)
