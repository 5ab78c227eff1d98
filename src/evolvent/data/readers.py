"""Reading questions out of JSONL, CSV, Parquet, `datasets` folders and plain rows, with errors that name the place."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from evolvent.data.files import read_jsonl
from evolvent.data.overlap import text_key
from evolvent.data.records import HIDDEN_ANSWER, Question
from evolvent.data.tasks import LETTERS, rendered
from evolvent.errors import DataError

Rows = str | Path | Sequence[Question] | Iterable[Mapping[str, Any]]  # what methods take

COLUMN_NAMES = {
    "question": ("question", "text", "sentence", "input"),
    "choices": ("choices", "options"),
    "answer": ("answer", "label", "output"),
    "context": ("context",),
    "rationale": ("rationale", "explanation"),
    "id": ("id",),
}
MAX_LISTED_PROBLEMS = 3
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class RowProblem:
    """Why a row cannot be used: where it is, what was expected, what was there."""

    file: str
    line: int
    field: str
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}, field {self.field!r}: expected {self.expected}, got {self.got}"


@dataclass
class ReadReport:
    """What was found in a file.

    Attributes:
        path: the source.
        rows: usable rows.
        rejected: the others, with reasons.
        answer_convention: how answers were written, for example "letter (512), index from 1 (6)".
        columns: field -> column it was read from.
    """

    path: str
    rows: int = 0
    rejected: list[RowProblem] = field(default_factory=list)
    answer_convention: str | None = None
    columns: dict[str, str] = field(default_factory=dict)


class Questions(list[Question]):
    """A list of questions with the report of how they were read."""

    report: ReadReport

    @property
    def digest(self) -> str:
        """SHA-256 over all rows, in order."""
        hasher = hashlib.sha256()
        for question in self:
            hasher.update(question.model_dump_json().encode())
        return hasher.hexdigest()


def read_questions(
    source: str | Path | Iterable[Mapping[str, Any]],
    *,
    columns: Mapping[str, str] | None = None,
    labeled: bool = True,
    choices: Sequence[str] | None = None,
    skip_bad_rows: bool = False,
    max_rejected_share: float = 0.2,
    template: str | None = None,
) -> Questions:
    """Read questions.

    Args:
        source: a .jsonl, .json, .csv, .tsv or .parquet file, a folder written by `datasets`, a hub id, or rows.
        columns: field -> column, for example ``{"question": "Q"}``; common names are found by themselves.
        labeled: whether rows must have an answer. If not, an answer that is there is hidden in `meta`.
        choices: the options of rows that bring none.
        skip_bad_rows: count bad rows instead of stopping at them, up to `max_rejected_share` of all.
        max_rejected_share: more bad rows than this are an error all the same.
        template: Jinja template over a row's columns that makes the question's text (for tasks with several inputs).

    Answers may be letters, indices from 0 or 1, or the option's text; what a file uses is detected over all its rows.
    Rows in TRL's forms (`messages`, or `prompt` with `completion`) are questions whose answer is the last text.

    Raises:
        DataError: file, line, field and what was expected.
    """
    name = str(source) if isinstance(source, (str, Path)) else "rows"
    numbered = list(numbered_rows(source) if isinstance(source, (str, Path)) else enumerate(source, start=1))
    if not numbered:
        raise DataError(f"{name}: no rows")
    report = ReadReport(name)
    rows = [(line, _from_trl(dict(row))) for line, row in numbered]
    present = {key for _, row in rows for key in row}
    report.columns = _find_columns(name, present, columns or {}, labeled=labeled, template=template)
    raw = [_RawRow(name, line, row, report.columns, choices, template) for line, row in rows]
    convention = _Convention(raw)
    report.answer_convention = convention.said
    questions = Questions()
    seen: Counter[str] = Counter()
    for item in raw:
        try:
            questions.append(item.question(convention, labeled=labeled, seen=seen))
        except _BadRowError as bad:
            report.rejected.append(bad.problem)
    check_rejected(report, len(raw), skip_bad_rows, max_rejected_share)
    report.rows = len(questions)
    questions.report = report
    return questions


def as_questions(rows: Rows, *, labeled: bool) -> list[Question]:
    """Questions out of a file, rows, or questions; see :func:`read_questions`."""
    if isinstance(rows, (str, Path)):
        return list(read_questions(rows, labeled=labeled))
    given = list(rows)
    questions = [row for row in given if isinstance(row, Question)]
    if len(questions) == len(given):
        return questions if labeled else [_masked(q) for q in questions]
    return list(read_questions((row for row in given if isinstance(row, Mapping)), labeled=labeled))


def _masked(question: Question) -> Question:
    if question.answer is None:
        return question
    return question.model_copy(update={"answer": None, "meta": {**question.meta, HIDDEN_ANSWER: question.answer}})


class _BadRowError(Exception):
    def __init__(self, problem: RowProblem) -> None:
        self.problem = problem


class _RawRow:
    """One row before its answer's convention is known."""

    def __init__(
        self,
        file: str,
        line: int,
        row: dict[str, Any],
        columns: Mapping[str, str],
        default_choices: Sequence[str] | None,
        template: str | None,
    ) -> None:
        self.file, self.line, self.row, self.columns, self.template = file, line, row, columns, template
        self.problem: RowProblem | None = None
        self.choices: tuple[str, ...] | None = None
        self.answer = _text(self._value("answer"))
        try:
            self.choices = self._read_choices(default_choices)
        except _BadRowError as bad:
            self.problem = bad.problem

    def question(self, convention: _Convention, *, labeled: bool, seen: Counter[str]) -> Question:
        if self.problem:
            raise _BadRowError(self.problem)
        text = self._question_text()
        answer = self.answer
        if self.choices and answer is not None:
            resolved = convention.resolve(answer, self.choices)
            if resolved is None and labeled:
                self._bad("answer", f"one of {list(self.choices)}, a letter or an index", repr(answer))
            answer = resolved
        if labeled and answer is None:
            self._bad("answer", "an answer", "nothing")
        used = set(self.columns.values())
        meta = {k: v for k, v in self.row.items() if k not in used and isinstance(k, str) and k}
        if not labeled:
            if answer is not None:
                meta[HIDDEN_ANSWER] = answer
            answer = None
        given = _text(self._value("id"))
        name = given if given is not None else text_key(text + "\x00" + "\x00".join(self.choices or ()))[:16]
        seen[name] += 1
        if seen[name] > 1:
            name = f"{name}#{seen[name]}"
        return Question(
            id=name,
            question=text,
            choices=self.choices,
            answer=answer,
            context=_text(self._value("context")),
            rationale=_text(self._value("rationale")),
            meta=meta,
        )

    def _question_text(self) -> str:
        if self.template is not None:
            return rendered(self.template, self.row, f"{self.file}, line {self.line}")
        text = _text(self._value("question"))
        if text is None or not text.strip():
            self._bad("question", "a text", "nothing")
        assert text is not None
        return text

    def _read_choices(self, default: Sequence[str] | None) -> tuple[str, ...] | None:
        value = self._value("choices")
        if value is None or value == "":
            return tuple(default) if default else None
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except json.JSONDecodeError:
                self._bad("choices", "a list, or a JSON list in a string", repr(value[:60]))
        if isinstance(value, Mapping) and "text" in value:  # the hub's form of ARC: {"text": [...], "label": [...]}
            value = value["text"]
        if hasattr(value, "tolist"):
            value = value.tolist()
        if not isinstance(value, (list, tuple)) or len(value) < 2:
            self._bad("choices", "a list of at least two options", repr(value)[:60])
        choices = tuple((_text(c) or "").strip() for c in value)
        if len(set(choices)) != len(choices):
            self._bad("choices", "different options", repr(list(choices))[:80])
        return choices

    def _value(self, name: str) -> Any:
        return self.row.get(self.columns[name]) if name in self.columns else None

    def _bad(self, name: str, expected: str, got: str) -> None:
        raise _BadRowError(RowProblem(self.file, self.line, self.columns.get(name, name), expected, got))


