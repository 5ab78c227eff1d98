"""Where a decoder keeps its MLP down-projections, found by their shape; reading their inputs, skipping blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evolvent.errors import ModelError
from evolvent.models.batching import run_batches, token_budget_batches
from evolvent.models.local import LocalModel
from evolvent.models.prefixes import Prefix, Tokens, in_chunks, length_of, past


class _FarEnoughError(Exception):
    """Raised behind the last block that is needed."""


@dataclass(frozen=True)
class DownProjection:
    """The last matrix of one block's MLP; its input is a key, its output a value.

    Attributes:
        name: of its weight in the model's state.
        module: an `nn.Linear`, or GPT-2's transposed `Conv1D`.
    """

    name: str
    module: nn.Module
    transposed: bool

    @property
    def weight(self) -> Tensor:
        """W (d, m), a view of the parameter."""
        stored: Any = self.module.weight
        return stored.data.T if self.transposed else stored.data  # type: ignore[no-any-return]

    def write(self, weight: Tensor) -> None:
        """Set W (d, m)."""
        self.weight.copy_(weight)


class Decoder:
    """The blocks of a causal language model with the down-projection of each.

    Any decoder whose blocks are one ModuleList and hold an MLP of linear layers: Llama, Qwen, Gemma, Mistral, GPT-2,
    GPT-J and their like. An MLP is known by what it does, not by its name: it maps each position by itself.

    Raises:
        ModelError: no weights, an encoder, an adapter, quantised weights, or blocks of another shape; lists candidates.
    """

    def __init__(self, model: LocalModel) -> None:
        if not hasattr(model, "module"):
            raise ModelError(f"{model!r}: LAW changes weights, which an endpoint does not give")
        if hasattr(model.module, "peft_config"):
            raise ModelError(f"{model.name} has an adapter: merge it first (`merge_and_unload`), then wash")
        config = model.causal_lm.config
        if getattr(config, "is_encoder_decoder", False):
            raise ModelError(f"{model.name} is an encoder-decoder; LAW is for decoders")
        self.model = model
        self.hidden = int(getattr(config, "hidden_size", None) or config.n_embd)
        self.blocks = self._blocks(int(config.num_hidden_layers))
        names = {id(p): n for n, p in model.causal_lm.named_parameters()}
        self.projections = [self._down_projection(i, block, names) for i, block in enumerate(self.blocks)]
        self.width = self.projections[0].weight.shape[1]

    def __len__(self) -> int:
        return len(self.blocks)

    def _blocks(self, count: int) -> nn.ModuleList:
        for module in self.model.causal_lm.modules():
            if isinstance(module, nn.ModuleList) and len(module) == count:
                return module
        raise ModelError(f"{self.model.name}: its {count} blocks are not one ModuleList")

    def _down_projection(self, layer: int, block: nn.Module, names: Mapping[int, str]) -> DownProjection:
        candidates = []
        for parent in block.modules():
            for module in parent.children():
                shape = _shape(module)
                if shape is not None and shape[0] == self.hidden != shape[1]:
                    candidates.append((parent, module))
        found = [m for parent, m in candidates if self._maps_positions_alone(parent)]
        if len(found) != 1:
            linear = [name for name, m in block.named_modules() if _shape(m) is not None]
            raise ModelError(
                f"{self.model.name}, block {layer}: {len(found)} MLP down-projections found, expected one among the "
                f"linear layers {linear or 'none'} (experts and quantised layers are not supported; "
                "load the weights in 16 or 32 bits)"
            )
        weight: Any = found[0].weight
        if not weight.is_floating_point():
            raise ModelError(f"{self.model.name} is quantised ({weight.dtype}): load its weights in 16 or 32 bits")
        return DownProjection(names[id(weight)], found[0], transposed=type(found[0]).__name__ == "Conv1D")

    @torch.inference_mode()
    def _maps_positions_alone(self, module: nn.Module) -> bool:
        weight = next(module.parameters())
        generator = torch.Generator().manual_seed(0)
        states = torch.randn(1, 3, self.hidden, generator=generator).to(weight)
        changed = states.clone()
        changed[:, 0] += 1
        try:
            first, second = module(states), module(changed)
        except (TypeError, ValueError, RuntimeError, AttributeError, KeyError):
            return False  # attention wants more than states
        if not isinstance(first, Tensor) or first.shape != states.shape:
            return False
        return bool(torch.equal(first[:, 1:], second[:, 1:]))

    # ------------------------------------------------------------------------------------------ reading

    def read(
        self, rows: Sequence[Tokens], *, keys: Sequence[int], residual: int | None = None
    ) -> tuple[dict[int, Tensor], Tensor | None]:
        """Keys and residual states at the last token of each row; blocks above the last one asked for do not run.

        Args:
            rows: token ids, each ending with the token that is read.
            keys: blocks whose down-projection inputs are wanted.
            residual: block after which the residual stream is wanted.

        Returns:
            block -> keys (rows, m), and states (rows, d); float32.
        """
        last = max([*keys, *([] if residual is None else [residual])])
        distinct = sorted(set(rows))
        caught: dict[int | str, list[Tensor]] = {layer: [] for layer in keys}
        caught["residual"] = []
        order: list[int] = []
        with self._catching(caught, keys, residual, last):
            for chunk in in_chunks(distinct, 16 * self.model.max_batch_tokens):
                self._read_chunk(chunk, distinct, order)
        place = {distinct[i]: p for p, i in enumerate(order)}
        index = torch.tensor([place[row] for row in rows])
        found = {layer: torch.cat(caught[layer])[index] for layer in keys}
        return found, torch.cat(caught["residual"])[index] if residual is not None else None

    def moment(self, rows: Sequence[Tokens], layer: int, *, skip: Sequence[int | None]) -> Tensor:
        """Σ kkᵀ (m, m), float64, over the positions of all rows; a beginning that rows share counts once.

        Args:
            rows: token ids.
            layer: block whose keys are summed.
            skip: a position of each row that is left out, or None.
        """
        seen = {row[: at + 1] for row, at in zip(rows, skip, strict=True) if at is not None}
        total = torch.zeros(self.width, self.width, dtype=torch.float64)
        chosen: Tensor

        def add(_: Any, inputs: tuple[Tensor, ...]) -> None:
            keys = inputs[0][chosen].float().cpu()
            total.add_((keys.T @ keys).double())

        def stop(_: Any, __: Any, ___: Any) -> None:
            raise _FarEnoughError

        handles = [
            self.projections[layer].module.register_forward_pre_hook(add),
            self.blocks[layer].register_forward_hook(stop),
        ]
        ordered = sorted(set(rows), key=len)
        lengths = [len(row) for row in ordered]

        def run(batch: list[int]) -> None:
            nonlocal chosen
            longest = max(lengths[i] for i in batch)
            ids = torch.full((len(batch), longest), self.model.pad_token)
            mask, fresh = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
            for place, i in enumerate(batch):
                row = ordered[i]
                ids[place, : len(row)] = torch.tensor(row)
                mask[place, : len(row)] = 1
                for at in range(len(row)):
                    if row[: at + 1] not in seen:
                        seen.add(row[: at + 1])
                        fresh[place, at] = True
            chosen = fresh.to(self.model.device)
            with suppress(_FarEnoughError):
                self.model.module(
                    input_ids=ids.to(self.model.device), attention_mask=mask.to(self.model.device), use_cache=False
                )

        try:
            with torch.inference_mode():
                run_batches(token_budget_batches(lengths, self.model.max_batch_tokens), run)
        finally:
            for handle in handles:
                handle.remove()
        return total

    def _read_chunk(self, chunk: Sequence[Tokens], distinct: Sequence[Tokens], order: list[int]) -> None:
        number = {row: i for i, row in enumerate(distinct)}
        with self._paused():
            behind = self.model.shared_prefixes(chunk)

        def run(batch: list[int]) -> None:
            rows: list[Prefix | None] = [behind[b] for b in batch]
            cache, mask = past(rows, self.model.device)
            tails = [chunk[b][length_of(p) :] for b, p in zip(batch, rows, strict=True)]
            try:
                self.model.forward(tails, cache if any(rows) else None, mask, 1)
            except _FarEnoughError:
                order.extend(number[chunk[b]] for b in batch)

        lengths = [len(row) - length_of(p) for row, p in zip(chunk, behind, strict=True)]
        with torch.inference_mode():
            run_batches(token_budget_batches(lengths, self.model.max_batch_tokens), run)

    @contextmanager
    def _catching(
        self, caught: dict[Any, list[Tensor]], keys: Sequence[int], residual: int | None, last: int
    ) -> Iterator[None]:
        self._active = True

        def key_hook(layer: int) -> Callable[..., None]:
            def hook(_: Any, inputs: tuple[Tensor, ...]) -> None:
                if self._active:
                    caught[layer].append(inputs[0][:, -1].float().cpu())

            return hook

        def block_hook(layer: int) -> Callable[..., None]:
            def hook(_: Any, __: Any, output: Any) -> None:
                if not self._active:
                    return
                if layer == residual:
                    caught["residual"].append(states_of(output)[:, -1].float().cpu())
                if layer == last:
                    raise _FarEnoughError

            return hook

        handles = [self.projections[layer].module.register_forward_pre_hook(key_hook(layer)) for layer in keys]
        handles += [
            self.blocks[layer].register_forward_hook(block_hook(layer))
            for layer in {last, *([] if residual is None else [residual])}
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _paused(self) -> Iterator[None]:
        self._active = False
        try:
            yield
        finally:
            self._active = True

    # ----------------------------------------------------------------------------------- instead of blocks

    @contextmanager
    def starting_behind(self, layer: int, output: Callable[[], Any]) -> Iterator[None]:
        """Inside, blocks up to `layer` do not run; `output()` is what block `layer` returns."""
        replaced = list(self.blocks)[: layer + 1]
        for block in replaced:
            block.forward = lambda *_, **__: output()  # type: ignore[method-assign]
        try:
            yield
        finally:
            for block in replaced:
                del block.forward

    @contextmanager
    def adding(self, layer: int, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Inside, what leaves block `layer` is `change(states)`."""

        def hook(_: Any, __: Any, output: Any) -> Any:
            changed = change(states_of(output))
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        handle = self.blocks[layer].register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


@contextmanager
def plain_attention(module: Any, device: torch.device) -> Iterator[None]:
    """Inside, a model on a CPU attends without torch's fused kernel, which is slow backwards there."""
    fused = device.type == "cpu" and getattr(module.config, "_attn_implementation", None) == "sdpa"
    if fused:
        module.set_attn_implementation("eager")
    try:
        yield
    finally:
        if fused:
            module.set_attn_implementation("sdpa")


def states_of(output: Any) -> Tensor:
    """The hidden states among what a block returns."""
    return output[0] if isinstance(output, tuple) else output  # type: ignore[no-any-return]


def _shape(module: nn.Module) -> tuple[int, int] | None:
    """(outputs, inputs) of a linear layer."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if type(module).__name__ == "Conv1D":
        weight: Any = module.weight
        return int(weight.shape[1]), int(weight.shape[0])
    return None
