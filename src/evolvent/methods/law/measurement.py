"""The same questions to every variant: facts to forget, facts to keep in three groups, and general text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evolvent.data.records import Fact
from evolvent.errors import DataError
from evolvent.evaluation.metrics import perplexity
from evolvent.evaluation.significance import bootstrap_interval, mcnemar_exact, paired_bootstrap
from evolvent.methods.law.config import LawConfig
from evolvent.methods.law.probe import Knowledge, probe
from evolvent.models.local import LocalModel

FORGET = "forget"
SAME_RELATION = "same-relation"
GROUPS = (SAME_RELATION, "same-subject", "other")
HELD_OUT_TEXTS = 16
HELD_OUT_TOKENS = 128


@dataclass(frozen=True)
class Measurement:
    """What one variant of the model knows.

    Attributes:
        groups: group -> knowledge of its facts, in order.
        perplexity: on held-out general text; nan without any.
    """

    groups: dict[str, list[Knowledge]]
    perplexity: float

    def save(self, path: Path) -> None:
        """Write as JSON."""
        groups = {name: [k.to_dict() for k in rows] for name, rows in self.groups.items()}
        path.write_text(json.dumps({"groups": groups, "perplexity": self.perplexity}))

    @classmethod
    def load(cls, path: Path) -> Measurement:
        """Read what :meth:`save` wrote."""
        stored = json.loads(path.read_text())
        groups = {name: [Knowledge.from_dict(k) for k in rows] for name, rows in stored["groups"].items()}
        return cls(groups, float(stored["perplexity"]))

    def hits(self, group: str, kind: str, base: Measurement | None = None) -> list[bool]:
        """Whether each question is answered: kind "prompt", "paraphrase" or "chat".

        Args:
            group: of facts.
            kind: of question.
            base: when given, only paraphrases and chats that the base model answered count.
        """
        rows = self.groups.get(group, [])
        if kind == "prompt":
            return [k.known for k in rows]
        before = base.groups.get(group, []) if base is not None else rows
        if kind == "chat":
            pairs = [(k.chat, b.chat) for k, b in zip(rows, before, strict=True)]
            return [bool(now) for now, was in pairs if now is not None and (base is None or was)]
        return [
            now
            for k, b in zip(rows, before, strict=True)
            for now, was in zip(k.paraphrases, b.paraphrases, strict=True)
            if base is None or was
        ]


def check_disjoint(forget: Sequence[Fact], keep: Sequence[Fact]) -> None:
    """No fact may be both forgotten and kept.

    Raises:
        DataError: names ids.
    """
    gone = {(f.subject.casefold(), f.prompt) for f in forget}
    both = [f.id for f in keep if (f.subject.casefold(), f.prompt) in gone]
    if both:
        raise DataError(f"{len(both)} facts are both to be forgotten and to be kept: {', '.join(both[:5])}")


class Questionnaire:
    """The facts and texts that every variant is measured on.

    Args:
        forget: facts to be washed.
        keep: facts that must stay; put into groups by what they share with the forgotten ones.
        texts: general text for perplexity.
        args: how facts are asked for.
    """

    def __init__(self, forget: Sequence[Fact], keep: Sequence[Fact], texts: Sequence[str], args: LawConfig) -> None:
        self.forget, self.args = list(forget), args
        self.texts = list(texts)[:HELD_OUT_TEXTS]
        relations = {f.relation for f in forget if f.relation}
        subjects = {f.subject.casefold() for f in forget}
        self.keep: dict[str, list[Fact]] = {group: [] for group in GROUPS}
        for fact in keep:
            group = "other"
            if fact.relation in relations:
                group = SAME_RELATION
            elif fact.subject.casefold() in subjects:
                group = "same-subject"
            self.keep[group].append(fact)

    def facts(self, group: str) -> list[Fact]:
        """The facts of a group."""
        return self.forget if group == FORGET else self.keep[group]

    def ask_forgotten(self, model: LocalModel, *, chat: bool = True) -> list[Knowledge]:
        """Ask for the facts to forget, in all ways."""
        return self._ask(model, FORGET, chat=chat and "chat" in self.args.attacks)

    def measure(self, model: LocalModel, forgotten: Sequence[Knowledge] | None = None) -> Measurement:
        """Ask a variant everything.

        Args:
            model: the variant.
            forgotten: what was found of the facts to forget, if they were asked for already.
        """
        groups = {FORGET: list(self.ask_forgotten(model) if forgotten is None else forgotten)}
        groups |= {g: self._ask(model, g, chat="chat" in self.args.attacks) for g in GROUPS}
        return Measurement(groups, self.perplexity(model))

    def _ask(self, model: LocalModel, group: str, *, chat: bool) -> list[Knowledge]:
        return probe(
            model,
            self.facts(group),
            paraphrases=group == FORGET,
            chat=chat,
            mode=self.args.probe_mode,
            max_new_tokens=self.args.max_new_tokens,
        )

    def perplexity(self, model: LocalModel) -> float:
        """On the held-out texts, each cut to 128 tokens; nan without any."""
        if not self.texts:
            return float("nan")
        most = min(HELD_OUT_TOKENS, model.context_length // 2)
        cut = [model.tokenizer.decode(model.encode(t)[:most], skip_special_tokens=True) for t in self.texts]
        return perplexity(model, cut).per_token


def metrics_of(variants: Mapping[str, Measurement]) -> dict[str, Any]:
    """Flat metrics of all variants, `known/GROUP/VARIANT` and so on, with intervals and paired tests.

    The first variant is the base; paraphrases and chats count where the base answered them.
    """
    base = next(iter(variants.values()))
    metrics: dict[str, Any] = {}
    for name, found in variants.items():
        for group in found.groups:
            for kind, key in (("prompt", "known"), ("paraphrase", "paraphrase"), ("chat", "chat")):
                hits = found.hits(group, kind, base)
                if not hits:
                    continue
                interval = bootstrap_interval(np.array(hits))
                metrics[f"{key}/{group}/{name}"] = interval.mean
                metrics[f"{key}/{group}/{name}/ci95"] = [interval.low, interval.high]
                metrics[f"{key}/{group}/{name}/n"] = len(hits)
        metrics[f"perplexity/general/{name}"] = found.perplexity
    metrics |= _comparisons(variants)
    return metrics


def _comparisons(variants: Mapping[str, Measurement]) -> dict[str, Any]:
    """LAW against each gradient method on every kept fact."""
    if "law" not in variants:
        return {}
    metrics: dict[str, Any] = {}
    for name, found in variants.items():
        for group in GROUPS:
            ours, theirs = variants["law"].hits(group, "prompt"), found.hits(group, "prompt")
            if name in ("base", "law") or not ours or len(ours) != len(theirs):
                continue
            test = paired_bootstrap(np.array(theirs), np.array(ours))
            metrics[f"gain/{group}/law-vs-{name}"] = test.difference
            metrics[f"gain/{group}/law-vs-{name}/ci95"] = [test.low, test.high]
            metrics[f"p_value/{group}/law-vs-{name}"] = mcnemar_exact(theirs, ours)
    return metrics
