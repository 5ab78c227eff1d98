"""Where a fact's state shall go: z = h + δ, δ learnt so that the model no longer says the object.

δ cannot change tokens before the edit position or blocks at or below the edited one. So the prefix is computed once,
and each Adam step runs the suffix tokens through the blocks above, for many facts in one batch; only the scored
positions meet the vocabulary.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from evolvent.data.records import Fact
from evolvent.errors import ConfigError
from evolvent.methods.law.config import LawConfig
from evolvent.methods.law.decoder import Decoder, states_of
from evolvent.methods.law.wordings import Row, object_tokens, subject_row
from evolvent.models.attention import plain_attention
from evolvent.models.local import LocalModel
from evolvent.models.prefixes import length_of, past
from evolvent.models.resolve import computes_bfloat16

logger = logging.getLogger(__name__)
# largest difference of a log-probability between the suffix form and whole rows, and in types of eight bits' precision
SUFFIX_TOLERANCE, ROUNDED_TOLERANCE = 2e-2, 0.5


@dataclass(frozen=True, slots=True)
class Aim:
    """One row of one fact in the batch: what is scored there.

    Attributes:
        fact: its number in the batch.
        row: tokens and edit position; the tokens of a text target are at its end.
        removed: first tokens of the objects that "suppress" takes out of the distribution; empty for other targets.
        wanted: token ids whose log-probability is raised, at the last positions; empty for "suppress".
        weight: of this row's loss.
    """

    fact: int
    row: Row
    removed: tuple[int, ...] = ()
    wanted: tuple[int, ...] = ()
    weight: float = 1.0


@dataclass
class Targets:
    """Learnt displacements.

    Attributes:
        deltas: (facts, d), to be added to the residual stream behind the last edited block.
        losses: last loss of each fact.
        reached: whether the displaced model no longer prefers the object, on the mean over wordings.
    """

    deltas: Tensor
    losses: list[float] = field(default_factory=list)
    reached: list[bool] = field(default_factory=list)


@contextmanager
def learner_of(model: LocalModel, wanted: str) -> Iterator[Decoder]:
    """The model in the type and with the attention in which targets are learnt fastest.

    Args:
        model: as it is edited.
        wanted: "auto", or the name of a type; another type than the model's makes a copy.
    """
    if wanted == "auto":
        wanted = "bfloat16" if model.device.type != "cpu" or computes_bfloat16() else "float32"
    dtype = getattr(torch, wanted)
    module = model.module if dtype == model.dtype else copy.deepcopy(model.module).to(dtype)
    learner = LocalModel(module, model.tokenizer, name=model.name, max_batch_tokens=model.max_batch_tokens)
    with plain_attention(module, learner.device):
        yield Decoder(learner)


def aims_for(model: LocalModel, facts: Sequence[Fact], rows: Sequence[Sequence[Row]], args: LawConfig) -> list[Aim]:
    """The rows that the displacement of each fact is learnt on."""
    wanted = _wanted(model, args.target)
    aims = []
    for number, (fact, wordings) in enumerate(zip(facts, rows, strict=True)):
        total = sum(row.weight for row in wordings)
        removed = () if wanted else tuple(object_tokens(model, fact))
        for row in wordings:
            longer = Row((*row.tokens, *wanted[:-1]), row.edit)
            aims.append(Aim(number, longer, removed, wanted, row.weight / total))
        about = subject_row(model, fact) if args.kl_factor else None
        if about is not None:
            aims.append(Aim(number, about, (), (), args.kl_factor))
    return aims


def _wanted(model: LocalModel, target: str) -> tuple[int, ...]:
    if target == "eos":
        if model.tokenizer.eos_token_id is None:
            raise ConfigError(f'{model.name} has no end-of-text token: choose another target than "eos"')
        return (int(model.tokenizer.eos_token_id),)
    if target.startswith("text:"):
        return tuple(model.tokenizer(" " + target.removeprefix("text:").strip(), add_special_tokens=False)["input_ids"])
    return ()


class Suffixes:
    """A batch of rows whose prefix is behind them: log-probabilities as a function of a displacement.

    Args:
        decoder: the model.
        layer: block behind which the displacement is added, at each row's edit position.
        rows: token ids and edit positions.
        keep: last positions that are scored.
        whole: run whole rows through all blocks instead (the reference form, for models without a usable cache).
    """

    def __init__(
        self, decoder: Decoder, layer: int, rows: Sequence[Row], *, keep: int = 1, whole: bool = False
    ) -> None:
        self.decoder, self.layer, self.keep, self.whole = decoder, layer, keep, whole
        self.model = decoder.model
        self.rows = rows
        starts = [0 if whole else row.edit for row in rows]
        self.tails = [row.tokens[start:] for row, start in zip(rows, starts, strict=True)]
        self.columns = max(keep, max(map(len, self.tails)))
        places = [
            self.columns - len(tail) + row.edit - start
            for tail, row, start in zip(self.tails, rows, starts, strict=True)
        ]
        self.places = torch.tensor(places, device=self.model.device)
        self.index = torch.arange(len(rows), device=self.model.device)
        self.cache: DynamicCache | None = None
        self.states: Any = None
        with torch.no_grad():
            heads = [list(row.tokens[:start]) for row, start in zip(rows, starts, strict=True)]
            self._remember(heads)
            self.clean = self._clean()

    def _remember(self, heads: list[list[int]]) -> None:
        if self.whole:
            self.mask = torch.zeros(len(heads), 0, dtype=torch.long, device=self.model.device)
            return
        behind = self.model.shared_prefixes([tuple(head) for head in heads])
        cache, before = past(behind, self.model.device)
        tails = [head[length_of(p) :] for head, p in zip(heads, behind, strict=True)]
        self.model.forward(tails, cache, before, 1)
        self.cache = cache
        longest = max(map(len, tails))
        own = torch.tensor([[0] * (longest - len(t)) + [1] * len(t) for t in tails], device=self.model.device)
        self.mask = torch.cat([before, own], dim=1)

    def _forward(self) -> Tensor:
        """Log-probabilities (rows, keep, vocab)."""
        cache = None if self.cache is None else _again(self.cache)
        tails = [list(tail) for tail in self.tails]
        padded = [[self.model.pad_token] * (self.columns - len(tail)) + tail for tail in tails]
        real = torch.tensor([[0] * (self.columns - len(t)) + [1] * len(t) for t in tails], device=self.model.device)
        logits = self.model.forward(padded, cache, self.mask, self.keep, own_mask=real)
        return logits.log_softmax(-1)

    def _clean(self) -> Tensor:
        caught: list[Any] = []
        handle = self.decoder.blocks[self.layer].register_forward_hook(lambda _, __, out: caught.append(out))
        try:
            found = self._forward()
        finally:
            handle.remove()
        self.states = states_of(caught[0]).detach()  # (rows, columns, d)
        self.tuple = caught[0] if isinstance(caught[0], tuple) else None
        return found.detach()

    @property
    def edited_states(self) -> Tensor:
        """Clean states at the edit positions (rows, d)."""
        return self.states[self.index, self.places]  # type: ignore[no-any-return]

    def log_probs(self, deltas: Tensor) -> Tensor:
        """Log-probabilities (rows, keep, vocab) with `deltas` (rows, d) added at the edit positions."""

        def moved(states: Tensor) -> Tensor:
            added = torch.zeros_like(states, dtype=deltas.dtype)
            added = added.index_put((self.index, self.places), deltas)
            return states + added.to(states.dtype)

        if self.whole:
            with self.decoder.adding(self.layer, moved):
                return self._forward()

        def output() -> Any:
            states = moved(self.states)
            return states if self.tuple is None else (states, *self.tuple[1:])

        with self.decoder.starting_behind(self.layer, output):
            return self._forward()


def learn_targets(
    decoder: Decoder,
    facts: Sequence[Fact],
    rows: Sequence[Sequence[Row]],
    layer: int,
    args: LawConfig,
    *,
    whole: bool = False,
    on_progress: Callable[[int, int, str], None] = lambda *_: None,
) -> Targets:
    """Learn the displacement of each fact behind `layer`; see :class:`Targets`.

    Args:
        decoder: the model.
        facts: what to forget.
        rows: their usable wordings; none empty.
        layer: last edited block.
        args: steps, rate, clamp, loss weights, and the target.
        whole: use whole rows instead of suffixes.
        on_progress: called with (step, steps, note).
    """
    model = decoder.model
    aims = aims_for(model, facts, rows, args)
    batches = _buckets(decoder, layer, aims, whole=whole)
    first = {aim.fact: aim for aim in reversed(aims)}
    sizes = torch.zeros(len(facts), device=model.device)  # ‖h‖ of each fact in its first wording
    for batch in batches:
        for aim, state in zip(batch.aims, batch.suffixes.edited_states, strict=True):
            if aim is first[aim.fact]:
                sizes[aim.fact] = state.float().norm()
    unit = sizes / math.sqrt(decoder.hidden)
    steps = torch.zeros(len(facts), decoder.hidden, device=model.device)
    moment, variance = torch.zeros_like(steps), torch.zeros_like(steps)
    losses = torch.full((len(facts),), math.inf, device=model.device)
    for step in range(1, args.target_steps + 1):
        steps.requires_grad_(True)
        deltas = steps * unit[:, None]
        gradient, each = torch.zeros_like(steps), torch.zeros_like(losses)
        for batch in batches:  # one graph at a time
            rows_loss = batch.losses(batch.suffixes.log_probs(deltas[batch.owner]))
            gradient += torch.autograd.grad(rows_loss.sum(), steps, retain_graph=True)[0]
            each = each.index_add(0, batch.owner, rows_loss.detach())
        decay = args.weight_decay * (deltas.norm(dim=-1) / sizes).square()
        gradient += torch.autograd.grad(decay.sum(), steps)[0]
        with torch.no_grad():
            losses = each + decay
            moving = (losses >= args.target_loss).float()[:, None]
            moment = 0.9 * moment + 0.1 * gradient
            variance = 0.999 * variance + 0.001 * gradient.square()
            adam = (moment / (1 - 0.9**step)) / ((variance / (1 - 0.999**step)).sqrt() + 1e-8)
            steps = steps.detach() - args.target_lr * adam * moving
            length = steps.norm(dim=-1, keepdim=True)
            steps = steps * (args.clamp * math.sqrt(decoder.hidden) / length.clamp(min=1e-9)).clamp(max=1.0)
        on_progress(step, args.target_steps, f"loss {float(losses.mean()):.3f}")
        if not bool(moving.any()):
            break
    deltas = (steps * unit[:, None]).detach()
    said: list[list[bool]] = [[] for _ in facts]
    objects = [set(object_tokens(model, fact)) for fact in facts]
    with torch.no_grad():
        for batch in batches:
            best = batch.suffixes.log_probs(deltas[batch.owner]).argmax(-1).tolist()
            for aim, tokens in zip(batch.aims, best, strict=True):
                if aim.removed or aim.wanted:
                    said[aim.fact].append(tokens[-max(1, len(aim.wanted))] in objects[aim.fact])
    reached = [sum(hits) * 2 <= len(hits) for hits in said]
    return Targets(deltas.float().cpu(), losses.tolist(), reached)


@dataclass
class _Bucket:
    """Rows with suffixes of one length: no padding is computed."""

    aims: list[Aim]
    owner: Tensor
    suffixes: Suffixes
    losses: _Losses


def _buckets(decoder: Decoder, layer: int, aims: Sequence[Aim], *, whole: bool) -> list[_Bucket]:
    by_length: dict[int, list[Aim]] = {}
    for aim in aims:
        by_length.setdefault(len(aim.row.tokens) - (0 if whole else aim.row.edit), []).append(aim)
    buckets = []
    for group in by_length.values():
        keep = max(1, max(len(a.wanted) for a in group))
        suffixes = Suffixes(decoder, layer, [a.row for a in group], keep=keep, whole=whole)
        owner = torch.tensor([a.fact for a in group], device=decoder.model.device)
        buckets.append(_Bucket(group, owner, suffixes, _Losses(suffixes.clean, group)))
    return buckets


def mean_targets(states: Tensor, relations: Sequence[str], references: Tensor, of: Sequence[str]) -> Targets:
    """Targets without a gradient: the mean state of the relation's reference subjects, or of all of them.

    Args:
        states: of the facts (n, d); relations: of the facts.
        references: states of the reference subjects (r, d); of: their relations.
    """
    deltas = torch.zeros_like(states)
    for i, relation in enumerate(relations):
        same = [j for j, other in enumerate(of) if other == relation] or range(len(of))
        deltas[i] = references[list(same)].mean(0) - states[i]
    return Targets(deltas, [math.nan] * len(states), [True] * len(states))


def _again(cache: DynamicCache) -> DynamicCache:
    """A cache that grows by itself, from the tensors of this one: nothing is copied."""
    again = DynamicCache()
    again.layers = [copy.copy(layer) for layer in cache.layers]
    return again


class _Losses:
    """Loss of each row: divergence from the distribution without the object, or from the clean one, or a text's."""

    def __init__(self, clean: Tensor, aims: Sequence[Aim]) -> None:
        self.aims = aims
        self.weights = torch.tensor([a.weight for a in aims], device=clean.device)
        self.suppressed = [i for i, a in enumerate(aims) if a.removed]
        self.texts = [i for i, a in enumerate(aims) if a.wanted]
        self.kept = [i for i, a in enumerate(aims) if not a.removed and not a.wanted]
        self.clean = clean[self.kept, -1]
        goal = clean[self.suppressed, -1].clone()
        for number, i in enumerate(self.suppressed):
            goal[number, list(aims[i].removed)] = -math.inf
        self.goal = goal.log_softmax(-1) if self.suppressed else goal

    def __call__(self, log_probs: Tensor) -> Tensor:
        """(rows, keep, vocab) -> weighted losses (rows,), in nats."""
        losses = torch.zeros(len(self.aims), device=log_probs.device)
        if self.suppressed:
            now = log_probs[self.suppressed, -1]
            possible = self.goal > -math.inf
            terms = torch.where(possible, self.goal.exp() * (self.goal.masked_fill(~possible, 0.0) - now), 0.0)
            losses = losses.index_add(0, self._index(self.suppressed, now), terms.sum(-1))
        if self.kept:
            now = log_probs[self.kept, -1]
            losses = losses.index_add(0, self._index(self.kept, now), (now.exp() * (now - self.clean)).sum(-1))
        for i in self.texts:
            wanted = torch.tensor(self.aims[i].wanted, device=log_probs.device)
            said = log_probs[i, -len(wanted) :].gather(-1, wanted[:, None]).mean()
            losses = losses.index_add(0, self._index([i], said), -said[None])
        return losses * self.weights

    @staticmethod
    def _index(rows: Sequence[int], like: Tensor) -> Tensor:
        return torch.tensor(rows, device=like.device)


def suffix_form_agrees(decoder: Decoder, layer: int, rows: Sequence[Row]) -> bool:
    """Whether the suffix form gives this model's own log-probabilities; if not, whole rows must be used."""
    tolerance = SUFFIX_TOLERANCE if decoder.model.dtype == torch.float32 else ROUNDED_TOLERANCE
    largest = math.inf
    with suppress(TypeError, RuntimeError, AttributeError, IndexError):
        part = Suffixes(decoder, layer, rows)
        again = part.log_probs(torch.zeros(len(rows), decoder.hidden, device=decoder.model.device)).detach()
        full = Suffixes(decoder, layer, rows, whole=True).clean
        likely = full[:, -1] > -8
        largest = float((again - full)[:, -1][likely].abs().max())
    if largest < tolerance:
        return True
    logger.warning("%s: prefixes cannot be kept (off by %.2g nats); targets take longer", decoder.model.name, largest)
    return False
