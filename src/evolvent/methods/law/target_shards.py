"""Targets of many facts, learnt and written a shard at a time, so that a kill costs one shard."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from evolvent.data.records import Fact
from evolvent.errors import DataError
from evolvent.methods.law.config import LawConfig
from evolvent.methods.law.decoder import Decoder
from evolvent.methods.law.targets import Targets, learn_targets, learner_of, mean_targets, suffix_form_agrees
from evolvent.methods.law.wordings import BARE, Row, Wording, rows_for
from evolvent.models.local import LocalModel

SHARD_FACTS = 256  # facts whose targets are learnt and written together


def learn_shards(
    folder: Path,
    model: LocalModel,
    facts: Sequence[Fact],
    rows: Sequence[Sequence[Row]],
    layer: int,
    args: LawConfig,
    *,
    references: Sequence[Fact] = (),
    wordings: Sequence[Wording] = (),
    on_progress: Callable[[int, int, str], None] = lambda *_: None,
) -> None:
    """Write the displacement of each fact behind `layer` into `folder`; shards that are there stay.

    Args:
        folder: gets `N.safetensors`, N being the shard's first fact.
        model: as it is edited.
        facts: what to forget; rows: their usable wordings.
        layer: last edited block.
        args: the target, and how it is learnt.
        references: whose mean state target "mean" is; wordings: in which it looks for a usable one.
        on_progress: called with (step, steps, note).

    Raises:
        DataError: target "mean" without references.
    """
    missing = [s for s in range(0, len(facts), SHARD_FACTS) if not (folder / f"{s}.safetensors").is_file()]
    if not missing:
        return
    with learner_of(model, args.target_dtype) as decoder:
        whole = not suffix_form_agrees(decoder, layer, rows[0])
        for start in missing:
            part = slice(start, start + SHARD_FACTS)
            if args.target == "mean":
                found = _mean(decoder, facts[part], references, [BARE, *wordings], layer)
            else:
                found = learn_targets(
                    decoder, facts[part], rows[part], layer, args, whole=whole, on_progress=on_progress
                )
            notes = {"losses": found.losses, "reached": found.reached}
            temporary = folder / f"{start}.new"
            save_file({"deltas": found.deltas}, temporary, metadata={"notes": json.dumps(notes)})
            temporary.replace(folder / f"{start}.safetensors")


def load_targets(folder: Path) -> Targets:
    """What :func:`learn_shards` has written, in the order of its facts."""
    files = sorted(folder.glob("*.safetensors"), key=lambda f: int(f.stem))
    targets = Targets(torch.cat([load_file(f)["deltas"] for f in files]))
    for path in files:
        with safe_open(path, framework="pt") as file:
            notes = json.loads(file.metadata()["notes"])
        targets.losses += notes["losses"]
        targets.reached += notes["reached"]
    return targets


def _mean(
    decoder: Decoder, facts: Sequence[Fact], references: Sequence[Fact], wordings: Sequence[Wording], layer: int
) -> Targets:
    if not references:
        raise DataError('target="mean" is the mean state of reference subjects: give references')
    states = []
    for group in (facts, references):
        rows = [r for own in rows_for(decoder.model, group, wordings) for r in own[:1]]
        states.append(decoder.read([r.tokens[: r.edit + 1] for r in rows], keys=[], residual=layer)[1])
    assert states[0] is not None
    assert states[1] is not None
    return mean_targets(states[0], [f.relation for f in facts], states[1], [f.relation for f in references])
