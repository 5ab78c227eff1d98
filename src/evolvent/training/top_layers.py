"""Train only the last blocks of a model, on activations of the frozen ones below that are computed once per row.

A frozen trunk gives the same hidden states in every epoch, so they are stored in bfloat16 (tokens x hidden x 2
bytes a row, memory-mapped) and the trunk drops out of the training step. That the model really equals trunk + top
is checked on the first batch, not assumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evolvent.errors import ConfigError
from evolvent.models.batching import token_budget_batches
from evolvent.training.examples import EncodedExample, LeftPadded


class _TrunkDoneError(Exception):
    """Raised by the hook behind the trunk: the blocks above need not run."""


class TopLayers:
    """The last `trainable` blocks of a causal LM.

    Args:
        causal_lm: a transformers causal LM whose blocks are one ModuleList (Llama, Qwen, Mistral, GPT-2, ... shapes).
        trainable: how many blocks, counted from the output.

    Raises:
        ConfigError: the blocks cannot be found, or there are fewer than `trainable` + 1.
    """

    def __init__(self, causal_lm: Any, trainable: int) -> None:
        self.causal_lm = causal_lm
        self.owner, self.attribute = _find_blocks(causal_lm)
        self.blocks: torch.nn.ModuleList = getattr(self.owner, self.attribute)
        if trainable >= len(self.blocks):
            raise ConfigError(
                f"trainable_layers={trainable}, but the model has {len(self.blocks)} blocks: "
                f'give at most {len(self.blocks) - 1}, or use peft="full"'
            )
        self.first = len(self.blocks) - trainable

    def freeze_trunk(self) -> None:
        """Let gradients reach the top blocks and the final norm only; give those fp32 weights."""
        self.causal_lm.requires_grad_(False)
        embeddings = {id(p) for p in self.causal_lm.get_input_embeddings().parameters()}
        for name, module in self.owner.named_children():
            if name == self.attribute or any(id(p) in embeddings for p in module.parameters()):
                continue
            module.float().requires_grad_(True)
        for block in self.blocks[self.first :]:
            block.float().requires_grad_(True)

    @torch.no_grad()
    def trunk_states(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Hidden states (rows, tokens, hidden) that enter the first trainable block."""
        caught: list[torch.Tensor] = []

        def catch(_: Any, args: Any, kwargs: Any) -> None:
            caught.append(args[0] if args else kwargs["hidden_states"])
            raise _TrunkDoneError

        handle = self.blocks[self.first].register_forward_pre_hook(catch, with_kwargs=True)
        try:
            self.causal_lm(**inputs, use_cache=False)
        except _TrunkDoneError:
            return caught[0]
        finally:
            handle.remove()
        raise ConfigError("the model's forward pass does not go through its blocks: use peft='lora'")

    @contextmanager
    def without_trunk(self) -> Iterator[None]:
        """Inside, the model consists of its top blocks and takes trunk states as `inputs_embeds`."""
        config = self.causal_lm.config
        kept = {key: getattr(config, key) for key in ("num_hidden_layers", "layer_types") if getattr(config, key, None)}
        setattr(self.owner, self.attribute, self.blocks[self.first :])
        config.num_hidden_layers = len(self.blocks) - self.first
        if "layer_types" in kept:
            config.layer_types = kept["layer_types"][self.first :]
        try:
            yield
        finally:
            setattr(self.owner, self.attribute, self.blocks)
            for key, value in kept.items():
                setattr(config, key, value)

    @torch.no_grad()
    def check(self, batch: dict[str, torch.Tensor]) -> None:
        """Compare the whole model with trunk + top on one batch.

        Raises:
            ConfigError: they differ, so this architecture does something between embedding and blocks.
        """
        whole = self.causal_lm(**batch, use_cache=False, logits_to_keep=1).logits.float()
        states = self.trunk_states(batch)
        rest = {k: v for k, v in batch.items() if k != "input_ids"}
        with self.without_trunk():
            split = self.causal_lm(inputs_embeds=states, **rest, use_cache=False, logits_to_keep=1).logits.float()
        gap = (whole - split).abs().max().item()
        if not gap <= 0.02 * whole.abs().max().item():
            raise ConfigError(
                f"{type(self.causal_lm).__name__} cannot be cut into trunk and top blocks "
                f"(logits differ by {gap:.3g}): use peft='lora'"
            )


