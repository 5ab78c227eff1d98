"""What the documentation says is what the software does and what was measured."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import evolvent
from evolvent.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def commands() -> list[str]:
    lines = [line for page in PAGES for block in blocks(page, "console") for line in block.splitlines()]
    return sorted({line.partition(" #")[0].strip() for line in lines if line.startswith("evolvent ")})


@pytest.mark.parametrize("command", commands())
def test_every_command_in_the_docs_exists_with_its_options(command):
    words = shlex.split(command)[1:]
    verbs = [w for w in words[:3] if re.fullmatch(r"[a-z][a-z-]*", w)]
    for verb_count in range(len(verbs), 0, -1):
        shown = CliRunner().invoke(app, [*verbs[:verb_count], "--help"], env={"COLUMNS": "300", "TERM": "dumb"})
        if shown.exit_code == 0:
            break
    assert shown.exit_code == 0, shown.output
    for option in (w for w in words if w.startswith("--")):
        assert option in shown.output


@pytest.mark.parametrize(
    "code",
    [code for page in PAGES for code in blocks(page, "python")] + [p.read_text() for p in ROOT.glob("examples/*.py")],
)
def test_code_in_the_docs_uses_names_and_settings_that_exist(code):
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "evolvent":
            assert all(hasattr(evolvent, name.name) for name in node.names)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("Config"):
            settings = getattr(evolvent, node.func.id).model_fields
            assert all(keyword.arg in settings for keyword in node.keywords)


def test_tables_in_the_docs_are_those_of_the_results_files():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.tables", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_links_in_the_docs_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