class _Convention:
    """How a file writes the answers of its choice questions."""

    def __init__(self, rows: Sequence[_RawRow]) -> None:
        kinds: Counter[str] = Counter()
        digits: list[tuple[int, int]] = []
        for row in rows:
            if row.answer is None or not row.choices:
                continue
            kind = self._kind(row.answer, row.choices)
            kinds[kind] += 1
            if kind == "index":
                digits.append((int(row.answer), len(row.choices)))
        # An answer of 0 fixes counting from 0, one equal to the number of options fixes counting from 1.
        # Beside letters, digits are labels in place of A, B, C ..., so they count from 1.
        has_zero = any(d == 0 for d, _ in digits)
        has_last = any(d == n for d, n in digits)
        self.first = 1 if (has_last and not has_zero) or (kinds["letter"] and not has_zero) else 0
        self.ambiguous = has_zero and has_last
        names = {"index": f"index from {self.first}"}
        self.said = ", ".join(f"{names.get(k, k)} ({n})" for k, n in kinds.most_common()) or None

    def resolve(self, answer: str, choices: Sequence[str]) -> str | None:
        """The option that an answer means."""
        kind = self._kind(answer, choices)
        if kind == "text":
            return answer.strip()
        index = None
        if kind == "letter":
            index = LETTERS.index(answer.strip().upper())
        elif kind == "index" and not self.ambiguous:
            index = int(answer) - self.first
        if index is None or not 0 <= index < len(choices):
            return None
        return choices[index]

    @staticmethod
    def _kind(answer: str, choices: Sequence[str]) -> str:
        said = answer.strip()
        if said in choices:
            return "text"
        if len(said) == 1 and said.upper() in LETTERS:
            return "letter"
        return "index" if said.isdecimal() else "unreadable"


