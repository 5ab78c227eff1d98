"""The package as a whole: what importing it costs, and that its public names are there."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import evolvent


def imported_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after a statement."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


HEAVY = {"torch", "transformers", "peft", "trl", "accelerate", "datasets", "scipy", "sklearn", "matplotlib", "pandas"}


def test_importing_the_package_imports_no_heavy_library():
    assert not imported_by("import evolvent") & HEAVY


def test_neither_does_the_command_line_before_it_is_told_what_to_do():
    assert not imported_by("import evolvent.cli") & HEAVY


def test_describing_data_tasks_and_settings_needs_no_torch():
    names = (
        "Question, Passage, ChoiceTask, NumericTask, TextTask, SemiEvolConfig, Sampling, read_questions, EvolventError"
    )
    assert not imported_by(f"from evolvent import {names}") & {"torch", "transformers"}


def test_every_public_name_is_there_and_is_the_one_of_its_home():
    for name in evolvent.__all__:
        assert getattr(evolvent, name) is not None
        assert name in dir(evolvent)
    for name, home in evolvent._HOMES.items():
        assert getattr(evolvent, name) is getattr(importlib.import_module(home), name)
    assert set(evolvent.__all__) == set(evolvent._HOMES) | set(evolvent._MODULES)
    namespace: dict[str, object] = {}
    exec("from evolvent import *", namespace)
    assert set(evolvent.__all__) <= set(namespace)


def test_type_checkers_see_the_same_names():
    from pathlib import Path

    source = Path(evolvent.__file__).read_text()
    block = source[source.index("if TYPE_CHECKING:") : source.index("def __getattr__")]
    assert {line.rsplit(" as ", 1)[1] for line in block.splitlines() if " as " in line} == set(evolvent.__all__)


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(evolvent, "SemiEvo")


def test_the_version_is_the_one_that_is_installed():
    from importlib import metadata

    assert metadata.version("evolvent") == evolvent.__version__
