"""At which tokens of a prompt does a wash do its damage? The edit is applied at one part of each prompt at a time.

python -m benchmarks.law.positions runs/law-3 --label "what was washed how"
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from benchmarks.law.protocol import protocol
from benchmarks.results_file import record
from evolvent.data.records import Fact
from evolvent.methods.law.decoder import Decoder
from evolvent.methods.law.patch import load_patches
from evolvent.methods.law.wordings import BARE, object_tokens, row_for
from evolvent.models.resolve import load_local

PARTS = ("all", "subject's last", "subject's others", "before the subject", "after the subject")


def edits_of(folder: Path, decoder: Decoder) -> dict[int, Tensor]:
    """block -> Σ Δ (d, m) over the rounds of a run."""
    layers = {p.name: layer for layer, p in enumerate(decoder.projections)}
    found: dict[int, Tensor] = {}
    for path in sorted(folder.glob("stages/[0-9][0-9]-wash-[0-9]/patches.safetensors")):
        for patch in load_patches(path).values():
            layer = layers[patch.name]
            found[layer] = found.get(layer, torch.zeros(())) + patch.delta.float()
    return found


@contextmanager
def edited_at(decoder: Decoder, edits: dict[int, Tensor], chosen: Tensor) -> Iterator[None]:
    """Inside, the edits act at the chosen positions (tokens,) only."""

    def hook_for(edit: Tensor) -> Any:
        return lambda _, inputs, output: output + (inputs[0] @ edit.T) * chosen[None, :, None]

    modules = [(decoder.projections[layer].module, edit) for layer, edit in edits.items()]
    handles = [module.register_forward_hook(hook_for(edit)) for module, edit in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def part_of(decoder: Decoder, fact: Fact, tokens: Sequence[int], edit: int) -> Tensor:
    """For each token of a prompt the number of its part in `PARTS`."""
    before = len(decoder.model.encode((fact.prompt or "").partition("{}")[0].rstrip()))
    places = torch.arange(len(tokens))
    parts = torch.full((len(tokens),), PARTS.index("subject's others"))
    parts[places < before] = PARTS.index("before the subject")
    parts[places > edit] = PARTS.index("after the subject")
    parts[edit] = PARTS.index("subject's last")
    return parts


@torch.inference_mode()
def kept(decoder: Decoder, edits: dict[int, Tensor], facts: Sequence[Fact]) -> list[list[bool]]:
    """Of each fact, whether it is known with the edit at each of the `PARTS`."""
    found = []
    for fact in facts:
        row = row_for(decoder.model, fact, BARE)
        if row is None:
            continue
        parts, objects = part_of(decoder, fact, row.tokens, row.edit), object_tokens(decoder.model, fact)
        hits = []
        for number in range(len(PARTS)):
            chosen = (parts == number).float() if number else torch.ones(len(row.tokens))
            with edited_at(decoder, edits, chosen):
                best = decoder.model.module(input_ids=torch.tensor([row.tokens])).logits[0, -1].argmax()
            hits.append(int(best) in objects)
        found.append(hits)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--label", required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    seed = yaml.safe_load((given.folder / "config.yaml").read_text())["seed"]
    facts = protocol(seed)
    decoder = Decoder(load_local("embedded", dtype="float32"))
    edits = edits_of(given.folder, decoder)
    rows = []
    for group, own in (("same relation", facts.same_relation), ("other relations", facts.other)):
        hits = torch.tensor(kept(decoder, edits, own)).double()
        shares = dict(zip(PARTS, (100 * hits.mean(0)).tolist(), strict=True))
        rows.append(
            {
                "claim": f"positions: {group} known, {given.label}, seed {seed}",
                "what": f"{given.label}, seed {seed}: {group}",
                "value": shares["all"],
                "unit": "%",
                "parts": shares,
                "n": len(hits),
                "seeds": [seed],
            }
        )
    record("law", rows, f"python -m benchmarks.law.positions FOLDER --label {given.label!r}")


if __name__ == "__main__":
    main()
