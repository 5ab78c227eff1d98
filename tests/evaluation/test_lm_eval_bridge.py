"""The same accuracy from lm-evaluation-harness and from here, on the same questions."""

from __future__ import annotations

import pytest

from evolvent.data.records import Question
from evolvent.data.tasks import ChoiceTask, NumericTask
from evolvent.errors import ConfigError, DataError
from evolvent.evaluation.evaluate import evaluate
from evolvent.evaluation.lm_eval_bridge import run_lm_eval, write_task
from evolvent.models.resolve import load
from evolvent.training.config import FineTuneConfig
from evolvent.training.examples import TrainingExample
from evolvent.training.finetune import fine_tune

CHOICES = ("sport", "business", "tech company", "a late goal in the final")
QUESTIONS = [
    Question(id=str(i), question=f"{text} {i}", choices=CHOICES[: 2 + i % 3], answer=CHOICES[i % 2])
    for i, text in enumerate(["The team won", "Shares fell after", "A new phone", "profit rose", "the cup"] * 4)
]
TASK = ChoiceTask(style="words", template="News: {{ question }}\nTopic:")


def test_accuracies_equal_those_of_lm_eval_for_weights_and_for_adapters(tiny_folder, tmp_path):
    pytest.importorskip("lm_eval")
    settings = FineTuneConfig(steps=4, batch_size=4, learning_rate=1e-2, lora_r=4, precision="float32")
    examples = [TrainingExample(TASK.prompt(q), TASK.completion(q, q.answer)) for q in QUESTIONS[:8]]
    adapter = fine_tune(tiny_folder, examples, settings, output_dir=tmp_path / "run").checkpoint
    write_task(QUESTIONS, TASK, tmp_path / "tasks", name="topics")
    for checkpoint in (tiny_folder, adapter):
        theirs = run_lm_eval(
            checkpoint, ["topics"], task_folder=tmp_path / "tasks", dtype="float32", device="cpu", bootstrap_iters=0
        )["topics"]
        model = load(checkpoint, dtype="float32")
        ours = {n: evaluate(model, QUESTIONS, TASK, normalization=n).metrics["accuracy"] for n in ("sum", "character")}
        assert theirs["acc"] == pytest.approx(ours["sum"])
        assert theirs["acc_norm"] == pytest.approx(ours["character"])
        assert 0 < theirs["acc"] < 1


def test_what_lm_eval_cannot_ask_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="numeric task"):
        write_task(QUESTIONS, NumericTask(), tmp_path, name="a")
    with pytest.raises(ConfigError, match="chat=False"):
        write_task(QUESTIONS, TASK.model_copy(update={"chat": True}), tmp_path, name="b")
    with pytest.raises(DataError, match="row 9: no answer"):
        write_task([Question(id="9", question="?", choices=CHOICES)], TASK, tmp_path, name="c")
    with pytest.raises(ConfigError, match="local-completions"):
        run_lm_eval("endpoint:m@http://localhost/v1", ["topics"])
