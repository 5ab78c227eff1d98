"""The file of measured claims: `results/METHOD.json`, one row a claim, replaced when it is measured again."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]


def record(method: str, rows: list[dict[str, Any]], command: str) -> None:
    """Write rows {claim, value, unit, comparator, comparator_value, ratio, ci95, p_value, n, seeds} and print them."""
    path = FOLDER / f"{method}.json"
    stored = json.loads(path.read_text()) if path.is_file() else []
    claims = {row["claim"] for row in rows}
    told = {"command": command, "commit": _commit(), "machine": _machine()}
    stored = [row for row in stored if row["claim"] not in claims] + [{**row, **told} for row in rows]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(stored, indent=1) + "\n")
    table = Table("claim", "value", "comparator", "its value", "ratio", "95 % interval", "p")
    for row in rows:
        interval = row.get("ci95")
        table.add_row(
            row["claim"],
            f"{_number(row['value'])} {row.get('unit', '')}",
            row.get("comparator", ""),
            _number(row.get("comparator_value")),
            _number(row.get("ratio")),
            " – ".join(_number(x) for x in interval) if interval else "",
            _number(row.get("p_value")),
        )
    Console().print(table)


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}"


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def _machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
