"""What follows from other cells where neither the list nor the survey says it; new rows get the same values.

Backbone family -> architecture; objectives -> strategies; architecture, strategies and modalities -> cell of the
survey's Figure 1. A rule that meets something unknown gives None and logs it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

logger = logging.getLogger(__name__)

# Longest name first, so that "PaLM-E" is not read as "PaLM". Compared at the start of a backbone part.
_FAMILIES: dict[str, tuple[str, ...]] = {
    "encoder-llm": ("LLaVA", "Flamingo", "PaLM-E"),
    "encoder-decoder": ("BART", "T5", "Flan-T5", "VL-T5"),
    "permutation-lm": ("XLNet",),
    "recurrent-bilm": ("ELMo",),
    "prefix-lm": ("UniLM",),
    "encoder-only": (
        "BERT", "RoBERTa", "DistilRoBERTa", "DistilBERT", "ALBERT", "ELECTRA", "DeBERTa", "Longformer", "BigBird",
        "ERNIE", "T5 (encoder)",
    ),
    "decoder-only": (
        "GPT", "ChatGPT", "LLaMA", "Ziya-LLaMA", "Vicuna", "Mistral", "Mixtral", "PaLM", "Galactica", "Qwen",
        "Baichuan", "InternLM", "ChatGLM", "BLOOM", "Pythia", "Gemma", "Hyena", "CTRL", "DeepSeek",
    ),
}  # fmt: skip
_STARTS = sorted(((start, name) for name, starts in _FAMILIES.items() for start in starts), key=lambda p: -len(p[0]))
_OTHER_ENCODERS = ("ResNet", "ViT", "Swin", "EfficientNet", "CTransPath", "GIN", "GCN", "GAT", "GNN", "VQ-VAE")

_STRATEGY_OF = {
    "masked": (
        "MLM", "NSP", "masked image modeling", "masked node prediction", "sentence order prediction",
        "replaced token detection", "chunk permutation prediction", "masked entity prediction",
        "masked geographic modeling",
    ),
    "autoregressive": (
        "next token prediction", "previous token prediction", "sequence to sequence", "instruction tuning",
        "supervised fine-tuning", "permutation language modeling", "graph-to-text generation", "prefix tuning",
        "autoregressive blank infilling",
    ),
    "contrastive": ("contrastive learning",),
    "instruction-tuning": ("instruction tuning",),
    "preference-or-rl": ("preference optimization", "reinforcement learning"),
}  # fmt: skip
_ORDER = (
    "masked", "autoregressive", "contrastive", "alignment", "instruction-tuning", "preference-or-rl", "supervised",
)  # fmt: skip
_MATCHING = re.compile(r"^(text|image)-[\w/ -]+ matching$")
_NOT_LABELLED = {task for tasks in _STRATEGY_OF.values() for task in tasks}
_SEQUENCES = ("protein", "dna", "rna", "multiomics")


def family(part: str) -> str | None:
    """Architecture of one backbone part; None when the family is unknown."""
    plain = part.strip().lstrip("~")
    return next((name for start, name in _STARTS if plain.startswith(start)), None)


def architecture_from(
    backbone: Sequence[str] | None, objectives: Sequence[str] = (), modalities: Sequence[str] = ()
) -> list[str] | None:
    """Architectures of a row's backbones, in their order; None as soon as one is unknown."""
    if not backbone:
        return None
    found: list[str] = []
    for one in backbone:
        parts = [p.strip().lstrip("~") for p in one.split(" + ")]
        kind = _joined(parts, objectives, modalities) if len(parts) > 1 else _single(parts[0], modalities)
        if kind is None:
            logger.info("no rule gives the architecture of backbone %r", one)
            return None
        found.append(kind)
    return list(dict.fromkeys(found))


def _single(part: str, modalities: Sequence[str]) -> str | None:
    if "climate_time_series" in modalities:
        return "grid-forecaster"
    return family(part)


def _joined(parts: Sequence[str], objectives: Sequence[str], modalities: Sequence[str]) -> str | None:
    """Two modules: a language model with an encoder before it, or two towers that a matching objective joins."""
    first, second = family(parts[0]), parts[1].split("/")
    if len(parts) > 2 or not any(s.startswith(_OTHER_ENCODERS) for s in second):
        return None
    matched = any(_MATCHING.match(o) for o in objectives) and "instruction tuning" not in objectives
    if matched and (first == "encoder-only" or parts[0] in ("Transformer", "GPT-2")):
        return "dual-encoder"
    return "encoder-llm" if first in ("decoder-only", "encoder-decoder") else None


def strategies_from(objectives: Sequence[str], architecture: Sequence[str] | None = None) -> list[str] | None:
    """Strategies of a row's objectives; None when it has none.

    A matching objective is contrastive between two towers, else an alignment of one modality with the other;
    whatever is no self-supervised objective is supervised.
    """
    if not objectives:
        return None
    found = {name for name, tasks in _STRATEGY_OF.items() if set(tasks) & set(objectives)}
    for objective in objectives:
        if _MATCHING.match(objective):
            found.add("contrastive" if architecture and "dual-encoder" in architecture else "alignment")
        elif objective not in _NOT_LABELLED:
            found.add("supervised")
    return [name for name in _ORDER if name in found]


def survey_type_from(
    architecture: Sequence[str] | None, strategies: Sequence[str] | None, modalities: Sequence[str]
) -> list[str] | None:
    """Cell of the survey's Figure 1; None where the figure has no such cell."""
    if not architecture or not strategies:
        return None
    kinds, has = set(architecture), set(modalities)
    if "encoder-llm" in kinds:
        return ["2.D"]
    if "dual-encoder" in kinds:
        if "contrastive" not in strategies:
            return None
        other = {"vision": "D", "graph": "C", "protein": "B"}
        letter = next((letter for name, letter in other.items() if name in has), "A")
        return [f"3.{letter}"]
    if "encoder-only" in kinds and "masked" in strategies:
        if has & set(_SEQUENCES):
            return ["1.D"]
        return ["1.C"] if "molecule" in has else ["1.A"] if has <= {"language", "table"} else None
    if kinds <= {"decoder-only", "encoder-decoder"} and "autoregressive" in strategies and not has & set(_SEQUENCES):
        if has & {"molecule", "graph"}:
            return ["2.C"]
        return ["2.B"] if "table" in has else ["2.A"] if has == {"language"} else None
    return None
