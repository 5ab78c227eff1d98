"""A real llama.cpp server: `python llama_server.py FILE.gguf PORT`; prints READY when it answers."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path


def start(gguf: Path) -> tuple[subprocess.Popen[str], str]:
    """Serve a GGUF file on a free port; the process, and the URL of its API."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, __file__, str(gguf), str(port)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert server.stdout is not None
    for line in server.stdout:
        if line.startswith("READY"):
            break
    url = f"http://127.0.0.1:{port}"
    for _ in range(100):
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5)
            return server, f"{url}/v1"
        except OSError:
            time.sleep(0.2)
    server.kill()
    raise RuntimeError("the llama.cpp server did not come up")


def main(gguf: str, port: str) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = gguf
    params.hostnames = ["127.0.0.1"]
    params.port = int(port)
    params.n_ctx = 2048
    params.n_parallel = 2
    params.cache_prompt = False  # a reused prefix was rounded in another batch: answers would depend on earlier ones
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = 1
    params.verbosity = 0
    server = xllamacpp.Server(params)
    print("READY", server.listening_address, flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main(*sys.argv[1:])
