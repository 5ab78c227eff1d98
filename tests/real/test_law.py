"""The real model forgets real capitals, keeps others, and remembers everything after the undo."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from evolvent import Law, LawConfig, load, samples
from evolvent.methods.law.reverting import revert
from evolvent.models.embedded import embedded_folder

pytestmark = pytest.mark.real

WASHED = ("Japan", "Italy", "Egypt", "Germany", "Russia", "Iran")
KEPT = ("Portugal", "Poland", "Kenya", "Sweden", "Greece", "Peru", "Vietnam", "Iraq")


@pytest.fixture(scope="module")
def washed(tmp_path_factory):
    world = samples.world_facts()
    facts = [f for f in world.capitals if f.subject in WASHED]
    keep = [f for f in world.capitals + world.continents if f.subject in KEPT]
    references = [f for f in world.capitals if f.subject not in WASHED + KEPT][:40]
    args = LawConfig(
        output_dir=tmp_path_factory.mktemp("law") / "run", attacks=(), stats_tokens=3000, max_rounds=2, target_steps=8
    )
    return Law("embedded", facts, keep=keep, references=references, corpus=world.texts, args=args).run()


def test_six_capitals_are_gone_and_the_others_are_not(washed):
    metrics = washed.metrics
    assert metrics["known/forget/base"] >= 0.8
    assert metrics["known/forget/law"] == 0.0
    assert metrics["perplexity/ratio"] <= 1.05
    kept = metrics["known/same-relation/law"] / metrics["known/same-relation/base"]
    assert kept >= 0.6
    assert metrics["known/other/law"] >= 0.75 * metrics["known/other/base"]


def test_the_undo_file_gives_the_wheel_s_own_bits_back(washed, tmp_path):
    original = load_file(embedded_folder() / "model.safetensors")
    restored = load_file(revert(washed.output_dir, tmp_path / "back") / "model.safetensors")
    changed = load_file(washed.output_dir / "checkpoint" / "model.safetensors")
    assert all(torch.equal(original[n].view(torch.uint8), restored[n].view(torch.uint8)) for n in original)
    assert sum(not torch.equal(original[n], changed[n]) for n in original) <= 5
    prompt, options = ["The capital of Japan is"], [[" Tokyo", " Rome"]]
    before, after = (
        load(m, dtype="float32").choose(prompt, options)[0].probs[0] for m in (tmp_path / "back", washed.model)
    )
    assert before > 0.9
    assert after < before
