"""What the terminal shows: results on standard output, errors on standard error, a line for each running stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

console = Console()
errors = Console(stderr=True)


@contextmanager
def progress() -> Iterator[Callable[[str, int, int, str], None]]:
    """A line for each stage, with what is left of it."""
    tasks: dict[str, TaskID] = {}
    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("[dim]{task.fields[note]}"),
        console=console,
    )

    def on_progress(stage: str, done: int, total: int, note: str) -> None:
        if stage not in tasks:
            tasks[stage] = shown.add_task(stage, total=total, note=note)
        if done == total == 1:
            finished = shown.tasks[tasks[stage]].total or 1
            shown.update(tasks[stage], completed=finished, note="")
        else:
            shown.update(tasks[stage], completed=done, total=total, note=note)

    with shown:
        yield on_progress


def shortened(text: str, length: int = 70) -> str:
    """The beginning of a text that is longer than `length` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"
