"""The table as a web page on 127.0.0.1, to watch a game or play in it: `/`, `/api/table`, `/api/move`, `/api/say`."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import jinja2

from evolvent.errors import EvolventError
from evolvent.methods.strategist.table import Table

MAX_BODY = 4096


def page(table: Table, viewer: int | None) -> str:
    """The page; it may run its own script and talk to its own server, nothing else."""
    script, style = _asset("table.js"), _asset("table.css")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    who = "watching" if viewer is None else f"you are player {viewer}"
    template = jinja2.Environment(autoescape=True).from_string(_asset("table.html.j2"))
    return template.render(policy=policy, script=script, style=style, game=table.game.name, who=who)


def make_server(table: Table, viewer: int | None, port: int) -> ThreadingHTTPServer:
    """A server bound to 127.0.0.1; port 0 takes a free one.

    Args:
        table: the game.
        viewer: the seat of the person at the page, None to watch; one who watches steps the game forward.
        port: where.
    """
    one_at_a_time = threading.Lock()
    content = page(table, viewer).encode()
    if viewer is not None:
        table.run()

    def look(_: dict[str, Any]) -> dict[str, Any]:
        return table.seen(viewer)

    def move(asked: dict[str, Any]) -> dict[str, Any]:
        if viewer is not None:
            table.move(viewer, int(asked["action"]))
            table.run()
        return table.seen(viewer)

    def say(asked: dict[str, Any]) -> dict[str, Any]:
        if viewer is not None:
            table.say(viewer, str(asked["text"]) or "I have nothing to add.")
            table.run()
        return table.seen(viewer)

    def step(_: dict[str, Any]) -> dict[str, Any]:
        if viewer is None:
            table.advance()
        return table.seen(viewer)

    answers = {"/api/table": look, "/api/move": move, "/api/say": say, "/api/step": step}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self._ours():
                return
            if urlsplit(self.path).path == "/":
                self._send(200, content, "text/html; charset=utf-8")
            elif urlsplit(self.path).path == "/api/table":
                self._answer(look, {})
            else:
                self._send(404, b"{}", "application/json")

        def do_POST(self) -> None:
            path = urlsplit(self.path).path
            length = self.headers.get("Content-Length") or "0"
            if not self._ours():
                return
            readable = length.isdecimal() and int(length) <= MAX_BODY
            if path not in answers or not readable or self.headers.get("Content-Type") != "application/json":
                self._send(404, b"{}", "application/json")
                return
            try:
                asked = json.loads(self.rfile.read(int(length)) or b"{}")
            except ValueError:
                asked = None
            if not isinstance(asked, dict):
                self._send(400, b'{"error": "expected a JSON object"}', "application/json")
                return
            self._answer(answers[path], asked)

        def _ours(self) -> bool:
            host = (self.headers.get("Host") or "").rpartition(":")[0]
            if host in ("127.0.0.1", "localhost"):
                return True
            self._send(403, b"only 127.0.0.1", "text/plain")
            return False

        def _answer(self, function: Any, asked: dict[str, Any]) -> None:
            try:
                with one_at_a_time:
                    status, answer = 200, function(asked)
            except (EvolventError, KeyError, ValueError, TypeError, OverflowError) as error:
                status, answer = 400, {"error": str(error)}
            self._send(status, json.dumps(answer).encode(), "application/json; charset=utf-8")

        def _send(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: the terminal belongs to the person."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def _asset(name: str) -> str:
    return resources.files("evolvent.methods.strategist").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
