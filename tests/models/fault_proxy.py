"""A server between client and model server that does, request by request, what servers do on bad days."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # with the default of 5, connections that come together wait a second


class FaultProxy:
    """Forwards to `target`; each request takes the next of `faults`, or `always`.

    Faults: "429", "500", "401", "404", "hang", "cut", "malformed", "empty", "no-logprobs", "refuse-logprobs",
    "other-model".
    """

    def __init__(self, target: str, faults: list[str] | None = None, always: str | None = None) -> None:
        self.target, self.faults, self.always = target.removesuffix("/v1"), list(faults or []), always
        self.requests: list[dict[str, Any]] = []
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                proxy.handle(self)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self) -> FaultProxy:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            self.requests.append(body)
            fault = self.faults.pop(0) if self.faults else self.always
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client gave up on a hanging answer
            self.answer(handler, body, fault)

    def answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any], fault: str | None) -> None:
        if fault in ("429", "500", "401", "404"):
            headers = {"retry-after": "0"} if fault == "429" else {}
            send(handler, int(fault), {"error": {"message": f"this is a {fault}"}}, headers)
        elif fault == "refuse-logprobs" and body.get("logprobs"):
            send(handler, 400, {"error": {"message": "logprobs are not supported by this model"}})
        elif fault == "hang":
            time.sleep(5)
        elif fault == "cut":
            handler.send_response(200)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            handler.wfile.write(b'{"choices": [')
            handler.close_connection = True
        elif fault == "malformed":
            send(handler, 200, b'{"choices": [{"tex')
        elif fault == "empty":
            send(handler, 200, {})
        else:
            status, answer = self.forward(handler.path, body)
            if fault in ("no-logprobs", "refuse-logprobs"):
                answer["choices"][0].pop("logprobs", None)
            if fault == "other-model":
                answer["model"] = "somebody-else"
            send(handler, status, answer)

    def forward(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        request = urllib.request.Request(
            self.target + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with self.lock:
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())
        finally:  # before the client is answered, who may ask the next thing at once
            with self.lock:
                self.in_flight -= 1


def send(handler: BaseHTTPRequestHandler, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(content)))
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content)
