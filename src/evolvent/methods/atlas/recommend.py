"""Which model should I start from?

Hard filters first (modalities, weights, budget, use, status); what meets an unknown cell goes into a second list. Then,
for each checkpoint, with m the largest facet similarity of its row to the task (BM25 without an encoder):

    score = 0.50 T + 0.15 F + 0.15 D + 0.10 A + 0.10 R,   T = clip((m - 0.2) / 0.6)

F: same field 1, general 0.5, other 0. D: share of the row's named data sets that rows with that task use too. A: hub
weights with code 1, hub weights 0.7, weights elsewhere 0.4, none 0. R: rank by date among the candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evolvent.errors import ConfigError
from evolvent.methods.atlas.budget import Budget
from evolvent.methods.atlas.entry import Checkpoint, Entry
from evolvent.methods.atlas.graph import generic_data
from evolvent.methods.atlas.search import SearchEngine
from evolvent.methods.atlas.vocabulary import must_be, nearest, size_label, vocabulary

WEIGHTS = {"T": 0.50, "F": 0.15, "D": 0.15, "A": 0.10, "R": 0.10}
NO_RANKING = (
    "The table holds no benchmark scores: the order says how well task, field, data and access fit, not which model is "
    "better. Measure the first few on your own items."
)
_DECODERS = ("semievol", "tinyllm", "tpd", "selfparam", "iteralign", "strategist")
_LLAMA_LIKE = ("LLaMA", "Vicuna", "Mistral", "Ziya-LLaMA", "InternLM", "Qwen", "DeepSeek", "Gemma", "Baichuan")
_LAW_LIKE = ("GPT-2", "GPT-J", *_LLAMA_LIKE)
USES = (*_DECODERS, "memoryllm", "law", "blair", "search", "card")


@dataclass(frozen=True)
class Choice:
    """A checkpoint that was found.

    Attributes:
        reference: what loads it: "atlas:ID@HUB_ID", or the link where it is not on the hub.
        score: in [0, 1]; parts: T, F, D, A, R; reasons: why it is here; cautions: what to check first.
    """

    entry: Entry
    checkpoint: Checkpoint | None
    reference: str
    score: float
    parts: Mapping[str, float]
    reasons: tuple[str, ...]
    cautions: tuple[str, ...]


@dataclass
class Recommendation:
    """The answer.

    Attributes:
        choices: best first; unknown: (row, checkpoint, what is unknown) that nothing else speaks against.
        candidates: checkpoints that passed the filters; notices: what to know about the answer.
    """

    task: str
    choices: list[Choice] = field(default_factory=list)
    unknown: list[tuple[Entry, Checkpoint | None, str]] = field(default_factory=list)
    candidates: int = 0
    notices: list[str] = field(default_factory=list)


def recommend(
    engine: SearchEngine,
    task: str,
    *,
    science: str | None = None,
    modalities: Sequence[str] = (),
    use: str | None = None,
    budget: Budget | None = None,
    languages: Sequence[str] = (),
    weights: str = "hub",
    k: int = 5,
) -> Recommendation:
    """The k checkpoints to look at first, one of each row at most.

    Args:
        engine: of the table.
        task: a sentence, or the name of a task.
        science: field of science; modalities: all of them must be handled.
        use: method that is to run on it, one of USES.
        budget: memory and what it is for.
        languages: ISO 639-1 codes that the model must know.
        weights: "hub", "any" (also behind other links) or "none" (papers without weights too).

    Raises:
        ConfigError: an unknown field, modality, use, or way to weights; or an empty task.
    """
    if not task.strip():
        raise ConfigError("recommend: say what the model is for, for example 'answer geology exam questions'")
    try:
        wanted = [must_be("modalities_ext", m) for m in modalities]
        science = must_be("fields", science) if science else None
    except ValueError as error:
        raise ConfigError(f"recommend: {error}") from error
    if use is not None and use not in USES:
        raise ConfigError(f"recommend use {use!r}: nearest: {', '.join(nearest(use, USES) or USES)}")
    if weights not in ("hub", "any", "none"):
        raise ConfigError(f"recommend weights {weights!r}: give hub, any or none")
    found = Recommendation(task)
    passed: list[tuple[Entry, Checkpoint | None]] = []
    for entry in engine.entries:
        if entry.status != "active" or not set(wanted) <= set(entry.all_modalities):
            continue
        for checkpoint in _reachable(entry, weights):
            against, unknown = _filters(entry, checkpoint, use, budget, languages)
            if against:
                continue
            if unknown:
                found.unknown.append((entry, checkpoint, "; ".join(unknown)))
            else:
                passed.append((entry, checkpoint))
    found.candidates = len(passed)
    scores, labels, notices = _task_scores(engine, task)
    found.notices = [NO_RANKING, *notices]
    rank = _ranks({e.id: e.month for e, _ in passed})
    shared = _shared_data(engine.entries, labels.get("", ""))
    scored = [_score(e, c, scores, labels, science, shared, rank, budget) for e, c in passed]
    scored.sort(key=lambda s: (-s.score, _size(s.checkpoint, s.entry) or 10**13, s.entry.source_order, s.reference))
    seen: set[str] = set()
    for choice in scored:
        if choice.entry.id not in seen:
            seen.add(choice.entry.id)
            found.choices.append(choice)
    del found.choices[k:]
    found.unknown.sort(key=lambda row: -scores.get(row[0].id, 0.0))
    return found


# ------------------------------------------------------------------------------------------------ hard filters


def uses_of(entry: Entry) -> list[str]:
    """Methods of this toolkit that can run on such a model; the checkpoint's `model_type` decides when it is loaded."""
    if entry.architecture is None or "language" not in entry.modalities:
        return ["card"]
    found: list[str] = []
    kinds = set(entry.architecture)
    parts = entry.backbone_parts
    if "decoder-only" in kinds:
        found += _DECODERS
        if any(p.startswith(_LLAMA_LIKE) for p in parts):
            found.append("memoryllm")
        if any(p.startswith(_LAW_LIKE) for p in parts):
            found.append("law")
    if "encoder-decoder" in kinds:
        found += ["tinyllm", "semievol"]
    if kinds & {"encoder-only", "dual-encoder"}:
        found += ["blair", "search"]
    return list(dict.fromkeys(found)) or ["card"]


