"""Where a decoder keeps its MLP down-projections, found by their shape; reading their inputs, skipping blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
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
        ModelError: no weights, an encoder, an adapter, experts, quantised weights, or blocks of another shape; lists
            candidates.
    """

    def __init__(self, model: LocalModel) -> None:
        if not hasattr(model, "module"):
            raise ModelError(f"{model!r}: LAW changes weights, which an endpoint does not give")
        if hasattr(model.module, "peft_config"):
            raise ModelError(f"{model.name} has an adapter: merge it first (`merge_and_unload`), then wash")
        config = model.causal_lm.config
        if getattr(config, "is_encoder_decoder", False):
            raise ModelError(f"{model.name} is an encoder-decoder; LAW is for decoders")
        config = config.get_text_config()  # of a model that reads images too
        self.model = model
        self.hidden = int(getattr(config, "hidden_size", None) or config.n_embd)
        self.vocab_size = int(config.vocab_size)
        self.blocks = self._blocks(int(config.num_hidden_layers))
        names = {id(p): n for n, p in model.causal_lm.named_parameters()}
        self.projections = [self._down_projection(i, block, names) for i, block in enumerate(self.blocks)]
        self.width = self.projections[0].weight.shape[1]

    def __len__(self) -> int:
        return len(self.blocks)

    def _blocks(self, count: int) -> nn.ModuleList:
        for module in self.model.causal_lm.get_decoder().modules():
            if isinstance(module, nn.ModuleList) and len(module) == count:
                return module
        raise ModelError(f"{self.model.name}: its {count} blocks are not one ModuleList")

    def _down_projection(self, layer: int, block: nn.Module, names: Mapping[int, str]) -> DownProjection:
        stacked = [n for n, p in block.named_parameters() if p.ndim == 3 and self.hidden in p.shape[1:]]
        if stacked:
            raise ModelError(
                f"{self.model.name}, block {layer}: {', '.join(stacked)} are a mixture of experts, which is not "
                "supported: what the experts know would stay"
            )
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
        self,
        rows: Sequence[Tokens],
        *,
        keys: Sequence[int],
        residual: int | None = None,
        added: Mapping[int, Tensor] | None = None,
    ) -> tuple[dict[int, Tensor], Tensor | None]:
        """Keys and residual states at the last token of each row; blocks above the last one asked for do not run.

        Args:
            rows: token ids, each ending with the token that is read.
            keys: blocks whose down-projection inputs are wanted.
            residual: block after which the residual stream is wanted.
            added: block -> what is added to the state of each row's last token behind it (d,).

        Returns:
            block -> keys (rows, m), and states (rows, d); float32.
        """
        last = max([*keys, *([] if residual is None else [residual])])
        distinct = sorted(set(rows))
        caught: dict[int | str, list[Tensor]] = {layer: [] for layer in keys}
        caught["residual"] = []
        order: list[int] = []
        with self._catching(caught, keys, residual, last, added or {}):
            for chunk in in_chunks(distinct, 16 * self.model.max_batch_tokens):
                self._read_chunk(chunk, distinct, order, caught)
        place = {distinct[i]: p for p, i in enumerate(order)}
        index = torch.tensor([place[row] for row in rows])
        found = {layer: torch.cat(caught[layer])[index] for layer in keys}
        return found, torch.cat(caught["residual"])[index] if residual is not None else None

    def visit(
        self,
        rows: Sequence[Tokens],
        layers: Sequence[int],
        see: Callable[[list[int], int, Tensor, Tensor], None],
        *,
        states: States | None = None,
    ) -> None:
        """Run rows, padded on the right, through the blocks up to the last of `layers`.

        Args:
            rows: token ids.
            layers: blocks.
            see: called with (numbers of the rows, block, keys (rows, longest, m), values (rows, longest, d)).
            states: of the same rows at an earlier visit, from where they go on; brought up to the first of `layers`.
        """
        batch: list[int] = []
        first, last = min(layers), max(layers)
        handles = []

        def hook_for(layer: int) -> Callable[..., None]:
            return lambda _, inputs, output: see(batch, layer, inputs[0], output)

        def stop(*_: Any) -> None:
            raise _FarEnoughError

        def run(chosen: list[int]) -> None:
            batch[:] = chosen
            longest = max(len(rows[i]) for i in chosen)
            ids, mask = torch.full((2, len(chosen), longest), self.model.pad_token)
            mask.zero_()
            for place, i in enumerate(chosen):
                ids[place, : len(rows[i])] = torch.tensor(rows[i])
                mask[place, : len(rows[i])] = 1
            device = self.model.device
            start = states.of(chosen) if states else nullcontext()
            with suppress(_FarEnoughError), start:
                self.model.module(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)

        if states and first:
            handles.append(self.blocks[first - 1].register_forward_hook(lambda _, __, out: states.see(batch, out)))
        handles += [self.projections[layer].module.register_forward_hook(hook_for(layer)) for layer in layers]
        handles.append(self.blocks[last].register_forward_hook(stop))
        try:
            with torch.inference_mode():
                for chosen in token_budget_batches([len(row) for row in rows], self.model.max_batch_tokens):
                    run(chosen)
        finally:
            for handle in handles:
                handle.remove()
        if states and first:
            states.block = first - 1

    def _read_chunk(
        self, chunk: Sequence[Tokens], distinct: Sequence[Tokens], order: list[int], caught: Mapping[Any, list[Tensor]]
    ) -> None:
        number = {row: i for i, row in enumerate(distinct)}
        with self._paused():
            behind = self.model.shared_prefixes(chunk)

        def run(batch: list[int]) -> None:
            rows: list[Prefix | None] = [behind[b] for b in batch]
            cache, mask = past(rows, self.model.device)
            tails = [chunk[b][length_of(p) :] for b, p in zip(batch, rows, strict=True)]
            held = {name: len(found) for name, found in caught.items()}
            try:
                self.model.forward(tails, cache if any(rows) else None, mask, 1)
            except _FarEnoughError:
                order.extend(number[chunk[b]] for b in batch)
            except (RuntimeError, MemoryError):  # its halves catch what it had caught already
                for name, found in caught.items():
                    del found[held[name] :]
                raise

        lengths = [len(row) - length_of(p) for row, p in zip(chunk, behind, strict=True)]
        with torch.inference_mode():
            run_batches(token_budget_batches(lengths, self.model.max_batch_tokens), run)

    @contextmanager
    def _catching(
        self,
        caught: dict[Any, list[Tensor]],
        keys: Sequence[int],
        residual: int | None,
        last: int,
        added: Mapping[int, Tensor],
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
                if layer in added:
                    states_of(output)[:, -1] += added[layer].to(states_of(output))
                if layer == residual:
                    caught["residual"].append(states_of(output)[:, -1].float().cpu())
                if layer == last:
                    raise _FarEnoughError

            return hook

        handles = [self.projections[layer].module.register_forward_pre_hook(key_hook(layer)) for layer in keys]
        handles += [
            self.blocks[layer].register_forward_hook(block_hook(layer))
            for layer in {last, *added, *([] if residual is None else [residual])}
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

    def goes_on(self) -> bool:
        """Whether blocks give the same when those before them do not run: not where they share keys with them."""
        if len(self.blocks) < 3:
            return False
        caught: list[Any] = []
        handles = [self.blocks[b].register_forward_hook(lambda _, __, out: caught.append(out)) for b in (0, -1)]
        ids = torch.arange(1, 5, device=self.model.device)[None] % self.vocab_size
        try:
            with torch.inference_mode():
                self.model.module(input_ids=ids, use_cache=False)
                with self.starting_behind(0, lambda: caught[0]):
                    self.model.module(input_ids=ids, use_cache=False)
        except (TypeError, RuntimeError, AttributeError, KeyError, IndexError):
            return False
        finally:
            for handle in handles:
                handle.remove()
        return torch.allclose(states_of(caught[1]), states_of(caught[3]), rtol=1e-3, atol=1e-3)

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


class States:
    """What rows are behind a block, batch by batch: a visit of the next block goes on from there.

    Args:
        decoder: whose blocks up to `block` stay as they are between visits.
        memory: bytes; batches beyond them begin at their tokens every time.

    Attributes:
        block: the states are those behind it.
    """

    def __init__(self, decoder: Decoder, *, memory: int = 2**30) -> None:
        self.decoder, self.memory, self.block = decoder, memory, -1
        self._outputs: dict[int, Any] = {}  # first row of a batch -> what the block returned
        self._sound = decoder.goes_on()

    def of(self, batch: Sequence[int]) -> AbstractContextManager[None]:
        """Inside, the model begins at the states of this batch, if they are here."""
        output = self._outputs.get(batch[0])
        return nullcontext() if output is None else self.decoder.starting_behind(self.block, lambda: output)

    def see(self, batch: Sequence[int], output: Any) -> None:
        """Take in the output of a block."""
        self._outputs.pop(batch[0], None)
        held = sum(states_of(o).nbytes for o in self._outputs.values())
        if self._sound and held + states_of(output).nbytes <= self.memory:
            self._outputs[batch[0]] = output


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
