"""The parent's side of the sandbox: start a worker for a skill, send it states, believe nothing it says."""

from __future__ import annotations

import contextlib
import json
import logging
import marshal
import math
import mmap
import os
import selectors
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from evolvent.errors import ConfigError
from evolvent.methods.strategist.sandbox import seccomp
from evolvent.methods.strategist.sandbox.language import CheckedSource, SkillError

logger = logging.getLogger(__name__)
Level = Literal["strict", "language"]
SHARED_BYTES = 1 << 23
BATCH = 1024  # states in one message
FORBIDDEN = "a forbidden system call"
NO_LOCK = 70  # exit code of a worker whose kernel refuses the filter
UNLOCKED = (
    "{} has no seccomp filter here, so skills written by a model are not run: "
    'sandbox="language" runs them inside the language only'
)
_WORKER = Path(__file__).with_name("worker.py")


class WorkerLostError(SkillError):
    """A worker ended or was too slow, which may be the machine's fault and not the skill's."""


class SecurityError(SkillError):
    """A skill came as far as a forbidden system call; it was killed there."""


@dataclass(frozen=True)
class Limits:
    """What a skill may use.

    Attributes:
        fuel: loop passes and calls for one state.
        memory_mb: address space of its worker.
        timeout_seconds: for one batch.
        level: "strict" (language, limits and seccomp) or "language" (language and a process of its own).
    """

    fuel: int = 20_000
    memory_mb: int = 512
    timeout_seconds: float = 5.0
    level: Level = "strict"


class Worker:
    """One skill in a process of its own; closed with it, or by `with`.

    Raises:
        SkillError: the skill does not load.
        ConfigError: level "strict" on a machine without seccomp, or whose kernel refuses the filter.
    """

    def __init__(self, checked: CheckedSource, limits: Limits) -> None:
        if limits.level == "strict" and not seccomp.available():
            raise ConfigError(UNLOCKED.format(sys.platform))
        self.limits = limits
        descriptor = os.memfd_create("skill") if hasattr(os, "memfd_create") else _unlinked_file()
        os.ftruncate(descriptor, SHARED_BYTES)
        self._shared = mmap.mmap(descriptor, SHARED_BYTES)
        self._folder = tempfile.TemporaryDirectory(prefix="skill-")
        arguments = [descriptor, SHARED_BYTES, limits.memory_mb, limits.fuel, limits.level, _WORKER.parent]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-s", "-P", "-B", str(_WORKER), *map(str, arguments)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=(descriptor,),
                env={"PYTHONHASHSEED": "0"}, cwd=self._folder.name, start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(descriptor)
        source = checked.fuelled.encode()
        try:
            self._send(struct.pack("=i", len(source)) + source)
            self._answer(timeout=max(20.0, limits.timeout_seconds))  # a busy machine starts slowly
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # what a dead worker did not read
                    pipe.close()
        self._folder.cleanup()

    def evaluate(self, states: Sequence[Any], players: int) -> tuple[NDArray[np.float64], list[dict[str, float]]]:
        """Values (states, players) and the notes of each state.

        Raises:
            SkillError: the skill failed, ran out of fuel, memory or time, or gave something else than finite numbers.
            SecurityError: it tried a forbidden system call.
        """
        values = np.empty((len(states), players))
        notes: list[dict[str, float]] = []
        for start in range(0, len(states), BATCH):
            part = states[start : start + BATCH]
            packed = marshal.dumps(list(part))
            if len(packed) > SHARED_BYTES:
                raise SkillError(f"{len(part)} states do not fit into the shared memory")
            self._shared[: len(packed)] = packed
            self._send(struct.pack("=i", len(packed)))
            content = self._answer(timeout=self.limits.timeout_seconds)
            found, told = _read_values(content, len(part), players)
            if not np.isfinite(found).all():
                raise SkillError("a value is not a finite number")
            values[start : start + len(part)] = found
            notes += _read_notes(told, len(part))
        return values, notes

    def _send(self, message: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(message)
            self._process.stdin.flush()
        except BrokenPipeError:
            self._died()

    def _answer(self, timeout: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        head, until = b"", time.monotonic() + timeout
        with selectors.DefaultSelector() as waiting:
            waiting.register(descriptor, selectors.EVENT_READ)
            while len(head) < 5:
                if not waiting.select(max(0.0, until - time.monotonic())):
                    self._process.kill()
                    raise WorkerLostError(f"no answer within {timeout:g} seconds; the worker was ended")
                part = os.read(descriptor, 5 - len(head))
                if not part:
                    self._died()
                head += part
        length = struct.unpack("=i", head[1:])[0]
        if not 0 <= length <= SHARED_BYTES:
            raise SkillError("the worker gave an impossible length")
        content = bytes(self._shared[:length])
        if head[:1] == b"f":
            raise SkillError(content.decode(errors="replace"))
        return content

    def _died(self) -> None:
        code = self._process.wait()
        if code == NO_LOCK:
            raise ConfigError(UNLOCKED.format("this kernel"))
        if code == -signal.SIGSYS:
            raise SecurityError(f"{FORBIDDEN}: the kernel ended the worker")
        raise WorkerLostError(f"the worker ended by itself (code {code}), most likely for want of memory or stack")


def _read_values(content: bytes, states: int, players: int) -> tuple[NDArray[np.float64], bytes]:
    """Values (states, players), and the bytes of the notes behind them."""
    count = struct.unpack_from("=i", content)[0] if len(content) >= 4 else 0
    if count != states * players:
        raise SkillError(f"{count} values for {states} states of {players} players")
    end = 4 + 8 * count
    if len(content) < end:
        raise SkillError(f"the answer is {len(content)} bytes long, too short for {count} values")
    return np.frombuffer(content, np.float64, count, 4).reshape(states, players), content[end:]


def _read_notes(content: bytes, count: int) -> list[dict[str, float]]:
    """Notes of each state; names that are empty or cannot be printed are left out: they go into prompts and files."""
    try:
        listed = json.loads(content)
        notes = [{k: float(v) for k, v in row.items() if k.isprintable() and k and math.isfinite(v)} for row in listed]
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise SkillError(f"unreadable notes: {error}") from error
    if len(notes) != count:
        raise SkillError(f"{len(notes)} notes for {count} states")
    return notes


def _unlinked_file() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
