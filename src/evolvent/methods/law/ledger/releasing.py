"""From the sums of a ledger to washed weights, and from a receipt to evidence that its facts are gone from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from evolvent.data.facts import FactRows, facts_digest, read_facts
from evolvent.data.files import write_json
from evolvent.errors import ConfigError, DataError, NothingSelectedError
from evolvent.methods.law.audit import Audit, attack
from evolvent.methods.law.config import LawConfig
from evolvent.methods.law.decoder import Decoder
from evolvent.methods.law.ledger.columns import Units, in_units
from evolvent.methods.law.ledger.ledger import Ledger
from evolvent.methods.law.ledger.receipts import OwnReceipt
from evolvent.methods.law.ledger.sums import sums_digest
from evolvent.methods.law.measurement import FORGET, Measurement, Questionnaire
from evolvent.methods.law.patch import Patch, make_patch
from evolvent.methods.law.probe import Knowledge, probe
from evolvent.methods.law.protected import ProtectedPrompts
from evolvent.methods.law.publishing import WARNING, publish
from evolvent.methods.law.reverting import undo_patches
from evolvent.methods.law.spectral import Kept, Streamed
from evolvent.methods.law.washing import LayerEdit
from evolvent.methods.law.wordings import rows_for, wordings_for
from evolvent.models.resolve import load_local
from evolvent.runs.lineage import Lineage, read_lineage, weight_digest

SOLVER = ("lam", "lam_scale", "beta_rel", "mu_ratio", "ridge", "max_ppl_ratio", "on_budget")  # may differ by release
ATTACKS = ("paraphrase", "chat", "4bit")


@dataclass(frozen=True)
class Release:
    """What a release leaves.

    Attributes:
        model: the checkpoint folder.
        requests, facts: how many it has taken out.
        edits: of the blocks.
        perplexity_ratio: on held-out general text, after over before.
    """

    model: Path
    requests: int
    facts: int
    edits: list[LayerEdit]
    perplexity_ratio: float


def release(ledger: Ledger, output_dir: str | Path, *, changes: Mapping[str, Any] | None = None) -> Release:
    """Wash everything that was asked for so far out of the original model.

    Args:
        ledger: whose sums are solved for; stays as it is.
        output_dir: gets `checkpoint/`, `undo/` and `release.json`.
        changes: solver settings other than the ledger's, see `SOLVER`.

    Raises:
        NothingSelectedError: no request yet, or perplexity is over the budget; nothing is written.
        ConfigError: a setting that would change what is in the sums, or has no such value; `output_dir` holds another
            checkpoint than a release's.
    """
    args = _changed(ledger.args, changes or {})
    _check_place(Path(output_dir))
    head, model = ledger.head, ledger.model
    if not head.requests:
        raise NothingSelectedError(f"{ledger.folder}: there was no request yet, so there is nothing to release")
    decoder, sums = Decoder(model), ledger.sums()
    moments = reference_moments(ledger, decoder)
    questions = Questionnaire([], [], ledger.held_out(), args)
    before = questions.perplexity(model)
    edits: list[LayerEdit] = []
    patches: dict[str, Patch] = {}
    try:
        for layer, general in ledger.statistics().items():
            kept = Kept(general.moment, moments.get(layer), args.mu_ratio, args.ridge)
            scaled = in_units(sums[layer], Units.of(general))
            edit, patch = solve_block(decoder, layer, scaled, kept, general.energy, args)
            edits.append(edit)
            patches[f"1/{layer}"] = patch
        ratio = questions.perplexity(model) / before
        if args.on_budget == "stop" and ratio > args.max_ppl_ratio:
            raise NothingSelectedError(
                f"perplexity would be x{ratio:.3f}, over max_ppl_ratio={args.max_ppl_ratio}: nothing was released; "
                "lower beta_rel, or raise max_ppl_ratio"
            )
        place = Path(output_dir)
        place.mkdir(parents=True, exist_ok=True)
        lineage = Lineage(
            parent=head.model,
            parent_digest=head.fingerprint,
            method="law-ledger",
            config=args.model_dump(mode="json"),
            data={
                "ledger": head.last,
                "sums": sums_digest(sums),
                "references": facts_digest(ledger.references()),
            },
            seed=args.seed,
            metrics_before={"perplexity/general": before},
            metrics_after={"perplexity/general": before * ratio},
            notes=[f"{head.facts} facts of {head.requests} requests were washed out", WARNING],
        )
        checkpoint = publish(place, model, patches, lineage)
    finally:
        undo_patches(decoder, list(patches.values()))
    told = {"requests": head.requests, "facts": head.facts, "perplexity_ratio": ratio, "ledger": head.last}
    write_json(place / "release.json", {**told, "edits": [e.to_dict() for e in edits]}, indent=2)
    return Release(checkpoint, head.requests, head.facts, edits, ratio)


def solve_block(
    decoder: Decoder, layer: int, sums: Streamed, kept: Kept, energy: float, args: LawConfig
) -> tuple[LayerEdit, Patch]:
    """Write the edit of one block's sums into its weights; see L5 of :mod:`~evolvent.methods.law.spectral`."""
    spectrum = sums.spectrum(kept)
    facts = min(sums.count, len(spectrum.gamma))
    largest = spectrum.gamma.argsort(descending=True)[:facts]  # the others are rounding
    projection = decoder.projections[layer]
    weight = projection.weight.clone()
    middle, size = float(spectrum.gamma[largest].median()), float(weight.double().norm())
    if args.lam == "norm_window":
        lam = spectrum.lambda_for_norm(size / 3, 0.75 * size, start=middle)
    else:
        lam = args.lam_scale * middle if args.lam == "auto" else float(args.lam)
        lam = spectrum.lambda_for_cost(max(lam, 1e-12), args.beta_rel * energy)
    f = spectrum.memit(lam)
    left, right = (spectrum.left * f)[:, largest], spectrum.right[largest]
    patch, edited = make_patch(projection.name, weight, left, right)
    projection.write(edited)
    delta = patch.delta
    return LayerEdit(
        layer=layer,
        facts=sums.count,
        lam=lam,
        t=0.0,
        ridge=spectrum.ridge,
        beta=float(((delta @ kept.general) * delta).sum()) / energy,
        norm=float(delta.norm()) / size,
        rank=patch.left.shape[1],
        rounding=float((edited.double() - weight.double() - delta).norm() / delta.norm().clamp(min=1e-300)),
        spectrum=spectrum.gamma[largest][:64].tolist(),
    ), patch


