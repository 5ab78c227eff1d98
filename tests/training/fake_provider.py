"""OpenAI's files and fine-tuning endpoints on loopback, in the real wire format; other calls go to a model server."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlparse


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # with the default of 5, connections that come together wait a second


class FakeProvider:
    """A provider whose jobs take `polls` looks to finish.

    Args:
        target: model server that answers completions, whatever model is named.
        outcome: how jobs end.
        polls: looks at a job until it has ended.
        faults: statuses with which the next requests are refused, such as [500].
    """

    def __init__(
        self, target: str | None = None, *, outcome: str = "succeeded", polls: int = 3, faults: list[int] | None = None
    ) -> None:
        self.target, self.outcome, self.polls, self.faults = target, outcome, polls, list(faults or [])
        self.files: list[dict[str, Any]] = []
        self.contents: dict[str, str] = {}
        self.jobs: list[dict[str, Any]] = []
        self.looks: dict[str, int] = {}
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.handle(self, b"")

            def do_POST(self) -> None:
                provider.handle(self, self.rfile.read(int(self.headers["Content-Length"])))

            def log_message(self, *args: Any) -> None:
                pass

        self.server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self) -> FakeProvider:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def handle(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        if self.faults:
            status, answer = self.faults.pop(0), {"error": {"message": "a bad moment"}}
        else:
            status, answer = self.answer(handler, urlparse(handler.path).path.removeprefix("/v1"), body)
        content = json.dumps(answer).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def answer(self, handler: BaseHTTPRequestHandler, path: str, body: bytes) -> tuple[int, Any]:
        post = handler.command == "POST"
        if path == "/files":
            return 200, self.upload(handler, body) if post else listed(self.files)
        if path == "/fine_tuning/jobs":
            return 200, self.create(json.loads(body)) if post else listed(self.jobs)
        if path.startswith("/fine_tuning/jobs/"):
            return 200, self.look(path.rpartition("/")[2])
        return self.forward(path, json.loads(body))

    def upload(self, handler: BaseHTTPRequestHandler, body: bytes) -> dict[str, Any]:
        head = f"Content-Type: {handler.headers['Content-Type']}\r\n\r\n".encode()
        parts = {p.get_param("name", header="content-disposition"): p for p in parsed(head + body).iter_parts()}
        assert parts["purpose"].get_content().strip() == "fine-tune"
        number = len(self.files) + 1
        content = parts["file"].get_payload(decode=True).decode()
        for line in content.splitlines():  # what the provider checks on upload
            assert [m["role"] for m in json.loads(line)["messages"]][-1] == "assistant"
        file = {
            "id": f"file-{number}",
            "object": "file",
            "bytes": len(content),
            "created_at": 1700000000 + number,
            "filename": parts["file"].get_filename(),
            "purpose": "fine-tune",
            "status": "processed",
        }
        self.files.append(file)
        self.contents[file["id"]] = content
        return file

    def create(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert asked["training_file"] in self.contents
        number = len(self.jobs) + 1
        job = {
            "id": f"ftjob-{number}",
            "object": "fine_tuning.job",
            "created_at": 1700000100 + number,
            "model": asked["model"],
            "training_file": asked["training_file"],
            "status": "validating_files",
            "fine_tuned_model": None,
            "finished_at": None,
            "hyperparameters": {"n_epochs": asked["method"]["supervised"]["hyperparameters"]["n_epochs"]},
            "method": asked["method"],
            "organization_id": "org-1",
            "result_files": [],
            "seed": asked["seed"],
            "trained_tokens": None,
            "validation_file": None,
            "error": None,
        }
        self.jobs.append(job)
        return job

    def look(self, name: str) -> dict[str, Any]:
        job = next(j for j in self.jobs if j["id"] == name)
        if job["status"] in ("succeeded", "failed"):
            return job
        self.looks[name] = self.looks.get(name, 0) + 1
        job["status"] = "running" if self.looks[name] < self.polls else self.outcome
        if job["status"] == "succeeded":
            job |= {"fine_tuned_model": f"ft:{job['model']}:{name}", "trained_tokens": 1234}
        elif job["status"] == "failed":
            job["error"] = {"code": "invalid_training_file", "message": "line 3 has no messages", "param": None}
        return job

    def forward(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        assert self.target is not None
        request = urllib.request.Request(
            self.target + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return response.status, {**json.loads(response.read()), "model": body["model"]}
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())


def listed(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "data": items[::-1], "has_more": False}


def parsed(message: bytes) -> Any:
    return BytesParser(policy=HTTP).parsebytes(message)