def numbered_rows(source: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and columns of each row of a file, folder or data set; see :func:`read_questions`."""
    path = Path(source)
    suffix = path.suffix.lower()
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{source}: the file is empty")
    if suffix == ".jsonl" and path.is_file():
        yield from read_jsonl(path)
    elif suffix == ".json" and path.is_file():
        try:
            rows = json.loads(path.read_text(encoding="utf-8-sig", errors="replace"))
        except json.JSONDecodeError as error:
            raise DataError(f"{source}, line {error.lineno}: not valid JSON ({error.msg})") from error
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{source}: expected a JSON list of objects (or JSONL, with the ending .jsonl)")
        yield from enumerate(rows, start=1)
    elif suffix in (".csv", ".tsv") and path.is_file():
        csv.field_size_limit(sys.maxsize)
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ",")
            for row in reader:
                yield reader.line_num, {k: v for k, v in row.items() if k is not None}
    elif suffix == ".parquet" and path.is_file():
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            batches = pq.ParquetFile(path).iter_batches()
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{source}: not a readable Parquet file ({error})") from error
    elif path.is_dir():
        import datasets

        try:
            loaded = datasets.load_from_disk(str(path))
        except FileNotFoundError as error:
            raise DataError(f"{source}: not a folder that `datasets` wrote (save_to_disk)") from error
        if isinstance(loaded, datasets.DatasetDict):
            raise DataError(f"{source}: holds several splits {sorted(loaded)}; name one of its folders")
        yield from enumerate(loaded, start=1)
    elif path.suffix or path.exists() or str(source).startswith((".", "/")):
        raise DataError(f"{source}: no such file, or not .jsonl, .json, .csv, .tsv, .parquet or a datasets folder")
    else:
        import datasets

        name, _, split = str(source).partition(":")
        try:
            loaded = datasets.load_dataset(name, split=split or "train")
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(
                f"{source}: no such file, and no dataset of that name can be had ({str(error).splitlines()[0]})"
            ) from error
        yield from enumerate(loaded, start=1)


def _find_columns(
    file: str, present: Collection[str], given: Mapping[str, str], *, labeled: bool, template: str | None
) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, candidates in COLUMN_NAMES.items():
        wanted = given.get(name)
        if wanted is not None and wanted not in present:
            raise DataError(f"{file}: no column {wanted!r} for {name}; the file has {sorted(map(str, present))}")
        column = wanted or next((c for c in candidates if c in present), None)
        if column is not None:
            found[name] = column
    unknown = set(given) - set(COLUMN_NAMES)
    if unknown:
        raise DataError(f"columns: unknown field {sorted(unknown)[0]!r}; fields are {sorted(COLUMN_NAMES)}")
    needed = [n for n in ("question",) if template is None] + (["answer"] if labeled else [])
    for name in needed:
        if name not in found:
            raise DataError(
                f"{file}: no column for {name!r}; the file has {sorted(map(str, present))}. "
                f"Map it with --columns {name}=COLUMN"
            )
    return found


def _from_trl(row: dict[str, Any]) -> dict[str, Any]:
    """TRL's `messages` and `prompt` + `completion` rows as question and answer."""
    if "question" in row:
        return row
    messages = row.get("messages")
    if _is_conversation(messages):
        del row["messages"]
        last = messages[-1]
        before = messages[:-1] if last["role"] == "assistant" else messages
        row["question"] = "\n".join(m["content"] for m in before if m["role"] == "user")
        if last["role"] == "assistant":
            row["answer"] = last["content"]
    elif (asked := _content(row.get("prompt"))) is not None:
        row["question"] = asked
        if (answered := _content(row.get("completion"))) is not None:
            row["answer"] = answered.strip()
        row = {k: v for k, v in row.items() if k not in ("prompt", "completion")}
    return row


def _content(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    return "\n".join(m["content"] for m in value) if _is_conversation(value) else None


def _is_conversation(value: Any) -> TypeGuard[list[Mapping[str, Any]]]:
    if not isinstance(value, (list, tuple)) or not value:
        return False
    return all(isinstance(m, Mapping) and isinstance(m.get("content"), str) and "role" in m for m in value)


def _text(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = _LONE_SURROGATE.sub("\ufffd", str(value))  # what no UTF-8 file, and no tokenizer, can hold
    return text if text.strip() else None


def check_rejected(report: ReadReport, total: int, skip: bool, max_share: float) -> None:
    """Stop at bad rows, or at too many of them when they may be skipped.

    Raises:
        DataError: the first bad rows.
    """
    if not report.rejected:
        return
    listed = "\n".join(f"  {problem}" for problem in report.rejected[:MAX_LISTED_PROBLEMS])
    more = len(report.rejected) - MAX_LISTED_PROBLEMS
    listed += f"\n  and {more} more" if more > 0 else ""
    share = len(report.rejected) / total
    if not skip:
        raise DataError(
            f"{len(report.rejected)} of {total} rows cannot be used (--skip-bad-rows leaves them out):\n{listed}"
        )
    if share > max_share:
        raise DataError(f"{share:.0%} of the {total} rows cannot be used, more than {max_share:.0%}:\n{listed}")