def _reachable(entry: Entry, weights: str) -> list[Checkpoint | None]:
    hub: list[Checkpoint | None] = [c for c in entry.checkpoints if c.hf_id and c.hf_type == "model"]
    sizes = set(entry.n_params)
    hub += [
        Checkpoint(url=f"https://huggingface.co/{name}", hf_id=name, hf_type="model", n_params=sizes.copy().pop())
        if len(sizes) == 1
        else Checkpoint(url=f"https://huggingface.co/{name}", hf_id=name, hf_type="model")
        for name in entry.hf_ids_known
        if name not in entry.hf_ids
    ]
    if weights == "hub":
        return hub
    found = hub + [c for c in entry.checkpoints if c not in hub]
    return found or ([None] if weights == "none" else [])


def _filters(
    entry: Entry, checkpoint: Checkpoint | None, use: str | None, budget: Budget | None, languages: Sequence[str]
) -> tuple[bool, list[str]]:
    """Whether something speaks against a checkpoint, and what is unknown."""
    unknown = []
    if use is not None and use not in uses_of(entry):
        if entry.architecture is not None or "language" not in entry.modalities:
            return True, []
        unknown.append("architecture is unknown")
    if languages:
        if entry.languages is None:
            unknown.append("languages are unknown")
        elif not set(languages) <= set(entry.languages):
            return True, []
    if budget is not None:
        size = _size(checkpoint, entry)
        if size is None:
            unknown.append("size is unknown")
        elif not budget.fits(size):
            return True, []
    return False, unknown


def _size(checkpoint: Checkpoint | None, entry: Entry) -> int | None:
    if entry.hub and entry.hub.params and checkpoint and checkpoint.hf_id == entry.hf_id:
        return entry.hub.params
    if checkpoint is not None and (checkpoint.n_params or checkpoint.size):
        return checkpoint.n_params
    return entry.n_params[0] if len(entry.n_params) == 1 else None


# ------------------------------------------------------------------------------------------------ score


def _task_scores(engine: SearchEngine, task: str) -> tuple[dict[str, float], dict[str, str], list[str]]:
    """m of each row, the facet that matched, and under "" the task of the table that is nearest to the sentence."""
    hits = engine.search(task, len(engine.entries))
    labels = {h.entry.id: h.matched_facet for h in hits if h.matched_facet}
    if hits.mode == "lexical":
        scores = {h.entry.id: h.parts["b"] for h in hits}
        known = {t for e in engine.entries for t in e.evaluation_tasks}
        labels[""] = task if task in known else next((t for h in hits[:1] for t in h.entry.evaluation_tasks), "")
        return scores, labels, hits.notices
    scores = {h.entry.id: h.parts["m"] for h in hits}
    tasks = engine.dense().tasks_like(task)
    labels[""] = max(tasks, key=lambda name: tasks[name]) if tasks else ""
    return scores, labels, hits.notices


