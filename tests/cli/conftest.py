"""The command line in this process, and small files for it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

WORDS = {"business": "bank profit shares outlook", "sport": "team goal cup final"}
QUICK = {
    "min_steps": 4,
    "evolve_epochs": 1,
    "warmup_lr": 0.01,
    "lora_r": 4,
    "batch_size": 4,
    "k_shots": 1,
    "n_configs": 2,
    "retriever": "bm25",
    "dtype": "float32",
    "precision": "float32",
    "force": "true",
}


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str


@pytest.fixture
def evolvent(monkeypatch, capsys):
    """`evolvent("log", folder)` as in a shell: exit code, standard output, standard error."""
    from evolvent.cli import main
    from evolvent.cli.console import console

    monkeypatch.setattr(console, "width", 200)

    def run(*arguments: object) -> Finished:
        monkeypatch.setattr(sys, "argv", ["evolvent", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Finished(ended.value.code or 0, captured.out, captured.err)

    return run


@dataclass(frozen=True)
class Files:
    """Three files of news, and the arguments of a run on them that takes a second or two."""

    folder: Path
    model: Path

    def write(self, name: str, rows: list[dict]) -> Path:
        path = self.folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    def news(self, name: str, start: int, count: int, *, labeled: bool = True) -> Path:
        rows = []
        for i in range(start, start + count):
            topic = list(WORDS)[i % 2]
            row = {"id": f"n{i}", "question": f"{WORDS[topic]} {i}", "options": list(WORDS)}
            rows.append({**row, "answer": topic} if labeled else row)
        return self.write(name, rows)

    def run(self, verb: str = "run", *, out: str = "run", test: bool = True, **settings: object) -> list[str]:
        values = {**QUICK, **settings}
        return [
            "semievol", verb, "--model", str(self.model), "--out", str(self.folder / out),
            "--labeled", str(self.folder / "labeled.jsonl"), "--unlabeled", str(self.folder / "unlabeled.jsonl"),
            *(["--test", str(self.folder / "test.jsonl")] if test else []),
            *(part for key, value in values.items() for part in ("--set", f"{key}={value}")),
        ]  # fmt: skip


@pytest.fixture
def files(tmp_path, tiny_folder):
    made = Files(tmp_path, tiny_folder)
    made.news("labeled.jsonl", 0, 8)
    made.news("unlabeled.jsonl", 100, 12, labeled=False)
    made.news("test.jsonl", 200, 8)
    return made
