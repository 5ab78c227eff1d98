"""A run folder: settings, events, stages that are there completely or not at all, metrics.

    config.yaml  manifest.json  events.jsonl  metrics.json  report.html  checkpoint/
    stages/01-warmup/  stages/02-collaborate.tmp/ ...

A stage computes into `NN-name.tmp/` and is renamed when everything in it is on disk, so a run that is killed at any
instant continues with the first unfinished stage, and inside it with whatever that stage finds in its `.tmp` folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel

from evolvent.data.files import write_json, write_text
from evolvent.errors import ConfigError

logger = logging.getLogger(__name__)
T = TypeVar("T")

LIBRARIES = ("evolvent", "torch", "transformers", "peft", "trl", "accelerate", "numpy")
# Settings that say where and how to run, not what to compute.
PLACE_KEYS = frozenset({"output_dir", "on_config_change"})


class Run:
    """One run folder, locked while it is open. Use :meth:`open` in a `with` statement."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stages: dict[str, str] = {}  # name -> folder name
        self._lock = folder / "run.lock"

    @classmethod
    def open(
        cls,
        output_dir: str | Path,
        *,
        method: str,
        config: BaseModel,
        resume: bool = True,
        on_config_change: Literal["refuse", "rerun"] = "refuse",
    ) -> Run:
        """Create a run folder, or continue in one.

        Args:
            output_dir: the folder.
            method: what runs in it.
            config: its settings.
            resume: whether an existing run may be continued.
            on_config_change: what to do when the folder holds a run with other settings: refuse, or run again the
                stages whose inputs changed.

        Raises:
            ConfigError: the folder cannot be made, another process works in it, or it holds another run; names the
                differing settings.
        """
        run = cls(Path(output_dir))
        try:
            (run.folder / "stages").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{run.folder}: cannot be a run folder: {error.strerror}") from error
        run._acquire()
        try:
            run._check_config(method, config, resume, on_config_change)
        except BaseException:
            run.close()
            raise
        _repair(run.folder / "events.jsonl")
        done = sorted(p.name for p in (run.folder / "stages").iterdir() if not p.name.endswith(".tmp"))
        run._stages = {name.partition("-")[2]: name for name in done}
        run.event("opened", method=method, pid=os.getpid())
        return run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock."""
        self._lock.unlink(missing_ok=True)

    def path(self, name: str) -> Path:
        """A file or folder of the run."""
        return self.folder / name

    # --------------------------------------------------------------------------------------------- stages

    def stage(
        self,
        name: str,
        inputs: Mapping[str, Any],
        compute: Callable[[Path], None],
        *,
        load: Callable[[Path], T],
    ) -> T:
        """Compute a stage once, and load its result.

        Args:
            name: unique in the run.
            inputs: everything the result depends on; a stage whose inputs changed is computed again.
            compute: writes into the folder it is given. After a kill it gets the same folder again, as it was.
            load: reads the result from the finished folder.
        """
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()
        number = self._stages.get(name) or f"{len(self._stages) + 1:02d}-{name}"
        self._stages[name] = number
        final = self.folder / "stages" / number
        if final.is_dir():
            if _read_json(final / "DONE").get("inputs") == digest:
                return load(final)
            logger.info("stage %s: its inputs changed, so it is computed again", name)
            shutil.rmtree(final)
        working = final.with_name(final.name + ".tmp")
        if working.is_dir() and _read_json(working / "STARTED").get("inputs") != digest:
            shutil.rmtree(working)
        working.mkdir(exist_ok=True)
        before = float(_read_json(working / "STARTED").get("seconds", 0.0))
        started, worked = time.monotonic(), time.process_time()
        write_json(working / "STARTED", {"inputs": digest, "seconds": before})
        self.event("stage-started", stage=name)
        try:
            compute(working)
        except BaseException:
            write_json(working / "STARTED", {"inputs": digest, "seconds": before + time.monotonic() - started})
            raise
        seconds = before + time.monotonic() - started
        write_json(working / "DONE", {"inputs": digest, "seconds": seconds})
        (working / "STARTED").unlink()
        _sync_tree(working)
        working.rename(final)
        _sync(final.parent)
        cpu = time.process_time() - worked  # of this process only: on a shared machine it says more than the clock
        self.event("stage-finished", stage=name, seconds=round(seconds, 3), cpu_seconds=round(cpu, 3))
        return load(final)

    @property
    def seconds(self) -> dict[str, float]:
        """Working time of each finished stage, over all processes that worked on it."""
        return {
            name: float(_read_json(self.folder / "stages" / number / "DONE").get("seconds", 0.0))
            for name, number in self._stages.items()
        }

    def require_space(self, size: int, what: str) -> None:
        """Check for free disk space before a long stage.

        Raises:
            ConfigError: less than `size` bytes are free.
        """
        free = shutil.disk_usage(self.folder).free
        if free < size:
            raise ConfigError(
                f"{self.folder}: {what} needs about {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free: "
                "make room, or choose another output_dir"
            )

    # --------------------------------------------------------------------------------------------- records

    def event(self, kind: str, **fields: Any) -> None:
        """Append to events.jsonl."""
        line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": kind, **fields}, default=str)
        with (self.folder / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def write_metrics(self, metrics: Mapping[str, Any]) -> Path:
        """Write metrics.json: flat keys, with seconds/STAGE and peak_rss_mb added."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
        seconds = {f"seconds/{name}": round(value, 3) for name, value in self.seconds.items()}
        path = self.folder / "metrics.json"
        write_json(path, {**metrics, **seconds, "peak_rss_mb": round(peak, 1)}, indent=2)
        return path

    def _check_config(self, method: str, config: BaseModel, resume: bool, on_change: str) -> None:
        settings = {"method": method, **config.model_dump(mode="json")}
        path = self.folder / "config.yaml"
        if path.is_file():
            if not resume:
                raise ConfigError(
                    f"{self.folder} holds a run already: continue it with resume, or choose another folder"
                )
            old = yaml.safe_load(path.read_text()) or {}
            different = [
                f"  {key}: {old.get(key)!r} there, {settings.get(key)!r} now"
                for key in sorted(old.keys() | settings.keys())
                if key not in PLACE_KEYS and old.get(key) != settings.get(key)
            ]
            if different and on_change == "refuse":
                raise ConfigError(
                    f"{self.folder} holds a run with other settings:\n" + "\n".join(different) + "\n"
                    'Choose another output_dir, or on_config_change="rerun" (--rerun) to repeat only the stages '
                    "concerned."
                )
        write_text(path, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
        write_json(self.folder / "manifest.json", {"method": method, "versions": library_versions()}, indent=2)

    def _acquire(self) -> None:
        for _ in range(2):
            try:
                descriptor = os.open(self._lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                owner = self._lock.read_text().strip()
                if owner.isdecimal() and int(owner) != os.getpid() and _is_alive(int(owner)):
                    raise ConfigError(
                        f"{self.folder}: process {owner} is working in this folder; wait for it, or choose another one"
                    ) from None
                self._lock.unlink(missing_ok=True)
            else:
                os.write(descriptor, str(os.getpid()).encode())
                os.close(descriptor)
                return
        raise ConfigError(f"{self.folder}: another process took this folder just now")


class ShardedJsonl:
    """An append-only file of JSON rows with a "key" each, in which a stage finds what it computed before a kill.

    Args:
        path: the file; a torn last line is dropped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _repair(path)

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows, in the order in which they were written."""
        if self.path.is_file():
            with self.path.open(encoding="utf-8") as file:
                yield from (json.loads(line) for line in file)

    def done_keys(self) -> set[str]:
        """Keys of the rows that are there."""
        return {str(row["key"]) for row in self.rows()}

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows and wait until they are on disk."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())


def library_versions() -> dict[str, str]:
    """Installed versions of what a result depends on."""
    versions = {"python": sys.version.split()[0]}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _read_json(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _repair(path: Path) -> None:
    """Cut a torn last line off."""
    if not path.is_file():
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end != len(content):
        with path.open("r+b") as file:
            file.truncate(end)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