def reference_moments(ledger: Ledger, decoder: Decoder) -> dict[int, torch.Tensor]:
    """block -> Σ kkᵀ over the prompts of the references (m, m), at the original weights."""
    wordings = wordings_for(decoder.model, ledger.args)
    rows = [own[0] for own in rows_for(decoder.model, ledger.references(), wordings) if own]
    if not rows or not ledger.args.mu_ratio:
        return {}
    tokens = [row.tokens for row in rows]
    prompts = ProtectedPrompts(decoder, tokens, [None] * len(tokens))
    return {layer: prompts.moment(layer) for layer in ledger.head.layers}


# ------------------------------------------------------------------------------------------------ verification


@dataclass(frozen=True)
class Verification:
    """What was found of one request.

    Attributes:
        request: its id; number: its place in the ledger.
        facts: how many of its commitments were opened; washed: how many of those were known before.
        audit: what questions and attacks brought back, of the washed ones.
        certificate: the receipt, and evidence for each fact, see :meth:`~evolvent.methods.law.audit.Audit.certificate`.
    """

    request: str
    number: int
    facts: int
    washed: int
    audit: Audit
    certificate: dict[str, Any]

    @property
    def recovered(self) -> list[str]:
        """Ids of facts that the weights still give, by whatever attack."""
        return sorted({i for rows in self.audit.recovered.values() for i, back in rows.items() if back})


