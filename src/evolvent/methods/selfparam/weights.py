"""From trained weights to a plain model folder with the shape and type of the original, its lineage and its ledger."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from evolvent.data.files import read_jsonl, write_jsonl
from evolvent.data.overlap import text_key
from evolvent.errors import DataError
from evolvent.models.local import LocalModel
from evolvent.models.quiet import quiet
from evolvent.models.resolve import adapter_base, checkpoint_folder, load_local
from evolvent.runs.lineage import Lineage, weight_digest, write_lineage

if TYPE_CHECKING:
    from evolvent.methods.selfparam.selfparam import SelfParam


@quiet()
def plain_checkpoint(checkpoint: Path, folder: Path) -> None:
    """Merge an adapter into full float32 weights in its place; drop the trainer's states."""
    if (checkpoint / "adapter_config.json").is_file():
        model = load_local(checkpoint, dtype="float32")
        merged = folder / "merged"
        model.module.merge_and_unload().save_pretrained(merged)
        model.tokenizer.save_pretrained(merged)
        shutil.rmtree(checkpoint)
        merged.rename(checkpoint)
    shutil.rmtree(folder / "trainer", ignore_errors=True)


def stored_dtype(reference: str) -> str:
    """The type in which a model's weights are stored."""
    from transformers import AutoConfig

    folder = checkpoint_folder(reference)
    adapter = Path(folder) / "adapter_config.json"
    dtype = getattr(AutoConfig.from_pretrained(adapter_base(adapter) if adapter.is_file() else folder), "dtype", None)
    return str(dtype or torch.float32).removeprefix("torch.")


def weight_bytes(reference: str) -> int:
    """Bytes of all weights of a model, as they are stored, without those of an adapter."""
    model = load_local(reference, dtype=stored_dtype(reference))
    return sum(p.numel() * p.element_size() for name, p in model.module.named_parameters() if "lora_" not in name)


def publish(method: SelfParam, trained: str, metrics: dict[str, Any]) -> str:
    """Write `checkpoint/` in the original's type, with its lineage; returns its folder."""
    before = {
        k.removesuffix("/base"): v for k, v in metrics.items() if k in ("f1/test/base", "perplexity/general/base")
    }
    after = {k: metrics.get(f"{k}/selfparam") for k in ("f1/test", "perplexity/general")}
    lineage = Lineage(
        parent=method.reference,
        method="selfparam",
        config=method.args.model_dump(mode="json"),
        data={"passages": text_key("\x00".join(p.text for p in method.passages))},
        seed=method.args.seed,
        wall_seconds=sum(method.folder.seconds.values()),
        metrics_before=before,
        metrics_after=after,
        notes=[f"Learnt {len(method.learnt)} question-answer pairs about {len(method.passages)} passages"],
    )
    return _write(trained, method.folder.path("checkpoint"), method.reference, lineage)


def write_ledger(method: SelfParam) -> None:
    """One line an injection: what went in, from which weights to which. Texts are kept as hashes only."""
    rows = []
    for number, (group, done) in enumerate(zip(method.groups(), method.injections, strict=True), start=1):
        pairs = [p for p in method.learnt if p.passage in {q.id for q in group}]
        rows.append(
            {
                "id": number,
                "passages": [p.id for p in group],
                "text_digest": text_key("\x00".join(p.text for p in group)),
                "pairs": len(pairs),
                "pairs_digest": text_key("\x00".join(p.id for p in pairs)),
                "steps": done.steps,
                "parent": method.injections[number - 2].identity if number > 1 else method.reference,
                "identity": done.identity,
                "stage": done.folder.name,
                "weights": Path(done.checkpoint).is_dir(),
                "in_checkpoint": True,
            }
        )
    write_jsonl(method.folder.path("ledger.jsonl"), rows)


def read_ledger(folder: Path) -> list[dict[str, Any]]:
    """The injections of a run.

    Raises:
        DataError: the folder holds no finished SELF-PARAM run.
    """
    path = folder / "ledger.jsonl"
    if not path.is_file():
        raise DataError(f"{folder}: no ledger.jsonl; this is no finished SELF-PARAM run: go on with its command")
    return [row for _, row in read_jsonl(path)]


def roll_back(folder: Path, injection: int) -> str:
    """Make `checkpoint/` the model as it was right before an injection, and say so in the ledger.

    The stages stay: the run's command makes the whole model again.

    Raises:
        DataError: there is no such injection, its parent's weights were not kept, or there is no checkpoint.
    """
    rows = read_ledger(folder)
    if injection not in {row["id"] for row in rows}:
        raise DataError(f"{folder}: no injection {injection}; the ledger has 1 to {len(rows)}")
    written = folder / "checkpoint" / "evolvent.json"
    if not written.is_file():
        raise DataError(f"{written}: no such file; the run's command makes the checkpoint again")
    lineage = Lineage.model_validate(json.loads(written.read_text()))
    parent = lineage.parent if injection == 1 else str(folder / "stages" / rows[injection - 2]["stage"] / "checkpoint")
    if injection > 1 and not Path(parent).is_dir():
        raise DataError(f"{parent}: these weights were not kept (keep_checkpoints); roll back to a later injection")
    note = f"Rolled back to before injection {injection} of {len(rows)}"
    lineage = lineage.model_copy(update={"notes": [note], "metrics_after": {}, "metrics_before": {}})
    made = _write(parent, folder / "checkpoint", lineage.parent, lineage)
    write_jsonl(folder / "ledger.jsonl", ({**row, "in_checkpoint": row["id"] < injection} for row in rows))
    return made


@quiet()
def _write(trained: str, target: Path, original: str, lineage: Lineage) -> str:
    temporary = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model: LocalModel = load_local(trained, dtype="float32")
    model.module.to(getattr(torch, stored_dtype(original))).save_pretrained(temporary)
    model.tokenizer.save_pretrained(temporary)
    lineage = lineage.model_copy(update={"parent_digest": weight_digest(checkpoint_folder(original))})
    write_lineage(temporary, lineage, place=target)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    return str(target)
