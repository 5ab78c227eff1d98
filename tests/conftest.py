"""A tiny random Llama for unit tests, and the real default model for tests/real."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["EVOLVENT_LEDGER"] = "off"

import pytest

HELPERS = ("models", "training", "methods/strategist")  # servers, an attack corpus
sys.path[:0] = [str(Path(__file__).parent / folder) for folder in HELPERS]

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

CORPUS = """The bank raised its profit forecast and the shares rose. Shares fell after the company cut its outlook.
A new phone was shown by the maker of computers. The team won the cup after a late goal in the final.
Question: what is the capital of France? Answer: Paris. Which of the following is a planet? A B C D
positive negative neutral business sport politics tech entertainment 0 1 2 3 4 5 6 7 8 9"""

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS.splitlines(), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def tiny_llama(vocab_size: int, seed: int = 0, layers: int = 2):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        eos_token_id=0,
        pad_token_id=0,
        bos_token_id=None,
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


@pytest.fixture
def tiny_model(tiny_tokenizer):
    from evolvent.models.local import LocalModel

    return LocalModel(tiny_llama(len(tiny_tokenizer)), tiny_tokenizer, name="tiny", max_batch_tokens=256)


@pytest.fixture
def tiny_folder(tiny_model, tmp_path):
    """The tiny model as a Hugging Face folder."""
    folder = tmp_path / "tiny"
    tiny_model.module.save_pretrained(folder)
    tiny_model.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def embedded_model():
    """The real SmolLM2-135M-Instruct in fp32."""
    from evolvent.models.resolve import load

    return load("embedded", dtype="float32")


@pytest.fixture(scope="session")
def server():
    """llama.cpp with the embedded GGUF as it is (Q4_1); tests that use it belong to the xdist group "llama-server"."""
    pytest.importorskip("xllamacpp")
    from llama_server import start

    from evolvent.models.embedded import embedded_gguf

    process, url = start(embedded_gguf())
    yield url
    process.kill()
    process.wait()


@pytest.fixture(scope="session")
def shared_data():
    """Real data that lives beside the repository and is never copied into it."""
    if not SHARED.is_dir():
        pytest.skip("the shared data folder (../shared/data) is not beside this checkout")
    return SHARED


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; tests of pages skip where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        options = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=found, args=options)
        yield browser
        browser.close()