def verify(
    ledger: Ledger, receipt: str | Path, facts: FactRows, checkpoint: str | Path, *, attacks: Sequence[str] = ATTACKS
) -> Verification:
    """Check a request against the ledger and against released weights.

    Args:
        ledger: that gave the receipt.
        receipt: the requester's file.
        facts: all or some of the request's facts, as they were.
        checkpoint: of a release, without its `undo/`.
        attacks: that are tried beside the prompt, see :class:`~evolvent.methods.law.config.LawConfig`.

    Raises:
        DataError: the receipt is not in the ledger's chain, a fact was not in the request, the weights were released
            before it or were changed since. ConfigError: an attack of another name.
    """
    own = OwnReceipt.load(receipt)
    chain = ledger.receipts()
    number = own.receipt.number
    if number > len(chain) or chain[number - 1] != own.receipt:
        raise DataError(f"{receipt}: request {own.receipt.request} is not in {ledger.folder}")
    opened = own.opened(list(read_facts(facts)))
    _check_release(checkpoint, [r.sha256 for r in chain[number - 1 :]], own.receipt.request)
    washed = [(fact, opening) for fact, opening in opened if opening.washed]
    asked = [fact for fact, _ in washed]
    try:
        args = LawConfig.model_validate({**ledger.args.model_dump(), "attacks": tuple(attacks)})
    except ValidationError as error:
        raise ConfigError(f"attacks={', '.join(attacks)}: {error.errors()[0]['msg']}") from error
    model = load_local(checkpoint, dtype=args.dtype)
    audit = Audit()
    if asked:
        questions = Questionnaire(asked, [], ledger.held_out(), args)
        base = [Knowledge.from_dict(opening.before) for _, opening in washed]
        found = probe(model, asked, mode=args.probe_mode, max_new_tokens=args.max_new_tokens)
        references = ledger.references() if "few-shot" in attacks else []
        hits = probe(model, references, paraphrases=False, chat=False) if references else []
        audit = attack(
            Decoder(model),
            ledger.head.layers,
            questions,
            base=Measurement({FORGET: base}, math.nan),
            washed=Measurement({FORGET: found}, math.nan),
            never_known=[f for f, k in zip(references, hits, strict=True) if not k.known],
            shown=[f for f, k in zip(references, hits, strict=True) if k.known],
            args=args,
        )
    evidence = audit.certificate(asked, Path(checkpoint))
    certificate = {"receipt": own.receipt.model_dump(mode="json"), "evidence": evidence}
    return Verification(own.receipt.request, number, len(opened), len(washed), audit, certificate)


def _check_release(checkpoint: str | Path, later: Sequence[str], request: str) -> None:
    lineage = read_lineage(checkpoint)
    if lineage is None or "ledger" not in lineage.data:
        raise DataError(f"{checkpoint}: these weights were not released from a ledger")
    if lineage.data["ledger"] not in later:
        raise DataError(f"{checkpoint}: these weights were released before request {request}, or from another ledger")
    if weight_digest(checkpoint) != lineage.weight_digest:
        raise DataError(f"{checkpoint}: these weights were changed since they were released")


def _changed(args: LawConfig, changes: Mapping[str, Any]) -> LawConfig:
    fixed = [name for name in changes if name not in SOLVER]
    if fixed:
        raise ConfigError(f"{', '.join(fixed)}: fixed when the ledger began; a release may change {', '.join(SOLVER)}")
    try:
        return LawConfig.model_validate({**args.model_dump(), **changes})
    except ValidationError as error:
        said = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError("; ".join(said)) from error


def _check_place(folder: Path) -> None:
    """A release replaces an earlier one, and no other checkpoint."""
    checkpoint = folder / "checkpoint"
    lineage = read_lineage(checkpoint) if checkpoint.exists() else None
    if checkpoint.exists() and (lineage is None or lineage.method != "law-ledger"):
        raise ConfigError(f"{checkpoint} is no release of a ledger: choose another --out")
