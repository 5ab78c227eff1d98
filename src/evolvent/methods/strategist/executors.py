"""Where matches are played: in this process, in a pool of processes, or on Ray. The results are the same."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, Self, TypeVar

from evolvent.errors import ConfigError

logger = logging.getLogger(__name__)
A = TypeVar("A")
B = TypeVar("B")
ATTEMPTS = 3  # a job whose process died is played again, twice


class Executor(Protocol):
    """Maps a function of the module's top level over jobs, results in their order."""

    def map(self, function: Callable[[A], B], jobs: Sequence[A]) -> Iterator[B]:
        """Results as they become ready, in order."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


class Serial:
    """In this process."""

    def map(self, function: Callable[[A], B], jobs: Sequence[A]) -> Iterator[B]:
        """One after another."""
        return map(function, jobs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to close."""


class Processes:
    """A pool of processes; one that dies takes only its job with it, which is done again."""

    def __init__(self, workers: int | None) -> None:
        self.workers = workers or os.cpu_count() or 1
        self._pool = self._started()

    def _started(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self.workers, mp_context=multiprocessing.get_context("spawn"))

    def map(self, function: Callable[[A], B], jobs: Sequence[A]) -> Iterator[B]:
        """All jobs at once, results in their order.

        Raises:
            BrokenProcessPool: a job killed its process three times.
        """
        done: dict[int, Any] = {}
        for attempt in range(ATTEMPTS):
            left = [i for i in range(len(jobs)) if i not in done]
            futures = {i: self._pool.submit(function, jobs[i]) for i in left}
            try:
                for i, future in futures.items():
                    done[i] = future.result()
                break
            except BrokenProcessPool:
                if attempt == ATTEMPTS - 1:
                    raise
                logger.warning("a process of the pool died; what it played is played again")
                self._pool.shutdown(wait=False, cancel_futures=True)
                self._pool = self._started()
        return iter([done[i] for i in range(len(jobs))])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class OnRay:
    """Ray tasks, on this machine or on the cluster of RAY_ADDRESS; a task whose node dies is done again by Ray."""

    def __init__(self, workers: int | None) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigError('executor="ray" needs Ray: pip install "evolvent[strategist]"') from error
        self.ray = ray
        if not ray.is_initialized():
            ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)

    def map(self, function: Callable[[A], B], jobs: Sequence[A]) -> Iterator[B]:
        """All jobs at once, results in their order."""
        task = self.ray.remote(max_retries=ATTEMPTS - 1)(function)
        found: Iterable[B] = self.ray.get([task.remote(job) for job in jobs])
        return iter(found)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.ray.shutdown()


def make_executor(kind: str, workers: int | None) -> Executor:
    """ "serial", "process" or "ray"."""
    if kind == "ray":
        return OnRay(workers)
    return Processes(workers) if kind == "process" else Serial()