class ActivationCache:
    """Trunk states of token sequences, each computed once; kept in memory-mapped bfloat16 files.

    Args:
        top: the split model.
        folder: where the files go; None keeps everything in memory.
        collate: pads rows of token ids.
        max_batch_tokens: size of a forward pass through the trunk.
    """

    def __init__(
        self, top: TopLayers, collate: LeftPadded, *, folder: Path | None = None, max_batch_tokens: int = 4096
    ) -> None:
        self.top, self.collate, self.folder = top, collate, folder
        self.max_batch_tokens = max_batch_tokens
        self._states: dict[tuple[int, ...], torch.Tensor] = {}

    def __getitem__(self, tokens: tuple[int, ...]) -> torch.Tensor:
        """States (tokens, hidden) of a sequence that was filled in before."""
        return self._states[tokens]

    def fill(self, rows: Sequence[EncodedExample]) -> None:
        """Compute the states of every row whose tokens are new."""
        new = list({row.tokens: row for row in rows if row.tokens not in self._states}.values())
        if not new:
            return
        total = sum(len(row.tokens) for row in new)
        hidden = int(self.top.causal_lm.config.hidden_size)
        store = self._allocate(total, hidden)
        offset = 0
        for batch in token_budget_batches([len(row.tokens) for row in new], self.max_batch_tokens):
            chosen = [new[b] for b in batch]
            inputs = self.collate(chosen)
            device = next(self.top.causal_lm.parameters()).device
            keys = ("input_ids", "attention_mask", "position_ids")
            states = self.top.trunk_states({k: inputs[k].to(device) for k in keys}).bfloat16().cpu()
            for row, state in zip(chosen, states, strict=True):
                count = len(row.tokens)
                store[offset : offset + count] = state[-count:]
                self._states[row.tokens] = store[offset : offset + count]
                offset += count

    def _allocate(self, tokens: int, hidden: int) -> torch.Tensor:
        if self.folder is None:
            return torch.empty(tokens, hidden, dtype=torch.bfloat16)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"activations-{len(list(self.folder.glob('*.bin')))}.bin"
        mapped = np.memmap(path, dtype=np.int16, mode="w+", shape=(tokens, hidden))
        return torch.from_numpy(mapped).view(torch.bfloat16)


class LeftPaddedStates:
    """Collator: as :class:`LeftPadded`, with the cached trunk states (rows, tokens, hidden) in place of token ids."""

    def __init__(self, cache: ActivationCache, collate: LeftPadded, dtype: torch.dtype) -> None:
        self.cache, self.collate, self.dtype = cache, collate, dtype

    def __call__(self, rows: Sequence[EncodedExample]) -> dict[str, Any]:
        """One batch."""
        batch = self.collate(rows)
        rows_count, width = batch.pop("input_ids").shape
        hidden = self.cache[rows[0].tokens].shape[-1]
        states = torch.zeros(rows_count, width, hidden, dtype=self.dtype)
        for r, row in enumerate(rows):
            states[r, width - len(row.tokens) :] = self.cache[row.tokens].to(self.dtype)
        return {"inputs_embeds": states, **batch}


def _find_blocks(causal_lm: Any) -> tuple[Any, str]:
    count = int(causal_lm.config.num_hidden_layers)
    for owner in causal_lm.modules():
        for name, child in owner.named_children():
            if isinstance(child, torch.nn.ModuleList) and len(child) == count:
                return owner, name
    raise ConfigError(f"{type(causal_lm).__name__}: no list of {count} blocks found: use peft='lora' or 'full'")
