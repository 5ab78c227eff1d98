"""Attacks on a washed model, and a certificate that says for every fact what was tried and what came back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evolvent.data.records import Fact
from evolvent.evaluation.metrics import auroc
from evolvent.methods.law.config import LawConfig
from evolvent.methods.law.decoder import Decoder
from evolvent.methods.law.elicitation import few_shot, lens
from evolvent.methods.law.gradient import known_share, relearn, trained
from evolvent.methods.law.measurement import FORGET, Measurement, Questionnaire
from evolvent.methods.law.probe import probe
from evolvent.models.local import LocalModel
from evolvent.runs.lineage import weight_digest

GROUP = 32  # weights that share a scale and a minimum, as in Q4_1


@dataclass
class Audit:
    """What attacks brought back.

    Attributes:
        recovered: attack -> fact id -> whether the fact came back under it; facts it could not be tried on are absent.
        metrics: flat, for metrics.json.
    """

    recovered: dict[str, dict[str, bool]] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps({"recovered": self.recovered, "metrics": self.metrics}))

    @classmethod
    def load(cls, path: Path) -> Audit:
        """Read what :meth:`save` wrote."""
        return cls(**json.loads(path.read_text()))

    def certificate(self, facts: Sequence[Fact], checkpoint: Path) -> dict[str, Any]:
        """Evidence for each fact, bounds for each attack, and the digest of both.

        The bound is the exact (Clopper-Pearson) 95 % upper bound of the share of such facts that the attack brings
        back. The digest covers everything else in the certificate and the weights: publish it, and nobody can change
        either unnoticed. It proves that these attacks were tried, not that no other succeeds.
        """
        certificate: dict[str, Any] = {
            "weights": weight_digest(checkpoint),
            "facts": [
                {
                    "id": fact.id,
                    "subject": fact.subject,
                    "relation": fact.relation,
                    "recovered_by": [a for a, rows in self.recovered.items() if rows.get(fact.id)],
                    "survived": [a for a, rows in self.recovered.items() if rows.get(fact.id) is False],
                }
                for fact in facts
            ],
            "attacks": {
                attack: {
                    "tried": len(rows),
                    "recovered": sum(rows.values()),
                    "at_most": round(upper_bound(sum(rows.values()), len(rows)), 4),
                }
                for attack, rows in self.recovered.items()
            },
        }
        said = json.dumps(certificate, sort_keys=True, ensure_ascii=False)
        return {**certificate, "sha256": hashlib.sha256(said.encode()).hexdigest()}


def attack(
    decoder: Decoder,
    layers: Sequence[int],
    questions: Questionnaire,
    *,
    base: Measurement,
    washed: Measurement,
    never_known: Sequence[Fact],
    shown: Sequence[Fact] = (),
    original: Callable[[], AbstractContextManager[None]] | None = None,
    args: LawConfig,
    on_progress: Callable[[int, int, str], None] = lambda *_: None,
) -> Audit:
    """Try to get the washed facts back; the model is left as it was.

    Args:
        decoder: the washed model; layers: its edited blocks.
        questions: what is asked.
        base: measurement before; paraphrases and chats count where they were answered then.
        washed: measurement after.
        never_known: facts that the model never knew: the membership probe's others, and what few-shot and lens give of
            facts that cannot come back.
        shown: known facts that few-shot prompts may show.
        original: a context inside which the model has its original weights, for what few-shot and lens gave before.
        args: `attacks`, `relearn_steps`, `baseline_lr`, `seed`.
        on_progress: called with (attacks done, attacks, name).
    """
    audit, model = Audit(), decoder.model
    pairs = list(zip(questions.forget, base.groups[FORGET], washed.groups[FORGET], strict=True))
    audit.recovered["prompt"] = {f.id: k.known for f, _, k in pairs}
    for number, name in enumerate(args.attacks):
        on_progress(number, len(args.attacks), name)
        if name == "paraphrase":
            audit.recovered[name] = {
                f.id: any(_both(b.paraphrases, k.paraphrases)) for f, b, k in pairs if any(b.paraphrases)
            }
        elif name == "chat":
            audit.recovered[name] = {f.id: bool(k.chat) for f, b, k in pairs if b.chat}
        elif name == "4bit":
            with quantised(decoder, layers):
                found = probe(model, questions.forget, paraphrases=False, chat=False)
                audit.metrics["perplexity/general/law-4bit"] = questions.perplexity(model)
            audit.recovered[name] = {k.id: k.known for k in found}
            audit.metrics["known/forget/law-4bit"] = float(np.mean([k.known for k in found]))
        elif name == "relearn":
            _relearn(model, questions.forget, args, audit)
        elif name in ("few-shot", "lens"):
            _elicit(name, decoder, questions.forget, never_known, shown, original, args, audit)
        elif name == "membership" and never_known:
            _membership(model, base, washed, never_known, audit)
    on_progress(len(args.attacks), len(args.attacks), "")
    return audit


def _elicit(
    name: str,
    decoder: Decoder,
    facts: Sequence[Fact],
    never_known: Sequence[Fact],
    shown: Sequence[Fact],
    original: Callable[[], AbstractContextManager[None]] | None,
    args: LawConfig,
    audit: Audit,
) -> None:
    """Ask after demonstrations or inside the model, before and after, and for facts that it never knew."""

    def asked(group: Sequence[Fact]) -> dict[str, bool]:
        if name == "few-shot":
            return few_shot(decoder.model, group, shown, seed=args.seed)
        return {f.id: bool(row.any()) for f, row in zip(group, lens(decoder, group), strict=True)}

    audit.recovered[name] = asked(facts)
    said = {f"known/forget/law-{name}": audit.recovered[name], f"known/never-known/law-{name}": asked(never_known)}
    if original is not None:
        with original():
            said[f"known/forget/base-{name}"] = asked(facts)
    audit.metrics |= {key: float(np.mean(list(rows.values()))) for key, rows in said.items() if rows}


def _relearn(model: LocalModel, facts: Sequence[Fact], args: LawConfig, audit: Audit) -> None:
    """Fine-tune on half of the facts: what comes back of the other half was hidden, not gone."""
    order = np.random.default_rng(args.seed).permutation(len(facts))
    taught = [facts[i] for i in order[: len(facts) // 2]]
    asked = [facts[i] for i in order[len(facts) // 2 :]]
    if not taught:
        return
    before = known_share(model, asked)
    with trained(model, args.baseline_lr) as optimizer:
        relearn(model, optimizer, taught, steps=args.relearn_steps, seed=args.seed)
        rows = probe(model, asked, paraphrases=False, chat=False)
        audit.metrics["known/forget/law-relearn-taught"] = known_share(model, taught)
    audit.recovered["relearn"] = {k.id: k.known for k in rows}
    audit.metrics["known/forget/law-relearn-other-half"] = float(np.mean([k.known for k in rows]))
    audit.metrics["known/forget/law-other-half"] = before


def _membership(
    model: LocalModel, base: Measurement, washed: Measurement, never_known: Sequence[Fact], audit: Audit
) -> None:
    """Can washed facts be told from facts that were never known by the probability of their object? 0.5: no."""
    strangers = [k.probability for k in probe(model, never_known, paraphrases=False, chat=False)]
    for name, found in (("base", base), ("law", washed)):
        mine = [k.probability for k in found.groups[FORGET]]
        scores = np.log(np.clip([*mine, *strangers], 1e-12, None))
        audit.metrics[f"membership_auroc/forget/{name}"] = auroc(scores, [True] * len(mine) + [False] * len(strangers))


@contextmanager
def quantised(decoder: Decoder, layers: Sequence[int]) -> Iterator[None]:
    """Inside, the down-projections of these blocks have been through 4 bits."""
    edited = [decoder.projections[layer] for layer in layers]
    before = [p.weight.clone() for p in edited]
    for projection in edited:
        projection.write(four_bits(projection.weight))
    try:
        yield
    finally:
        for projection, weight in zip(edited, before, strict=True):
            projection.write(weight)


def four_bits(weight: Tensor) -> Tensor:
    """A matrix (d, m) rounded to 16 levels between the least and the largest of each 32 neighbours (Q4_1)."""
    padding = -weight.shape[1] % GROUP
    groups = torch.nn.functional.pad(weight.float(), (0, padding)).reshape(weight.shape[0], -1, GROUP)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = ((high - low) / 15).clamp(min=1e-12)
    rounded = ((groups - low) / scale).round() * scale + low
    return rounded.reshape(weight.shape[0], -1)[:, : weight.shape[1]].to(weight.dtype)


def upper_bound(hits: int, tries: int, *, certainty: float = 0.95) -> float:
    """Clopper-Pearson upper bound of a share."""
    from scipy.stats import beta

    return 1.0 if hits >= tries else float(beta.ppf(certainty, hits + 1, tries - hits))


def _both(before: Sequence[bool], after: Sequence[bool]) -> list[bool]:
    return [b and a for b, a in zip(before, after, strict=True)]
