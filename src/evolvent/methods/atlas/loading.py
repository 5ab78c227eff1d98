"""From a row to a loaded model: which checkpoint, whether it may be loaded, and whether it is what the row says.

`atlas:ID[@CHECKPOINT]` is resolved here into a folder wherever the toolkit takes a model, teacher or encoder.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolvent.errors import ModelError
from evolvent.methods.atlas.entry import Checkpoint, Entry
from evolvent.methods.atlas.hub import DIFFERENT_SIZE, NetworkError, mismatch, polite, read_config
from evolvent.methods.atlas.vocabulary import size_label

if TYPE_CHECKING:
    from evolvent.methods.atlas.config import AtlasConfig

logger = logging.getLogger(__name__)
SCHEME = "atlas:"
_KEPT = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors", "*.tiktoken")
_PICKLES = ("*.bin", "*.pt", "*.pth")


@dataclass(frozen=True)
class LoadedModel:
    """A model with where it came from.

    Attributes:
        model: of transformers, or a LanguageModel for backend="endpoint"; tokenizer: or processor; None if it has none.
        folder: where its files are.
        config: its config.json.
    """

    model: Any
    tokenizer: Any
    entry: Entry
    checkpoint: Checkpoint | None
    config: dict[str, Any]
    folder: str


def choose_checkpoint(entry: Entry, asked: str | None = None) -> Checkpoint:
    """The checkpoint that was asked for by hub id, label, size or variant; else the only one; else the smallest.

    Raises:
        ModelError: no weights on the hub, no such checkpoint, or several backbones and none asked for.
    """
    on_hub = [c for c in entry.checkpoints if c.hf_id and c.hf_type == "model"]
    on_hub += [
        Checkpoint(url=f"https://huggingface.co/{name}", hf_id=name, hf_type="model")
        for name in entry.hf_ids_known
        if name not in entry.hf_ids
    ]
    if not on_hub:
        links = ", ".join(dict.fromkeys(c.url for c in entry.checkpoints))
        where = f"its weights are at {links}" if links else "no weights of it are known"
        raise ModelError(
            f"atlas:{entry.id}: {where}, not in a model repository on the hub. Download them, make a Hugging Face "
            "folder of them, and pass path=FOLDER (or give the folder in place of atlas:...)"
        )
    listed = "\n".join(f"  atlas:{entry.id}@{c.hf_id}  {c.label or ''}".rstrip() for c in on_hub)
    if asked is not None:
        fit = [c for c in on_hub if asked in (c.hf_id, c.label, c.size, c.variant)]
        if not fit:
            raise ModelError(f"atlas:{entry.id}@{asked}: no such checkpoint on the hub; there are\n{listed}")
        return fit[0]
    variants = {c.variant for c in on_hub}
    if len(variants) > 1:
        raise ModelError(f"atlas:{entry.id}: there are several backbones; name one of\n{listed}")
    sized = [c for c in on_hub if c.n_params]
    chosen = min(sized, key=lambda c: c.n_params or 0) if sized else on_hub[0]
    if len(on_hub) > 1:
        logger.warning("atlas:%s: %d checkpoints; taking the smallest, %s", entry.id, len(on_hub), chosen.hf_id)
    return chosen


def fetch(entry: Entry, checkpoint: Checkpoint, args: AtlasConfig, *, strict: bool = False) -> Path:
    """Download a checkpoint into the hub's cache, or find it there; a half download goes on.

    Raises:
        NetworkError: gated, gone, or no answer; ModelError: pickle-only weights, own code, or (strict) not what the row
            says.
    """
    from huggingface_hub import snapshot_download

    name = checkpoint.hf_id
    assert name is not None
    revision = entry.hub.sha if entry.hub is not None and name == entry.hf_id and entry.hub.sha else None
    if args.is_offline:
        try:
            return Path(snapshot_download(name, local_files_only=True))
        except (OSError, ValueError) as error:
            raise NetworkError(
                f"atlas:{entry.id}: {name} is not in the local cache and the network is off; unset HF_HUB_OFFLINE once"
            ) from error
    from huggingface_hub import HfApi

    info = polite(lambda: HfApi().model_info(name, timeout=args.hub_timeout_s), name)
    if revision is not None and info.sha != revision:
        logger.warning("%s: changed on the hub since it was looked at (%s, now %s)", name, revision[:7], info.sha[:7])
    files = [s.rfilename for s in info.siblings or ()]
    config = read_config(name, info.sha, args)
    _check_code(entry, name, config, info.sha, args)
    patterns = list(_KEPT)
    if not any(f.endswith(".safetensors") for f in files):
        if not args.allow_pickle:
            raise ModelError(
                f"{name}: has only pickle weights, which can run code when they are read; if you trust its authors, "
                "allow_pickle=True (--allow-pickle)"
            )
        patterns += _PICKLES
    if args.trust_remote_code:
        patterns.append("*.py")
    pinned = info.sha if args.trust_remote_code else None  # by branch, so that it is found without a network later
    folder = Path(
        polite(lambda: snapshot_download(name, revision=pinned, allow_patterns=patterns, max_workers=2), name)
    )
    check(entry, checkpoint, folder, strict=strict)
    return folder


def _check_code(entry: Entry, name: str, config: dict[str, Any], sha: str | None, args: AtlasConfig) -> None:
    if not config.get("auto_map"):
        return
    if not args.trust_remote_code:
        raise ModelError(
            f"{name}: brings Python code of its own; read it at https://huggingface.co/{name}, then "
            f"trust_remote_code=True loads it at commit {sha}"
        )
    pinned = entry.hub.sha if entry.hub is not None else None
    if pinned is not None and pinned != sha:
        raise ModelError(f"{name}: its code changed since commit {pinned}; look at it, then run atlas hub {entry.id}")


def check(entry: Entry, checkpoint: Checkpoint | None, folder: Path, *, strict: bool = False) -> list[str]:
    """Compare a downloaded checkpoint with its row: size within 10 %, kind of model.

    Returns:
        What does not fit, which is logged as warnings too.

    Raises:
        ModelError: something does not fit, and `strict`.
    """
    problems = []
    size = count_parameters(folder)
    told = checkpoint.n_params if checkpoint is not None else None
    if size and told and abs(size - told) > DIFFERENT_SIZE * told:
        problems.append(f"the table says {size_label(told)} parameters, its weights have {size_label(size)}")
    config = json.loads((folder / "config.json").read_text()) if (folder / "config.json").is_file() else {}
    odd = mismatch(entry, config.get("model_type"))
    if odd:
        problems.append(odd)
    for problem in problems:
        if strict:
            raise ModelError(f"atlas:{entry.id}: {problem}")
        logger.warning("atlas:%s: %s", entry.id, problem)
    return problems


def count_parameters(folder: Path) -> int | None:
    """Parameters of the safetensors files of a folder, from their headers; None without such files."""
    from math import prod

    total = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        total += sum(prod(t["shape"]) for name, t in header.items() if name != "__metadata__")
    return total or None


def load_model(
    entry: Entry,
    args: AtlasConfig,
    *,
    checkpoint: str | None = None,
    path: str | Path | None = None,
    strict: bool = False,
    backend: str = "transformers",
    base_url: str | None = None,
    **options: Any,
) -> LoadedModel:
    """Load a row's model with transformers, by the class that its config.json names.

    Args:
        checkpoint: hub id, label, size or variant of one of its checkpoints.
        path: folder with weights that were downloaded by hand, in place of the hub.
        strict: raise where the checkpoint is not what the row says.
        backend: "transformers", or "endpoint" with `base_url` of an OpenAI-compatible server that runs it.
        options: for `from_pretrained`, such as dtype and device_map.

    Raises:
        ModelError: it cannot be loaded; NetworkError: the hub does not give it.
    """
    if backend == "endpoint":
        from evolvent.models.endpoint import EndpointModel

        if base_url is None:
            raise ModelError("load_model(backend='endpoint'): give base_url of the server")
        chosen = choose_checkpoint(entry, checkpoint)
        return LoadedModel(EndpointModel(chosen.hf_id or entry.name, base_url), None, entry, chosen, {}, "")
    if path is not None:
        found, folder = None, Path(path)
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder}: no config.json; make a Hugging Face folder of the weights first")
        check(entry, None, folder, strict=strict)
    else:
        found = choose_checkpoint(entry, checkpoint)
        folder = fetch(entry, found, args, strict=strict)
    config = json.loads((folder / "config.json").read_text()) if (folder / "config.json").is_file() else {}
    model = _from_pretrained(entry, folder, config, args, options)
    return LoadedModel(model, _tokenizer(folder, args), entry, found, config, str(folder))


def _from_pretrained(
    entry: Entry, folder: Path, config: dict[str, Any], args: AtlasConfig, options: dict[str, Any]
) -> Any:
    import transformers

    from evolvent.models.quiet import quiet

    kinds: Sequence[str] = config.get("architectures") or ()
    ends = {
        "ForCausalLM": "AutoModelForCausalLM",
        "LMHeadModel": "AutoModelForCausalLM",
        "ForConditionalGeneration": "AutoModelForSeq2SeqLM",
        "ForMaskedLM": "AutoModelForMaskedLM",
        "ForSequenceClassification": "AutoModelForSequenceClassification",
        "ForTokenClassification": "AutoModelForTokenClassification",
    }
    auto = next((auto for kind in kinds for end, auto in ends.items() if kind.endswith(end)), "AutoModel")
    try:
        with quiet():
            return getattr(transformers, auto).from_pretrained(
                folder, trust_remote_code=args.trust_remote_code, local_files_only=True, **options
            )
    except (OSError, ValueError, KeyError) as error:
        said = (str(error).splitlines() or [""])[0]
        raise ModelError(f"atlas:{entry.id}: transformers cannot load {folder} as {auto}: {said}") from error


def _tokenizer(folder: Path, args: AtlasConfig) -> Any:
    import transformers

    for auto in ("AutoProcessor", "AutoTokenizer"):
        try:
            return getattr(transformers, auto).from_pretrained(
                folder, trust_remote_code=args.trust_remote_code, local_files_only=True
            )
        except (OSError, ValueError, KeyError, ImportError):
            continue
    return None


def resolve(rest: str) -> str:
    """The folder of `atlas:ID[@CHECKPOINT]`, given without the scheme.

    Raises:
        DataError: no such row; ModelError and NetworkError: see :func:`fetch`.
    """
    from evolvent.methods.atlas.atlas import Atlas

    name, _, checkpoint = rest.partition("@")
    atlas = Atlas.load()
    entry = atlas[name]
    return str(fetch(entry, choose_checkpoint(entry, checkpoint or None), atlas.args))
