"""The default model out of its wheel: converted once, whatever else happens at that moment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from evolvent.models.embedded import embedded_gguf
from evolvent.models.resolve import load
from evolvent.runs.lineage import weight_digest

pytestmark = pytest.mark.real

RACE = """
import os, signal, time
from pathlib import Path
import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
from evolvent.models.embedded import cache_folder, embedded_folder

def forked():
    child = os.fork()
    if child == 0:
        print(embedded_folder(), flush=True)
        os._exit(0)
    return child

def in_progress():
    return [p for p in cache_folder().glob(".*") if p.is_dir()]

killed = forked()
while not any(any(folder.iterdir()) for folder in in_progress()):
    time.sleep(0.005)
os.kill(killed, signal.SIGKILL)
assert os.WIFSIGNALED(os.waitpid(killed, 0)[1])
assert len(in_progress()) == 1, "half a model must be there"
both = [forked(), forked()]
assert [os.waitpid(child, 0)[1] for child in both] == [0, 0]
"""


def test_two_processes_convert_at_once_after_a_third_was_killed_in_the_middle(embedded_model, tmp_path):
    environment = {**os.environ, "EVOLVENT_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", RACE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split()
    assert first == second
    folder = Path(first)
    assert [p for p in tmp_path.iterdir() if p.is_dir()] == [folder]  # no leftovers
    assert folder.name.startswith(embedded_gguf().stem)
    assert weight_digest(folder) == weight_digest(Path(embedded_model.module.name_or_path))
    copy = load(folder, dtype="float32")
    prompt, options = ["The capital of France is"], [[" Paris", " Rome"]]
    assert copy.choose(prompt, options) == embedded_model.choose(prompt, options)
