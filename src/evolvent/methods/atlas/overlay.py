"""What a user adds to the bundled table: a journal of changes, and the rows that follow from it.

    journal.jsonl    one action a line (who, when, and old and new value of each cell); only ever appended to
    entries.jsonl    the rows that differ from the bundled table: made from the journal, made again when damaged
    snapshots/       revisions of the list, as the next merge needs them

One action is one line, so it is there completely or not at all; undo is one more action.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from evolvent.data.files import write_jsonl
from evolvent.errors import DataError
from evolvent.methods.atlas.entry import Entry, by_id, checked_entry

logger = logging.getLogger(__name__)
SCHEMA = 1


@dataclass(frozen=True)
class Change:
    """One cell of one row; the cell "*" is the whole row, and None there means that there is no such row."""

    id: str
    cell: str
    old: Any
    new: Any


@dataclass(frozen=True)
class Action:
    """One line of the journal.

    Attributes:
        n: number, from 1; action: "add", "edit", "remove", "import", "refresh", "hub" or "undo".
        undoes: number of the action that an undo takes back; snapshot: revision that an import brought.
    """

    n: int
    action: str
    who: str
    when: str
    changes: tuple[Change, ...] = ()
    undoes: int | None = None
    snapshot: str | None = None
    note: str | None = None


@dataclass
class Overlay:
    """The user's side of the table.

    Args:
        folder: where it lives; when it cannot be written, changes last as long as the process and a warning says so.
        user: who signs.
        lock_timeout_s: how long to wait for another process.
        of: name of the table that it lies over: changes to one table mean nothing to another one.
    """

    folder: Path
    user: str = field(default_factory=getpass.getuser)
    lock_timeout_s: float = 10.0
    of: str = "bundled"
    in_memory: bool = False
    _memory: list[Action] = field(default_factory=list)
    _snapshots: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def journal(self) -> Path:
        """The file of actions."""
        return self.folder / "journal.jsonl"

    @property
    def rows(self) -> Path:
        """The file of rows that differ from the bundled table."""
        return self.folder / "entries.jsonl"

    # ------------------------------------------------------------------------------------------------ reading

    def table(self, bundled: Sequence[Entry], digest: str) -> list[Entry]:
        """The bundled table with the user's changes.

        Args:
            bundled: its rows; digest: of their file.

        Raises:
            DataError: the overlay was written by a newer version, or holds a row that breaks a rule.
        """
        if not self.in_memory and not self.journal.is_file():
            return list(bundled)
        actions = self.actions()
        stored = None if self.in_memory else self._stored_rows(len(actions), digest)
        if stored is None:
            return replay(bundled, living(actions))
        table: dict[str, Entry | None] = {**by_id(bundled), **stored}
        return [e for e in table.values() if e is not None]

    def actions(self) -> list[Action]:
        """Every action, in order; a torn last line, of a process that was killed, is left out.

        Raises:
            DataError: a line in the middle cannot be read, or the file is of a newer version.
        """
        if self.in_memory or not self.journal.is_file():
            return list(self._memory)
        found: list[Action] = []
        lines = self.journal.read_text(encoding="utf-8", errors="replace").split("\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                if number == len(lines):
                    logger.warning("%s: the last line is torn and left out", self.journal)
                    break
                raise DataError(f"{self.journal}, line {number}: cannot be read; restore it from a copy") from error
            _require_schema(row, self.journal)
            if row.get("of", self.of) != self.of:
                raise DataError(
                    f"{self.folder}: holds changes to another table ({row['of']}, this is {self.of}); choose another "
                    "overlay_dir"
                )
            if "n" in row:
                changes = tuple(Change(**c) for c in row.pop("changes", ()))
                found.append(Action(**row, changes=changes))
        return found

    def _stored_rows(self, actions: int, digest: str) -> dict[str, Entry | None] | None:
        """Rows of entries.jsonl; None when it does not belong to this journal and table, or is damaged."""
        try:
            head, *lines = self.rows.read_text(encoding="utf-8").splitlines()
            said = json.loads(head)
            _require_schema(said, self.rows)
            if said.get("journal") != actions or said.get("table") != digest or said.get("rows") != len(lines):
                return None
            found: dict[str, Entry | None] = {}
            for line in lines:
                row = json.loads(line)
                found[row["id"]] = None if row.get("removed") else Entry.model_validate(row)
            return found
        except (OSError, ValueError, AttributeError, KeyError):
            if self.rows.exists():
                logger.warning("%s is damaged; its rows are made again from the journal", self.rows)
            return None

    # ------------------------------------------------------------------------------------------------ writing

    def commit(
        self,
        action: str,
        bundled: Sequence[Entry],
        digest: str,
        changes: Callable[[list[Entry]], Sequence[Change]],
        *,
        snapshot: tuple[str, Callable[[], Sequence[Mapping[str, Any]]]] | None = None,
        undoes: int | None = None,
        note: str | None = None,
    ) -> list[Entry]:
        """Apply changes behind the lock and write them down.

        Args:
            action: its name.
            bundled, digest: see :meth:`table`.
            changes: from the table as it is now, with what other processes did, to the changes.
            snapshot: name of a revision of the list, and its rows, asked for after the changes.
            undoes: of an undo.
            note: for the reader of the journal.

        Returns:
            The table afterwards.

        Raises:
            DataError: locked by another process, the disk is full, or a row would break a rule; nothing is changed.
        """
        with self._locked():
            before = self.actions()
            wanted = tuple(changes(self.table(bundled, digest)))
            if not wanted and undoes is None and snapshot is None:
                return self.table(bundled, digest)
            now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            revision = snapshot[0] if snapshot else None
            done = Action(len(before) + 1, action, self.user, now, wanted, undoes, revision, note)
            after = replay(bundled, living([*before, done]))
            if self.in_memory:
                self._memory.append(done)
                if snapshot is not None:
                    self._snapshots[snapshot[0]] = [dict(row) for row in snapshot[1]()]
                return after
            try:
                if snapshot is not None:
                    (self.folder / "snapshots").mkdir(exist_ok=True)
                    write_jsonl(self._snapshot_path(snapshot[0]), snapshot[1]())
                self._append(done)
                self._write_rows(bundled, after, len(before) + 1, digest)
            except OSError as error:
                raise DataError(
                    f"{self.folder}: the change cannot be written ({error.strerror}); what was there is intact. "
                    "Make room, or choose another overlay_dir"
                ) from error
            return after

    def undo(self, bundled: Sequence[Entry], digest: str) -> Action:
        """Take back the last action that is not undone yet.

        Raises:
            DataError: there is none.
        """
        done = living(self.actions())
        if not done:
            raise DataError(f"{self.folder}: nothing to undo")
        self.commit("undo", bundled, digest, lambda _: (), undoes=done[-1].n)
        return done[-1]

    def base(self) -> list[dict[str, Any]] | None:
        """The revision of the list that was imported last; None before the first import."""
        names = [a.snapshot for a in living(self.actions()) if a.snapshot]
        if not names:
            return None
        if self.in_memory:
            return self._snapshots.get(names[-1])
        lines = self._snapshot_path(names[-1]).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def _snapshot_path(self, name: str) -> Path:
        return self.folder / "snapshots" / f"{name}.jsonl"

    def _append(self, action: Action) -> None:
        """Add one line; when that fails half way, cut the file back to what it was."""
        row = {k: v for k, v in asdict(action).items() if v is not None}
        line = json.dumps(row, ensure_ascii=False) + "\n"
        head = "" if self.journal.exists() else json.dumps({"schema_version": SCHEMA, "of": self.of}) + "\n"
        with self.journal.open("ab") as file:
            size = file.tell()
            try:
                if size and not self._ends_with_newline():
                    size = self._cut_torn_line()
                    file.seek(0, os.SEEK_END)
                file.write((head + line).encode("utf-8", "surrogatepass"))
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                try:
                    os.truncate(self.journal, size)
                finally:
                    raise

    def _ends_with_newline(self) -> bool:
        with self.journal.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def _cut_torn_line(self) -> int:
        end = self.journal.read_bytes().rfind(b"\n") + 1
        os.truncate(self.journal, end)
        return end

    def _write_rows(self, bundled: Sequence[Entry], after: Sequence[Entry], actions: int, digest: str) -> None:
        old, new = by_id(bundled), by_id(after)
        rows: list[Mapping[str, Any]] = [e.row() for name, e in new.items() if old.get(name) != e]
        rows += [{"id": name, "removed": True} for name in old if name not in new]
        head = {"schema_version": SCHEMA, "journal": actions, "table": digest, "rows": len(rows)}
        write_jsonl(self.rows, [head, *rows])

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if not self.in_memory:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                (self.folder / ".writable").touch()
            except OSError as error:
                logger.warning("%s cannot be written (%s): changes last as long as this process", self.folder, error)
                self.in_memory = True
                self._memory = self.actions() if self.journal.is_file() else []
        if self.in_memory:
            yield
            return
        lock = FileLock(self.folder / "overlay.lock")
        try:
            lock.acquire(timeout=self.lock_timeout_s)
        except Timeout as error:
            raise DataError(
                f"{self.folder}: another process has been writing for {self.lock_timeout_s:g} s; try again, or raise "
                "lock_timeout_s"
            ) from error
        try:
            yield
        finally:
            lock.release()


def living(actions: Sequence[Action]) -> list[Action]:
    """Actions that still count: neither undone nor undoing."""
    dead = {a.undoes for a in actions if a.undoes is not None}
    return [a for a in actions if a.n not in dead and a.undoes is None]


def replay(bundled: Sequence[Entry], actions: Sequence[Action]) -> list[Entry]:
    """The table that follows from the bundled one and the actions.

    Raises:
        DataError: a row would break a rule.
    """
    table: dict[str, dict[str, Any] | None] = {}
    known = by_id(bundled)
    for action in actions:
        for change in action.changes:
            if change.cell == "*":
                table[change.id] = change.new
                continue
            row = table.get(change.id)
            if row is None and change.id in known and change.id not in table:
                row = known[change.id].model_dump(mode="json")
            if row is not None:  # else the row went away with an undone action or a newer bundled table
                table[change.id] = {**row, change.cell: change.new}
    made = {name: None if row is None else checked_entry(row, f"row {name}") for name, row in table.items()}
    merged: dict[str, Entry | None] = {**known, **made}
    return [e for e in merged.values() if e is not None]


def _require_schema(row: Mapping[str, Any], path: Path) -> None:
    version = row.get("schema_version", SCHEMA)
    if version > SCHEMA:
        raise DataError(
            f"{path}: written by a newer Evolvent (schema {version}, this one knows {SCHEMA}): upgrade evolvent, or "
            "choose another overlay_dir"
        )
