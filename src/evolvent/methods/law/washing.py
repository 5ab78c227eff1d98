"""One round of washing: the displacements are spread over the blocks' down-projections, one after the other."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evolvent.data.records import Fact
from evolvent.errors import ConfigError, ModelError
from evolvent.methods.law.config import LawConfig
from evolvent.methods.law.decoder import Decoder
from evolvent.methods.law.patch import Patch, load_patches, make_patch, save_patches
from evolvent.methods.law.probe import ranks
from evolvent.methods.law.protected import ProtectedPrompts
from evolvent.methods.law.spectral import Kept, Spectrum, Streamed, ascend, dual
from evolvent.methods.law.statistics import Statistics
from evolvent.methods.law.wordings import Row, asked_rows, object_tokens
from evolvent.models.local import LocalModel
from evolvent.models.prefixes import Tokens

logger = logging.getLogger(__name__)
STREAM_FACTS = 1024  # whose keys are in memory at once


@dataclass
class LayerEdit:
    """What was done to one block.

    Attributes:
        layer: its number.
        facts: whose keys were solved for.
        lam: λ; t: time of the flow; ridge: that Cholesky needed.
        beta: output energy that the edit adds on general text, as a share of the block's own.
        norm: ‖Δ‖ / ‖W‖.
        rank: of Δ.
        rounding: ‖stored − exact‖ / ‖Δ‖ of the edited weight.
        still_known: share of the facts still known after it.
        tried: time -> share still known.
        spectrum: the largest eigenvalues of the whitened keys.
    """

    layer: int
    facts: int
    lam: float
    t: float
    ridge: float
    beta: float
    norm: float
    rank: int
    rounding: float
    still_known: float = math.nan
    tried: dict[str, float] = field(default_factory=dict)
    spectrum: list[float] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Washables:
    """What one round works on.

    Attributes:
        facts: to be washed; rows: their usable wordings; deltas: their displacements (facts, d).
        settled: wordings of facts that are gone already and shall not come back.
        references: wordings of reference subjects.
    """

    facts: Sequence[Fact]
    rows: Sequence[Sequence[Row]]
    deltas: Tensor
    settled: Sequence[Sequence[Row]] = ()
    references: Sequence[Sequence[Row]] = ()


@contextmanager
def restored_on_error(decoder: Decoder, layers: Sequence[int]) -> Any:
    """Put the original matrices back when something fails or is interrupted in between."""
    before = {layer: decoder.projections[layer].weight.clone() for layer in layers}
    try:
        yield
    except BaseException:
        for layer, weight in before.items():
            decoder.projections[layer].write(weight)
        raise


def wash_round(
    decoder: Decoder,
    work: Washables,
    layers: Sequence[int],
    general: dict[int, Statistics],
    args: LawConfig,
    *,
    folder: Path,
    on_progress: Callable[[int, int, str], None] = lambda *_: None,
) -> tuple[list[LayerEdit], dict[str, Patch]]:
    """Edit the blocks in order (L2c); each block's patch is on disk before the next one begins.

    Args:
        decoder: whose weights change.
        work: facts, displacements, and what must stay.
        layers: blocks, rising; the displacements are meant behind the last one.
        general: their second moments.
        args: solver settings.
        folder: gets `layer-N.safetensors`; blocks that are there are applied, not computed.
        on_progress: called with (blocks done, blocks, note).

    Raises:
        ModelError: an edited weight is not finite.
    """
    last = layers[-1]
    ends = [_ends(rows) for rows in work.rows]
    goals = _goals(decoder, work.deltas, ends, last, folder / "goals.f32")
    objects = [object_tokens(decoder.model, fact) for fact in work.facts]
    asked = [
        _asked(decoder.model, fact, rows, args.eliminate) for fact, rows in zip(work.facts, work.rows, strict=True)
    ]

    def still_known() -> Tensor:
        """Which of the facts in work here are known; one that was left out is not asked for again."""
        known = torch.zeros(len(work.facts), dtype=torch.bool)
        for wordings in (slice(0, 1), slice(1, None)):  # the others, where the first one does not give the object
            mine = [
                (i, tokens) for i, own in enumerate(asked) if active[i] and not known[i] for tokens in own[wordings]
            ]
            if mine:
                of, rows = [i for i, _ in mine], [tokens for _, tokens in mine]
                hits, _ = ranks(decoder.model, rows, [objects[i] for i in of], margin=args.gone_margin)
                known[torch.tensor(of)[hits]] = True
        return known

    protected = _Protected(decoder, work) if args.mu_ratio else None
    active = torch.ones(len(work.facts), dtype=torch.bool)
    edits: list[LayerEdit] = []
    patches: dict[str, Patch] = {}
    with restored_on_error(decoder, layers):
        for number, layer in enumerate(layers):
            place, notes = folder / f"layer-{layer}.safetensors", folder / f"layer-{layer}.json"
            projection = decoder.projections[layer]
            if notes.is_file():
                stored = json.loads(notes.read_text())
                active = torch.tensor(stored.pop("active"))
                edits.append(LayerEdit(**stored))
                patch = load_patches(place)[str(layer)]
                projection.write((projection.weight.double() + patch.delta).to(projection.weight.dtype))
            else:
                problem = _Problem(decoder, protected, ends, goals, active, layer, last, len(layers) - number, args)
                edit, patch = problem.solve(general[layer], still_known, final=layer == last)
                searched = edit.tried.get(f"{edit.t:g}")  # the last block's search has asked already
                known = still_known() if searched is None and (args.eliminate != "never" or layer == last) else None
                if searched is not None:
                    edit.still_known = searched
                if known is not None:
                    edit.still_known = float(known.float().mean())
                    active = known if args.eliminate != "never" else active
                edits.append(edit)
                save_patches(place, {str(layer): patch})
                notes.with_suffix(".new").write_text(json.dumps({**edit.to_dict(), "active": active.tolist()}))
                notes.with_suffix(".new").replace(notes)
            patches[f"{layer}"] = patch
            known_now = edits[-1].still_known
            told = "" if math.isnan(known_now) else f", still known {known_now:.0%}"
            on_progress(number + 1, len(layers), f"block {layer}{told}")
            if not bool(active.any()):
                break
    return edits, patches


class _Protected:
    """The prompts of references and of facts that are gone, and of the facts in work all but the edited tokens."""

    def __init__(self, decoder: Decoder, work: Washables) -> None:
        kept = [row for own in (*work.references, *work.settled) for row in own]
        washed = [(i, row) for i, own in enumerate(work.rows) for row in own]
        self.owners = [*[None] * len(kept), *(i for i, _ in washed)]
        rows = [*(row.tokens for row in kept), *(row.tokens for _, row in washed)]
        self.prompts = ProtectedPrompts(decoder, rows, [*[None] * len(kept), *(row.edit for _, row in washed)])

    def moment(self, layer: int, active: Sequence[int]) -> Tensor:
        """Σ kkᵀ (m, m); a fact that is not active is protected at the token of its edit too."""
        edited = set(active)
        return self.prompts.moment(layer, active=[of in edited for of in self.owners])


class _Problem:
    """The least-squares problem of one block."""

    def __init__(
        self,
        decoder: Decoder,
        protected: _Protected | None,
        ends: Sequence[Sequence[Row]],
        goals: NDArray[np.float32],
        active: Tensor,
        layer: int,
        last: int,
        share: int,
        args: LawConfig,
    ) -> None:
        self.decoder, self.args, self.layer, self.last, self.share = decoder, args, layer, last, share
        self.projection = decoder.projections[layer]
        self.ends, self.goals = ends, goals
        self.starts = [0, *accumulate(len(rows) for rows in ends)]  # first goal of each fact
        self.active = [i for i, on in enumerate(active.tolist()) if on]
        self.protected = protected

    def _columns(self, facts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Keys (m, n) and residuals (d, n) of some facts."""
        rows = [row for i in facts for row in self.ends[i]]
        places = [n for i in facts for n in range(self.starts[i], self.starts[i + 1])]
        keys, states = self.decoder.read([r.tokens for r in rows], keys=[self.layer], residual=self.last)
        assert states is not None
        wanted = torch.from_numpy(self.goals[places]).double()
        found, residuals = keys[self.layer].double(), (wanted - states.double()) / self.share
        owners = torch.tensor([i for i in facts for _ in self.ends[i]])
        if self.args.key_contexts == "mean":
            weights = torch.tensor([r.weight for r in rows], dtype=torch.float64)
            found, residuals = _means(found, owners, weights), _means(residuals, owners, weights)
        return found.T, residuals.T

    def solve(self, general: Statistics, still_known: Callable[[], Tensor], *, final: bool) -> tuple[LayerEdit, Patch]:
        args, weight = self.args, self.projection.weight.clone()
        protected = self.protected.moment(self.layer, self.active) if self.protected else None
        kept = Kept(general.moment, protected, args.mu_ratio, args.ridge)
        spectrum = self._spectrum(kept)
        most = args.beta_rel * general.energy
        size = float(weight.double().norm())
        lam = self._lambda(spectrum, size, most)
        start = spectrum.memit(lam)
        cost = min(spectrum.cost(start) * args.budget_ratio, max(most, spectrum.cost(start)))
        t = 0.0
        tried: dict[str, float] = {}
        if args.method == "ascent":
            edit = ascend(
                spectrum.delta(start),
                self.keys,
                general.moment,
                cost=cost,
                steps=args.ascent_steps,
                lr=args.ascent_lr,
            )
            left, right = _low_rank(edit, int(spectrum.gamma.numel()))
        else:
            chosen = spectrum.anti(lam, args.anti, cost) if args.method == "anti" else start
            if args.method == "law" and final:
                chosen, t, tried = self._search(spectrum, lam, cost, weight, still_known)
            left, right = spectrum.left * chosen, spectrum.right
        patch, edited = make_patch(self.projection.name, weight, left, right)
        self.projection.write(edited)
        delta = patch.delta
        added = float(((delta @ general.moment) * delta).sum())
        loss = (edited.double() - weight.double() - delta).norm() / delta.norm().clamp(min=1e-300)
        return LayerEdit(
            layer=self.layer,
            facts=len(self.active),
            lam=lam,
            t=t,
            ridge=spectrum.ridge,
            beta=added / general.energy,
            norm=float(delta.norm()) / size,
            rank=left.shape[1],
            rounding=float(loss),
            tried=tried,
            spectrum=spectrum.gamma.sort(descending=True).values[:64].tolist(),
        ), patch

    def _spectrum(self, kept: Kept) -> Spectrum:
        """From all keys at once while they are fewer than the MLP's units, else from sums over blocks of facts."""
        columns = sum(len(self.ends[i]) if self.args.key_contexts == "each" else 1 for i in self.active)
        if columns < self.decoder.width:
            self.keys, residuals = self._columns(self.active)
            return dual(kept, self.keys, residuals)
        if self.args.method == "ascent":
            raise ConfigError(
                f"{columns} keys for {self.decoder.width} units are streamed, which method='ascent' cannot be: use "
                "method='law'"
            )
        sums = Streamed(self.decoder.width, self.decoder.hidden)
        for start in range(0, len(self.active), STREAM_FACTS):
            sums.add(*self._columns(self.active[start : start + STREAM_FACTS]))
        return sums.spectrum(kept)

    def _lambda(self, spectrum: Spectrum, size: float, most: float) -> float:
        args = self.args
        if args.lam == "norm_window":
            return spectrum.lambda_for_norm(size / 3, 0.75 * size, start=float(spectrum.gamma.median()))
        start = args.lam_scale * float(spectrum.gamma.median()) if args.lam == "auto" else float(args.lam)
        return spectrum.lambda_for_cost(max(start, 1e-12), most)

    def _search(
        self, spectrum: Spectrum, lam: float, cost: float, weight: Tensor, still_known: Callable[[], Tensor]
    ) -> tuple[Tensor, float, dict[str, float]]:
        """The time of the flow after which fewest facts are known; the smallest of equals."""
        best: tuple[float, float, Tensor] | None = None
        tried: dict[str, float] = {}
        for t in sorted(self.args.t_grid):
            f = spectrum.memit(lam) if t == 0 else spectrum.law(lam, t, cost)
            self.projection.write((weight.double() + spectrum.delta(f)).to(weight.dtype))
            share = float(still_known().float().mean())
            tried[f"{t:g}"] = share
            if best is None or share < best[0]:
                best = (share, t, f)
            if share == 0:
                break
        self.projection.write(weight)
        if best is None:
            raise ModelError("t_grid is empty")
        return best[2], best[1], tried


