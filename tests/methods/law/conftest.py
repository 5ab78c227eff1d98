from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from decoders import TEXTS, decoder_of

from evolvent.models.local import LocalModel


@pytest.fixture
def decoder_model(tiny_tokenizer):
    def made(family: str = "llama", seed: int = 0) -> LocalModel:
        module = decoder_of(family, len(tiny_tokenizer), seed).requires_grad_(False)
        return LocalModel(module, tiny_tokenizer, name=family, max_batch_tokens=512)

    return made


@pytest.fixture
def texts():
    return TEXTS
