"""A small news corpus whose topic a tiny model can learn."""

from __future__ import annotations

import pytest

from evolvent.data.records import Question
from evolvent.data.tasks import ChoiceTask
from evolvent.methods.semievol.config import SemiEvolConfig

TOPICS = ("business", "sport")
WORDS = {"business": ("profit", "shares", "bank", "outlook"), "sport": ("goal", "cup", "team", "final")}


def news(count: int, start: int = 0, *, labeled: bool = True) -> list[Question]:
    rows = []
    for i in range(start, start + count):
        topic = TOPICS[i % 2]
        words = [WORDS[topic][(i // 2 + k) % 4] for k in range(3)]
        text = f"{' '.join(words)} {i}"
        meta = {} if labeled else {"_hidden_answer": topic}
        rows.append(Question(id=f"n{i}", question=text, choices=TOPICS, answer=topic if labeled else None, meta=meta))
    return rows


@pytest.fixture
def make_news():
    return news


@pytest.fixture
def corpus():
    return {"labeled": news(8), "unlabeled": news(24, 100, labeled=False), "test": news(12, 200)}


@pytest.fixture
def task():
    return ChoiceTask(style="words", template="News: {{ question }}\nTopic:")


@pytest.fixture
def settings(tmp_path):
    """Settings under which a run takes a second or two."""

    def made(**changes) -> SemiEvolConfig:
        values = {
            "output_dir": tmp_path / "run",
            "min_steps": 6,
            "evolve_epochs": 1.0,
            "warmup_lr": 1e-2,
            "lora_r": 4,
            "trainable_layers": 1,
            "batch_size": 4,
            "k_shots": 1,
            "n_configs": 2,
            "retriever": "bm25",
            "dtype": "float32",
            "precision": "float32",
            "force": True,
            "shard_rows": 5,
        }
        return SemiEvolConfig.model_validate({**values, **changes})

    return made
