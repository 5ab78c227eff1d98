"""Where a checkpoint comes from: `evolvent.json` beside the weights, and a model card made from it."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import BaseModel, Field

from evolvent.errors import ModelError
from evolvent.runs.folder import library_versions

logger = logging.getLogger(__name__)
FILE = "evolvent.json"


class Lineage(BaseModel):
    """One change to a model: the commit message of its weights.

    Attributes:
        parent: reference of the model it was made from.
        parent_digest: SHA-256 of the parent's weights, when they are files.
        weight_digest: SHA-256 of these weights.
        method: what made the change.
        config: all of its settings.
        data: name -> digest of what it read.
        seed: of the run.
        versions: of the libraries.
        wall_seconds: working time.
        metrics_before: of the parent; metrics_after: of this model, on the same questions.
        created: local time with zone.
        notes: sentences for the model card, such as why a change was kept.
    """

    parent: str
    parent_digest: str | None = None
    weight_digest: str | None = None
    method: str
    config: dict[str, Any] = {}
    data: dict[str, str] = {}
    seed: int | None = None
    versions: dict[str, str] = Field(default_factory=library_versions)
    wall_seconds: float | None = None
    metrics_before: dict[str, Any] = {}
    metrics_after: dict[str, Any] = {}
    created: str = Field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    notes: list[str] = []


def write_lineage(folder: Path, lineage: Lineage, *, place: Path | None = None) -> None:
    """Write `evolvent.json` and the model card `README.md` into a checkpoint folder, and note it in the ledger.

    Args:
        place: where the folder will stand when it is renamed afterwards.
    """
    lineage = lineage.model_copy(update={"weight_digest": weight_digest(folder)})
    (folder / FILE).write_text(lineage.model_dump_json(indent=2) + "\n")
    (folder / "README.md").write_text(model_card(folder, lineage))
    note_in_ledger(place or folder)


def ledger() -> Path | None:
    """The file that names every checkpoint folder that Evolvent made here, one a line.

    It is `$EVOLVENT_LEDGER`, else in the user's data directory; None when the variable is "off".
    """
    said = os.environ.get("EVOLVENT_LEDGER")
    if said == "off":
        return None
    return Path(said) if said else Path(platformdirs.user_data_dir("evolvent")) / "artefacts.txt"


def note_in_ledger(folder: Path) -> None:
    """Add a checkpoint folder to the ledger; a home that cannot be written is no reason to fail a run."""
    path = ledger()
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{folder.resolve()}\n")
    except OSError as error:
        logger.warning("%s cannot be written (%s): evolvent atlas will not list %s by itself", path, error, folder)


def ledger_folders() -> list[Path]:
    """Checkpoint folders of the ledger that still have a lineage, in the order in which they were made."""
    path = ledger()
    if path is None or not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Path(line) for line in dict.fromkeys(lines) if line and (Path(line) / FILE).is_file()]


def read_lineage(folder: str | Path) -> Lineage | None:
    """The lineage of a checkpoint folder; None when it has none."""
    path = Path(folder) / FILE
    return Lineage.model_validate_json(path.read_text()) if path.is_file() else None


def chain(reference: str | Path) -> list[tuple[str, Lineage]]:
    """The changes that led to a checkpoint, latest first, as far as the parents are on this disk.

    Raises:
        ModelError: the folder has no lineage.
    """
    found = []
    current = str(reference)
    seen = set()
    while current not in seen and (lineage := read_lineage(current)) is not None:
        seen.add(current)
        found.append((current, lineage))
        current = lineage.parent
    if not found:
        raise ModelError(f"{reference}: no {FILE}; this folder was not written by Evolvent")
    return found


def render_chain(reference: str | Path) -> str:
    """The chain as `evolvent log` prints it."""
    lines = []
    for place, lineage in chain(reference):
        digest = (lineage.weight_digest or "")[:12]
        lines.append(f"* {lineage.method}  {digest}  {lineage.created}")
        lines.append(f"|   {place}")
        for name, value in lineage.metrics_after.items():
            before = lineage.metrics_before.get(name)
            lines.append(f"|   {name}: {_number(before)} -> {_number(value)}")
        lines += [f"|   {note}" for note in lineage.notes]
        parent = lineage.parent
    lines.append(f"o {parent}")
    return "\n".join(lines)


def weight_digest(folder: str | Path) -> str | None:
    """SHA-256 over the safetensors files of a folder, by name; None when there are none."""
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        return None
    hasher = hashlib.sha256()
    for file in files:
        hasher.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                hasher.update(block)
    return hasher.hexdigest()


def model_card(folder: Path, lineage: Lineage) -> str:
    """A Hugging Face model card."""
    adapter = (folder / "adapter_config.json").is_file()
    head = ["---", "library_name: " + ("peft" if adapter else "transformers")]
    if not Path(lineage.parent).exists() and "/" in lineage.parent:
        head.append(f"base_model: {lineage.parent}")
    head += ["tags:", "- evolvent", f"- {lineage.method}", "---", ""]
    body = [
        f"# {lineage.method} on {lineage.parent}",
        "",
        f"Made by Evolvent {lineage.versions.get('evolvent', '')} on {lineage.created[:10]}. "
        "`evolvent log` on this folder prints where it comes from; every setting is in `evolvent.json`.",
        "",
    ]
    if lineage.metrics_after:
        body += ["| measured on the same questions | before | after |", "| --- | --- | --- |"]
        body += [
            f"| {name} | {_number(lineage.metrics_before.get(name))} | {_number(value)} |"
            for name, value in lineage.metrics_after.items()
        ]
        body.append("")
    body += [f"{note}." for note in lineage.notes]
    loader = (
        "from peft import AutoPeftModelForCausalLM as Model"
        if adapter
        else "from transformers import AutoModelForCausalLM as Model"
    )
    body += ["", "```python", loader, "", 'model = Model.from_pretrained("PATH")', "```", ""]
    return "\n".join([*head, *body])


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
