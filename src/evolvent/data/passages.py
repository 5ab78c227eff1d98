"""Texts to be learnt: a folder of text and Markdown files, one such file, JSONL, or strings; cut at paragraphs."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evolvent.data.files import read_jsonl
from evolvent.data.overlap import text_key
from evolvent.data.records import Passage
from evolvent.errors import DataError

Passages = str | Path | Iterable["Passage | str | Mapping[str, Any]"]  # what methods take

logger = logging.getLogger(__name__)
UNREADABLE = "\ufffd"  # what stands for bytes that are no text
TEXT_SUFFIXES = (".txt", ".md")
TEXT_COLUMNS = ("text", "context", "passage", "document", "content")
_SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])")
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|Prof|No|vs|etc|e\.g|i\.e|[A-Z])\.$")


def read_passages(source: Passages) -> list[Passage]:
    """Read texts.

    Args:
        source: a folder (its .txt and .md files, also those of its folders, by name), one such file, a .jsonl file,
            or texts, records and mappings. A row has `text` (or `context`, `passage`, `document`, `content`) or
            `messages`, and may have `id` and `title`; the rest goes to `meta`.

    Raises:
        DataError: an empty text, a row without one, a repeated id, nothing at all; names file, line and field.
    """
    passages = list(_passages(source))
    name = str(source) if isinstance(source, (str, Path)) else "passages"
    if not passages:
        raise DataError(f"{name}: no passages; expected .txt and .md files, JSONL rows with {TEXT_COLUMNS[0]!r}")
    places: dict[str, str] = {}
    kept: dict[str, Passage] = {}
    for passage, place in passages:
        if not passage.text.strip():
            raise DataError(f"{place}, field 'text': expected a text, got nothing")
        if passage.id in places and kept[passage.id].text != passage.text:
            raise DataError(f"{place}, field 'id': {passage.id!r} is also the id of {places[passage.id]}")
        places.setdefault(passage.id, place)
        kept.setdefault(passage.id, passage)  # the same text twice is one passage
    return list(kept.values())


def split_passages(passages: Sequence[Passage], max_words: int) -> list[Passage]:
    """Cut longer texts where paragraphs (else sentences) end; each piece has its text's title and id plus `#number`.

    Raises:
        DataError: a single sentence is longer than `max_words`.
    """
    pieces = []
    for passage in passages:
        if len(passage.text.split()) <= max_words:
            pieces.append(passage)
            continue
        texts = _packed(_units(passage, max_words), max_words)
        pieces += [
            passage.model_copy(update={"id": f"{passage.id}#{number}", "text": text})
            for number, text in enumerate(texts, start=1)
        ]
    return pieces


def sentences(text: str) -> list[str]:
    """The sentences of a text, in order; every other character of it lies between them as white space."""
    found: list[str] = []
    for piece in _SENTENCE.split(text.strip()):
        if found and _ABBREVIATION.search(found[-1]):
            found[-1] += f" {piece}"
        elif piece.strip():
            found.append(piece.strip())
    return found


def _passages(source: Passages) -> Iterator[tuple[Passage, str]]:
    if isinstance(source, Mapping) or not isinstance(source, (str, Path, Iterable)):
        raise DataError(f"passages: expected a folder, a file or a list, got {type(source).__name__}")
    if not isinstance(source, (str, Path)):
        for number, row in enumerate(source, start=1):
            place = f"passages, row {number}"
            if isinstance(row, Passage):
                yield row, place
            elif not isinstance(row, (str, Mapping)):
                raise DataError(f"{place}: expected a text or an object with 'text', got {type(row).__name__}")
            else:
                yield _from_row({"text": row} if isinstance(row, str) else dict(row), place), place
        return
    path = Path(source)
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.suffix.lower() in TEXT_SUFFIXES and p.is_file()):
            yield _from_file(file, file.relative_to(path).as_posix()), str(file)
    elif path.is_file() and path.suffix.lower() in TEXT_SUFFIXES:
        yield _from_file(path, path.name), str(path)
    elif path.is_file() and path.suffix.lower() == ".jsonl":
        for line, row in read_jsonl(path):
            yield _from_row(row, f"{path}, line {line}"), f"{path}, line {line}"
    else:
        raise DataError(f"{source}: no such folder, or not a .txt, .md or .jsonl file")


def _from_file(file: Path, name: str) -> Passage:
    content = file.read_bytes()
    text = content.decode("utf-8-sig", errors="replace")
    broken = text.count(UNREADABLE) - content.count(UNREADABLE.encode())
    if broken:
        logger.warning("%s: %d places are not UTF-8 and became %s: save the file as UTF-8", file, broken, UNREADABLE)
    heading = re.match(r"#\s+(.+)", text) if file.suffix.lower() == ".md" else None
    return Passage(id=name, text=text, title=heading[1].strip() if heading else None)


def _from_row(row: dict[str, Any], place: str) -> Passage:
    column = next((c for c in (*TEXT_COLUMNS, "messages") if c in row), None)
    if column is None:
        raise DataError(f"{place}, field 'text': expected a text or `messages`, got the fields {sorted(row)}")
    text = _dialogue(row[column], place) if column == "messages" else row[column]
    if not isinstance(text, str):
        raise DataError(f"{place}, field {column!r}: expected a text, got {type(text).__name__}")
    title = row.get("title")
    meta = {k: v for k, v in row.items() if k not in (column, "id", "title")}
    name = str(row["id"]) if row.get("id") is not None else text_key(text)[:12]
    return Passage(id=name, text=text, title=None if title is None else str(title), meta=meta)


def _dialogue(messages: Any, place: str) -> str:
    if not isinstance(messages, list) or not all(isinstance(m, Mapping) and "content" in m for m in messages):
        raise DataError(f"{place}, field 'messages': expected a list of objects with 'role' and 'content'")
    return "\n".join(f"{str(m.get('role', 'user')).capitalize()}: {m['content']}" for m in messages)


def _units(passage: Passage, max_words: int) -> list[str]:
    units: list[str] = []
    for paragraph in re.split(r"\n\s*\n", passage.text):
        fits = len(paragraph.split()) <= max_words
        units += [paragraph.strip()] if fits else sentences(paragraph)
    for unit in units:
        if len(unit.split()) > max_words:
            raise DataError(
                f"passage {passage.id!r}: a sentence of {len(unit.split())} words is longer than a chunk of "
                f"{max_words}: raise chunk_words, or put sentence ends into {unit[:60]!r}…"
            )
    return [unit for unit in units if unit]


def _packed(units: Sequence[str], max_words: int) -> list[str]:
    packed: list[list[str]] = [[]]
    for unit in units:
        if packed[-1] and sum(len(u.split()) for u in [*packed[-1], unit]) > max_words:
            packed.append([])
        packed[-1].append(unit)
    return ["\n\n".join(group) for group in packed if group]
