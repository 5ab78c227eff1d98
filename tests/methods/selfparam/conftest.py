"""A config under which the tiny model learns two short passages in seconds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from evolvent.methods.selfparam.config import SelfParamConfig

sys.path.insert(0, str(Path(__file__).parent))  # for conftest_data, also in processes that tests start


@pytest.fixture
def settings(tmp_path):
    """Keyword settings of a config; the tiny model's context is short."""

    def build(**changes):
        base = {
            "output_dir": tmp_path / "run",
            "exposures": 8,
            "shots": 0,
            "retention_tokens": 8,
            "retention_rows": 2,
            "batch_size": 4,
            "learning_rate": 3e-3,
            "peft": "full",
            "min_gain": -100,
            "min_teacher": -100,
            "baselines": ("base", "sft"),
            "max_answer_tokens": 8,
            "top_k": 32,
            "dtype": "float32",
        }
        return SelfParamConfig(**{**base, **changes})

    return build
