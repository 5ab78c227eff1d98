"""Fine-tuning: the loss, the order of rows, resuming, the checkpoints, two processes."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evolvent.errors import ConfigError, DataError, ModelError
from evolvent.models.resolve import load
from evolvent.training.config import FineTuneConfig
from evolvent.training.examples import LeftPadded, TrainingExample, encode_examples, training_order
from evolvent.training.finetune import fine_tune

EXAMPLES = [
    TrainingExample(f"The team {'won' if i % 2 else 'fell'} {i}", " sport" if i % 2 else " business", name=f"row {i}")
    for i in range(12)
]
SETTINGS = FineTuneConfig(
    steps=6, batch_size=4, learning_rate=1e-2, lora_r=4, trainable_layers=1, precision="float32", save_steps=2
)


def answers(folder: Path) -> list[int]:
    model = load(folder, dtype="float32")
    return [c.best for c in model.choose([e.prompt for e in EXAMPLES], [[" business", " sport"]] * len(EXAMPLES))]


def answer_loss(folder: Path | str) -> float:
    model = load(folder, dtype="float32")
    return -sum(s.log_prob for s in model.loglikelihood([(e.prompt, e.completion) for e in EXAMPLES]))


@pytest.mark.parametrize("peft", ["lora", "full", "top_layers"])
def test_training_learns_and_the_checkpoint_loads_as_it_is(tiny_folder, tmp_path, peft):
    settings = SETTINGS.model_copy(update={"peft": peft, "steps": 20})
    before = answer_loss(tiny_folder)
    result = fine_tune(tiny_folder, EXAMPLES, settings, output_dir=tmp_path / "run")
    assert len(result.losses) == 20
    assert result.losses[-1][1] < result.losses[0][1] / 2
    assert answer_loss(result.checkpoint) < before / 2
    if peft == "lora":
        from peft import AutoPeftModelForCausalLM

        module = AutoPeftModelForCausalLM.from_pretrained(result.checkpoint)
    else:
        from transformers import AutoModelForCausalLM

        module = AutoModelForCausalLM.from_pretrained(result.checkpoint)
    assert sum(p.numel() for p in module.parameters()) > 0


@pytest.mark.parametrize("peft", ["lora", "full", "top_layers"])
def test_the_first_loss_is_the_mean_nll_of_the_completions(tiny_folder, tmp_path, peft):
    settings = SETTINGS.model_copy(update={"peft": peft, "steps": 1, "batch_size": 12, "label_smoothing": 0.0})
    result = fine_tune(tiny_folder, EXAMPLES, settings, output_dir=tmp_path / "run")
    model = load(tiny_folder, dtype="float32")
    rows = encode_examples(model, EXAMPLES, max_length=256, end_token=True)
    total, count = 0.0, 0
    for row in rows:
        logits = model.module(torch.tensor([row.tokens])).logits[0].log_softmax(-1)
        start = len(row.tokens) - row.answer_tokens
        for position in range(start, len(row.tokens)):
            total -= logits[position - 1, row.tokens[position]].item()
            count += 1
    tolerance = 2e-2 if peft == "top_layers" else 1e-4  # cached activations are bfloat16
    assert result.losses[0][1] == pytest.approx(total / count, rel=tolerance)


def test_top_layers_leaves_the_trunk_untouched(tiny_folder, tmp_path):
    settings = SETTINGS.model_copy(update={"peft": "top_layers"})
    result = fine_tune(tiny_folder, EXAMPLES, settings, output_dir=tmp_path / "run")
    before, after = load(tiny_folder, dtype="float32").module, load(result.checkpoint, dtype="float32").module
    changed = {n for (n, a), b in zip(before.named_parameters(), after.parameters(), strict=True) if not a.equal(b)}
    assert any(n.startswith("model.layers.1.") for n in changed)
    assert not any(n.startswith(("model.layers.0.", "model.embed_tokens")) for n in changed)


def test_same_seed_same_adapter_and_other_seed_another(tiny_folder, tmp_path):
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        settings = SETTINGS.model_copy(update={"seed": seed})
        result = fine_tune(tiny_folder, EXAMPLES, settings, output_dir=tmp_path / name)
        runs.append((result.checkpoint / "adapter_model.safetensors").read_bytes())
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize("peft", ["lora", "top_layers"])
def test_resume_after_interruption_gives_the_same_weights(tiny_folder, tmp_path, peft):
    settings = SETTINGS.model_copy(update={"peft": peft})
    whole = fine_tune(tiny_folder, EXAMPLES, settings, output_dir=tmp_path / "whole")

    def stop(step: int, steps: int, loss: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(tiny_folder, EXAMPLES, settings, output_dir=tmp_path / "cut", on_progress=stop)
    torn = tmp_path / "cut" / "trainer" / "checkpoint-9"
    torn.mkdir()
    (torn / "trainer_state.json").write_text('{"global_st')
    seen: list[int] = []
    resumed = fine_tune(
        tiny_folder, EXAMPLES, settings, output_dir=tmp_path / "cut", on_progress=lambda s, *_: seen.append(s)
    )
    assert seen == [5, 6]  # the last complete checkpoint was at step 4
    name = "adapter_model.safetensors" if peft == "lora" else "model.safetensors"
    assert (resumed.checkpoint / name).read_bytes() == (whole.checkpoint / name).read_bytes()
    assert resumed.losses == whole.losses


def test_a_finished_run_is_not_repeated(tiny_folder, tmp_path):
    first = fine_tune(tiny_folder, EXAMPLES, SETTINGS, output_dir=tmp_path / "run")
    shutil.rmtree(tiny_folder)
    assert fine_tune(tiny_folder, EXAMPLES, SETTINGS, output_dir=tmp_path / "run") == first


def test_a_row_weighted_twice_counts_as_two_rows(tiny_folder, tmp_path):
    # SGD-like check on the loss itself: one batch of both rows, weights 2 and 1, against three rows.
    a, b = EXAMPLES[0], EXAMPLES[1]
    heavy = TrainingExample(a.prompt, a.completion, weight=2.0)
    settings = SETTINGS.model_copy(update={"steps": 1, "batch_size": 2, "label_smoothing": 0.0})
    weighted = fine_tune(tiny_folder, [heavy, b], settings, output_dir=tmp_path / "weighted")
    tripled = fine_tune(
        tiny_folder, [a, a, b], settings.model_copy(update={"batch_size": 3}), output_dir=tmp_path / "tripled"
    )
    # Adam's first step has the gradient's sign and no scale, so equal directions mean equal adapters.
    from safetensors.torch import load_file

    left = load_file(weighted.checkpoint / "adapter_model.safetensors")
    right = load_file(tripled.checkpoint / "adapter_model.safetensors")
    for name in left:
        assert torch.allclose(left[name], right[name], atol=1e-4), name


def test_a_lora_checkpoint_can_be_trained_further(tiny_folder, tmp_path):
    first = fine_tune(tiny_folder, EXAMPLES, SETTINGS, output_dir=tmp_path / "first")
    second = fine_tune(first.checkpoint, EXAMPLES, SETTINGS, output_dir=tmp_path / "second")
    assert second.losses[0][1] == pytest.approx(first.losses[-1][1], rel=0.5)
    assert second.losses[0][1] < first.losses[0][1] / 1.5


def test_nonfinite_loss_names_the_rows_and_keeps_the_last_checkpoint(tiny_folder, tmp_path):
    poisoned = [*EXAMPLES, TrainingExample("The bank", " a", weight=math.inf, name="row 99 of bad.jsonl")]
    late = next(s for s in range(99) if training_order(13, batch_size=2, steps=7, seed=s).index(12) > 5)
    settings = SETTINGS.model_copy(update={"steps": 7, "batch_size": 2, "seed": late})
    with pytest.raises(ModelError, match=r"row 99 of bad\.jsonl.*lower learning_rate"):
        fine_tune(tiny_folder, poisoned, settings, output_dir=tmp_path / "run")
    assert list((tmp_path / "run" / "trainer").glob("checkpoint-*/trainer_state.json"))


def test_stop_below_ends_early(tiny_folder, tmp_path):
    settings = SETTINGS.model_copy(update={"steps": 200, "stop_below": 1.8, "save_steps": 500})
    result = fine_tune(tiny_folder, EXAMPLES, settings, output_dir=tmp_path / "run")
    assert 8 <= result.steps < 200


def test_bad_requests_say_what_to_do(tiny_folder, tmp_path):
    with pytest.raises(DataError, match="no examples"):
        fine_tune(tiny_folder, [], SETTINGS, output_dir=tmp_path / "a")
    too_many = SETTINGS.model_copy(update={"peft": "top_layers", "trainable_layers": 2})
    with pytest.raises(ConfigError, match="2 blocks: give at most 1"):
        fine_tune(tiny_folder, EXAMPLES, too_many, output_dir=tmp_path / "b")
    adapter = fine_tune(tiny_folder, EXAMPLES, SETTINGS, output_dir=tmp_path / "c").checkpoint
    full = SETTINGS.model_copy(update={"peft": "full"})
    with pytest.raises(ConfigError, match="merge it first"):
        fine_tune(adapter, EXAMPLES, full, output_dir=tmp_path / "d")


def test_long_prompts_lose_their_middle_and_never_the_answer(tiny_model):
    row = encode_examples(tiny_model, [TrainingExample("a" * 300, " sport")], max_length=50, end_token=True)[0]
    assert len(row.tokens) == 50
    answer = tiny_model.tokenizer(" sport")["input_ids"]
    assert list(row.tokens[-row.answer_tokens :]) == [*answer, tiny_model.tokenizer.eos_token_id]


def test_padding_is_left_and_only_answers_are_labelled(tiny_model):
    rows = encode_examples(tiny_model, EXAMPLES[:3], max_length=50, end_token=True)
    batch = LeftPadded(tiny_model.pad_token)(rows)
    for r, row in enumerate(rows):
        width = len(row.tokens)
        assert batch["input_ids"][r, -width:].tolist() == list(row.tokens)
        assert batch["attention_mask"][r].sum() == width
        assert batch["position_ids"][r, -width:].tolist() == list(range(width))
        assert (batch["labels"][r] != -100).sum() == row.answer_tokens


@given(
    rows=st.integers(1, 30),
    labeled=st.integers(0, 30),
    batch_size=st.integers(1, 9),
    steps=st.integers(1, 12),
    share=st.floats(0, 1),
)
def test_every_batch_holds_its_share_of_labelled_rows(rows, labeled, batch_size, steps, share):
    labeled = min(rows, labeled)
    order = training_order(rows, batch_size=batch_size, steps=steps, seed=1, labeled=labeled, labeled_share=share)
    assert len(order) == steps * batch_size
    assert set(order) <= set(range(rows))
    if labeled and labeled < rows and labeled / rows < share:
        for step in range(steps):
            batch = order[step * batch_size : (step + 1) * batch_size]
            assert sum(i < labeled for i in batch) >= math.ceil(share * batch_size) - 1e-9
    elif steps * batch_size >= rows:
        assert set(order) == set(range(rows))  # nobody is left out


def test_two_processes_train_as_one(tiny_folder, tmp_path):
    """`accelerate launch` with two gloo processes and one process with the same global batch: the same losses."""
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            from evolvent.training.config import FineTuneConfig
            from evolvent.training.examples import TrainingExample
            from evolvent.training.finetune import fine_tune

            examples = [
                TrainingExample(f"The team {'won' if i % 2 else 'fell'} {i}" + " a" * i, " sport" if i % 2 else " b c")
                for i in range(12)
            ]
            settings = FineTuneConfig(steps=6, batch_size=4, learning_rate=1e-2, lora_r=4, precision="float32")
            fine_tune(sys.argv[1], examples, settings, output_dir=sys.argv[2])
            """
        )
    )
    two = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    two += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    for command, name in (([sys.executable], "one"), (two, "two")):
        done = subprocess.run(
            [*command, str(script), str(tiny_folder), str(tmp_path / name)],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    losses = {n: json.loads((tmp_path / n / "training.json").read_text())["losses"] for n in ("one", "two")}
    assert len(losses["one"]) == 6
    for (step, one), (_, both) in zip(losses["one"], losses["two"], strict=True):
        assert both == pytest.approx(one, rel=1e-3), f"step {step}"
