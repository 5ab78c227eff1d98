"""Small files: read with the place of every problem, written completely or not at all."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from evolvent.errors import DataError


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each non-empty line; a name that ends in .gz is unpacked.

    Raises:
        DataError: a line that is not a JSON object, or a file that is not gzipped though its name says so.
    """
    for number, line in _numbered_lines(Path(path)):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not valid JSON ({error.msg})") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: expected a JSON object, got {type(row).__name__}")
        yield number, row


def _numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    unpack = gzip.open if path.suffix == ".gz" else open
    with unpack(path, "rt", encoding="utf-8-sig", errors="replace") as file:
        try:
            yield from enumerate(file, start=1)
        except gzip.BadGzipFile as error:
            raise DataError(f"{path}: not a gzipped file, though its name ends in .gz") from error


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write one JSON object a line."""
    return write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_json(path: str | Path, value: Any, *, indent: int | None = None) -> Path:
    """Write a value as JSON; what JSON does not know becomes its text."""
    return write_text(path, json.dumps(value, indent=indent, default=str) + "\n")


def write_text(path: str | Path, text: str) -> Path:
    """Write a file that is there completely or not at all, whatever happens meanwhile."""
    return write_whole(path, lambda new: new.write_text(text, encoding="utf-8", errors="surrogatepass"))


def write_whole(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Let `write` make a file that is there completely or not at all, whatever happens meanwhile.

    Args:
        path: where it will be.
        write: writes the file whose name it is given.
    """
    target = Path(path)
    temporary = target.with_name(target.name + ".new")
    write(temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    return temporary.replace(target)