def _shared_data(entries: Sequence[Entry], task: str) -> dict[str, set[str]]:
    """Named data set -> rows that do this task and use it."""
    generic = generic_data()
    found: dict[str, set[str]] = {}
    for entry in entries:
        if task in entry.evaluation_tasks:
            for name in entry.pretraining_data:
                if name not in generic:
                    found.setdefault(name, set()).add(entry.id)
    return found


def _ranks(months: Mapping[str, str]) -> dict[str, float]:
    """Id -> 0 for the oldest month ... 1 for the newest."""
    order = sorted(set(months.values()))
    return {name: order.index(m) / (len(order) - 1) if len(order) > 1 else 1.0 for name, m in months.items()}


def _score(
    entry: Entry,
    checkpoint: Checkpoint | None,
    scores: Mapping[str, float],
    labels: Mapping[str, str],
    science: str | None,
    shared: Mapping[str, set[str]],
    rank: Mapping[str, float],
    budget: Budget | None,
) -> Choice:
    generic = generic_data()
    named = [d for d in entry.pretraining_data if d not in generic]
    common = [d for d in named if shared.get(d, set()) - {entry.id}]
    on_hub = checkpoint is not None and checkpoint.hf_type == "model"
    parts = {
        "T": min(1.0, max(0.0, (scores.get(entry.id, 0.0) - 0.2) / 0.6)),
        "F": 1.0 if science is None or science in entry.fields else 0.5 if "general" in entry.fields else 0.0,
        "D": len(common) / len(named) if named else 0.0,
        "A": (1.0 if entry.code_url else 0.7) if on_hub else 0.4 if checkpoint is not None else 0.0,
        "R": rank[entry.id],
    }
    reference = f"atlas:{entry.id}"
    if checkpoint is not None:
        reference = f"atlas:{entry.id}@{checkpoint.hf_id}" if on_hub else checkpoint.url
    return Choice(
        entry,
        checkpoint,
        reference,
        sum(WEIGHTS[name] * value for name, value in parts.items()),
        parts,
        tuple(_reasons(entry, checkpoint, parts, labels.get(entry.id), common, science, budget)),
        tuple(_cautions(entry, checkpoint)),
    )


def _reasons(
    entry: Entry,
    checkpoint: Checkpoint | None,
    parts: Mapping[str, float],
    label: str | None,
    common: Sequence[str],
    science: str | None,
    budget: Budget | None,
) -> list[str]:
    said = []
    if label is not None:
        said.append("its title is near to the task" if label == "title" else f"evaluated on {label}")
    elif parts["T"] > 0:
        said.append("shares words with the task")
    if science is not None and parts["F"] == 1:
        said.append(f"of the field {vocabulary()['fields'][science]}")
    if common:
        said.append(f"trained on {', '.join(common[:3])} like other models for that task")
    size = _size(checkpoint, entry)
    if budget is not None and size is not None:
        need = budget.needed_gb(size)
        said.append(f"{size_label(size)} needs about {need:.3g} of {budget.vram_gb:g} GB for {budget.method}")
    said.append(
        "weights on the hub" + (" and code" if entry.code_url else "")
        if parts["A"] >= 0.7
        else "weights elsewhere"
        if checkpoint is not None
        else "no weights known"
    )
    return said


def _cautions(entry: Entry, checkpoint: Checkpoint | None) -> list[str]:
    said = list(entry.notes)
    if entry.hub is None or entry.hub.license is None:
        said.append("licence unknown: ask the hub (evolvent atlas hub) or read the model card before use")
    else:
        said.append(f"licence {entry.hub.license}, by the hub on {entry.hub.checked_at[:10]}")
    if entry.hub is not None and entry.hub.gated:
        said.append("gated: accept its terms on the hub first")
    if _size(checkpoint, entry) is None:
        said.append("size unknown")
    missing = [name for name in ("evaluation_tasks", "pretraining_data", "architecture") if not getattr(entry, name)]
    if missing:
        said.append(f"unknown: {', '.join(missing)}")
    if checkpoint is not None and checkpoint.hf_type != "model":
        said.append("weights are not on the hub: download them yourself and pass path=")
    return said


def as_row(choice: Choice) -> dict[str, Any]:
    """A choice as plain values."""
    return {
        "id": choice.entry.id,
        "name": choice.entry.name,
        "reference": choice.reference,
        "checkpoint": choice.checkpoint.model_dump(mode="json") if choice.checkpoint else None,
        "score": round(choice.score, 4),
        "parts": {name: round(value, 4) for name, value in choice.parts.items()},
        "reasons": list(choice.reasons),
        "cautions": list(choice.cautions),
    }