def _asked(model: LocalModel, fact: Fact, rows: Sequence[Row], eliminate: str) -> list[Tokens]:
    """What a fact is asked with before it counts as gone."""
    if eliminate == "wordings":
        return asked_rows(model, fact, rows)
    return [row.tokens for row in (rows if eliminate == "contexts" else rows[:1])]


def _ends(rows: Sequence[Row]) -> list[Row]:
    """Rows cut behind the token whose key is read."""
    return [Row(r.tokens[: r.edit + 1], r.edit, r.weight) for r in rows]


def _goals(
    decoder: Decoder, deltas: Tensor, ends: Sequence[Sequence[Row]], layer: int, path: Path
) -> NDArray[np.float32]:
    """Where the state of each wording shall be behind the last block (wordings, d): on disk, as keys never all are."""
    shape = (sum(map(len, ends)), decoder.hidden)
    if not path.is_file():
        new = path.with_suffix(".new")
        goals, start = np.memmap(new, np.float32, "w+", shape=shape), 0
        for first in range(0, len(ends), STREAM_FACTS):
            own = ends[first : first + STREAM_FACTS]
            _, clean = decoder.read([r.tokens for rows in own for r in rows], keys=[], residual=layer)
            assert clean is not None
            goals[start : start + len(clean)] = (clean + _owned(deltas[first : first + STREAM_FACTS], own)).numpy()
            start += len(clean)
        goals.flush()
        new.replace(path)
    return np.memmap(path, np.float32, "r", shape=shape)


def _owned(deltas: Tensor, rows: Sequence[Sequence[Row]]) -> Tensor:
    """The displacement of each wording's fact (wordings, d)."""
    return deltas[torch.tensor([i for i, own in enumerate(rows) for _ in own])]


def _means(values: Tensor, owners: Tensor, weights: Tensor) -> Tensor:
    """Weighted means of the rows of each owner, owners rising."""
    names, place = torch.unique(owners, return_inverse=True)
    total = torch.zeros(len(names), dtype=values.dtype).index_add(0, place, weights)
    summed = torch.zeros(len(names), values.shape[1], dtype=values.dtype).index_add(0, place, values * weights[:, None])
    return summed / total[:, None]


def _low_rank(edit: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors (d, r) and (r, m) of an edit whose rows span at most `rank` directions; all of it when that fails."""
    u, s, v = torch.linalg.svd(edit, full_matrices=False)
    rank = min(len(s), max(rank, int((s > 1e-12 * s[0]).sum())))
    return u[:, :rank] * s[:rank], v[:rank]
