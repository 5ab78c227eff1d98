"""Any transformers causal language model, batched: generate, loglikelihood, choose.

A prompt is computed once for all its options and all its samples; a prefix that all prompts of a call share is
computed once for the call; the vocabulary is projected only at the positions that are scored.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from transformers import DynamicCache, PreTrainedTokenizerBase

from evolvent.errors import EvolventError, ModelError, PromptErrors
from evolvent.models.batching import common_prefix_length, run_batches, token_budget_batches
from evolvent.models.protocol import Choice, Completion, Prompt, Sampling, Score

T = TypeVar("T")

MIN_SHARED_PREFIX = 16  # tokens; below this a second forward pass costs more than it saves
MAX_SCORED_POSITIONS = 1024  # positions x vocabulary is the largest tensor of a batch


@dataclass(frozen=True, slots=True)
class _Continuation:
    """One continuation to score: its token ids after `context`, and where its result goes."""

    context: tuple[int, ...]
    tokens: tuple[int, ...]
    owner: tuple[int, int]  # (prompt index, option index)


class LocalModel:
    """A causal language model in this process.

    Args:
        module: a transformers causal LM, or a PEFT model around one.
        tokenizer: its tokenizer.
        name: what reports and lineage call it.
        max_batch_tokens: rows x longest row of one forward pass; None: 1024 on a CPU, whose caches it fits, else 16384.
            Results do not depend on it beyond rounding.

    Example:
        >>> from evolvent import load
        >>> model = load("embedded")
        >>> model.choose(["The capital of France is"], [[" Paris", " Rome"]])[0].best
        0
    """

    def __init__(
        self,
        module: torch.nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        max_batch_tokens: int | None = None,
    ) -> None:
        self.module: Any = module
        self.tokenizer: Any = tokenizer
        self.name = name
        self.max_batch_tokens = max_batch_tokens or (1024 if self.device.type == "cpu" else 16384)
        parameters = inspect.signature(self.causal_lm.forward).parameters
        self._cache_argument = "cache" if "cache" in parameters else "past_key_values"
        # A slice of the hidden states is not contiguous, for which torch copies the whole vocabulary matrix once a row.
        head = self.causal_lm.get_output_embeddings()
        if head is not None:
            head.register_forward_pre_hook(lambda _, inputs: tuple(x.contiguous() for x in inputs))
        module.eval()

    def __repr__(self) -> str:
        return f"LocalModel({self.name!r}, {self.parameter_count / 1e6:.0f}M, {self.dtype}, {self.device})"

    @property
    def causal_lm(self) -> Any:
        """The transformers model, without the PEFT wrapper if there is one."""
        return self.module.get_base_model() if hasattr(self.module, "get_base_model") else self.module

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device(next(self.module.parameters()).device)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the embedding weights."""
        return self.causal_lm.get_input_embeddings().weight.dtype  # type: ignore[no-any-return]

    @property
    def parameter_count(self) -> int:
        """Number of weights."""
        return sum(p.numel() for p in self.module.parameters())

    @property
    def context_length(self) -> int:
        """Most tokens of a prompt and its continuation together."""
        return int(getattr(self.causal_lm.config, "max_position_embeddings", None) or 1 << 30)

    # ---------------------------------------------------------------------------------------- tokens

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt: a string as it stands, messages through the chat template.

        An empty prompt is the tokenizer's beginning-of-sequence (or end-of-text) token.

        Raises:
            ModelError: messages for a model that has no chat template.
        """
        if isinstance(prompt, str):
            ids = list(self.tokenizer(prompt)["input_ids"])
            return ids or [self._start_token]
        return list(self.tokenizer(self.render(prompt), add_special_tokens=False)["input_ids"])

    def render(self, prompt: Prompt) -> str:
        """The text that the model reads."""
        if isinstance(prompt, str):
            return prompt
        if not getattr(self.tokenizer, "chat_template", None):
            raise ModelError(
                f"{self.name} has no chat template: pass the prompt as one string, "
                "or set `model.tokenizer.chat_template`"
            )
        unfinished = prompt[-1]["role"] == "assistant"
        rendered = self.tokenizer.apply_chat_template(
            list(prompt),
            tokenize=False,
            add_generation_prompt=not unfinished,
            continue_final_message=unfinished,
        )
        return str(rendered)

    def encode_pair(self, prompt: Prompt, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of a prompt and of a text that follows it.

        Both are tokenised together and cut at the prompt's length, so that a word is split as the model
        would have seen it; this is also what lm-evaluation-harness does.
        """
        special = isinstance(prompt, str)
        text = self.render(prompt)
        kept = text.rstrip() if special else text
        continuation = text[len(kept) :] + continuation
        context = list(self.tokenizer(kept, add_special_tokens=special)["input_ids"])
        whole = list(self.tokenizer(kept + continuation, add_special_tokens=special)["input_ids"])
        if not context:
            context = [self._start_token]
            return context, whole
        return whole[: len(context)], whole[len(context) :]

    @property
    def _start_token(self) -> int:
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        raise ModelError(f"the tokenizer of {self.name} has neither a bos nor an eos token: no empty prompts")

    @property
    def pad_token(self) -> int:
        """Any token id: padding is masked."""
        return int(self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self._start_token)

    @property
    def stop_tokens(self) -> set[int]:
        """Token ids that end a continuation."""
        declared = getattr(self.causal_lm.generation_config, "eos_token_id", None)
        tokens = set(declared if isinstance(declared, list) else [declared]) | {self.tokenizer.eos_token_id}
        return {int(t) for t in tokens if t is not None}

    def _check_length(self, tokens: int, extra: int) -> None:
        if tokens + extra > self.context_length:
            raise ModelError(
                f"{tokens} prompt tokens + {extra} to come exceed the context of {self.context_length} tokens "
                f"of {self.name}: shorten the prompt"
            )

    # --------------------------------------------------------------------------------------- protocol

    def choose(self, prompts: Sequence[Prompt], options: Sequence[Sequence[str]]) -> list[Choice]:
        """Log-probability of every option of every prompt; see :class:`LanguageModel`."""
        if len(prompts) != len(options):
            raise ModelError(f"{len(prompts)} prompts but {len(options)} lists of options: give one list a prompt")

        def prepare(i: int) -> list[_Continuation]:
            if not options[i]:
                raise ModelError("no options to choose from")
            return [self._continuation(prompts[i], option, (i, j)) for j, option in enumerate(options[i])]

        rows, failures = _prepare_each(len(prompts), prepare)
        scores = self._score([c for row in rows if row for c in row])
        results = [
            Choice(
                log_probs=tuple(scores[c.owner].log_prob for c in row),
                token_counts=tuple(len(c.tokens) for c in row),
                character_counts=tuple(len(text.strip()) for text in texts),
                greedy=tuple(scores[c.owner].greedy for c in row),
            )
            if row
            else None
            for row, texts in zip(rows, options, strict=True)
        ]
        return _complete(results, failures)

    def loglikelihood(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """Log-probability of each continuation of its prompt; see :class:`LanguageModel`."""
        rows, failures = _prepare_each(len(pairs), lambda i: self._continuation(*pairs[i], (i, 0)))
        scores = self._score([row for row in rows if row])
        return _complete([scores[row.owner] if row else None for row in rows], failures)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` continuations of each prompt from one prefill; see :class:`LanguageModel`."""

        def prepare(i: int) -> list[int]:
            ids = self.encode(prompts[i])
            self._check_length(len(ids), 1)
            return ids

        rows, failures = _prepare_each(len(prompts), prepare)
        results: list[list[Completion] | None] = [None] * len(prompts)
        valid = [i for i, row in enumerate(rows) if row]
        lengths = [(len(rows[i] or ()) + sampling.max_tokens) * sampling.n for i in valid]

        def run(batch: list[int]) -> None:
            indices = [valid[b] for b in batch]
            outputs = self._generate_batch([rows[i] or [] for i in indices], sampling)
            for i, output in zip(indices, outputs, strict=True):
                results[i] = output

        run_batches(token_budget_batches(lengths, 4 * self.max_batch_tokens), run)
        return _complete(results, failures)

    # ---------------------------------------------------------------------------------------- scoring

    def _continuation(self, prompt: Prompt, text: str, owner: tuple[int, int]) -> _Continuation:
        context, tokens = self.encode_pair(prompt, text)
        if not tokens:
            raise ModelError(f"the continuation {text!r} has no tokens of its own after this prompt")
        self._check_length(len(context), len(tokens))
        return _Continuation(tuple(context), tuple(tokens), owner)

    @torch.inference_mode()
    def _score(self, rows: Sequence[_Continuation]) -> dict[tuple[int, int], Score]:
        """Score continuations; those of one context share its forward pass."""
        by_context: dict[tuple[int, ...], list[_Continuation]] = {}
        for row in rows:
            by_context.setdefault(row.context, []).append(row)
        contexts = list(by_context)
        results: dict[tuple[int, int], Score] = {}
        shared = self._shared_prefix(contexts)
        skip = shared.length
        # A context with a single long continuation is one plain sequence: nothing to share.
        alone = [c for c in contexts if len(by_context[c]) == 1 and len(by_context[c][0].tokens) > 1]
        shared_contexts = [c for c in contexts if not (len(by_context[c]) == 1 and len(by_context[c][0].tokens) > 1)]

        def run_alone(batch: list[int]) -> None:
            group = [by_context[alone[b]][0] for b in batch]
            self._score_whole(group, shared, results)

        def run_shared(batch: list[int]) -> None:
            self._score_options([by_context[shared_contexts[b]] for b in batch], shared, results)

        lengths = [len(c) + len(by_context[c][0].tokens) - skip for c in alone]
        run_batches(token_budget_batches(lengths, self.max_batch_tokens), run_alone)
        lengths = [len(c) - skip for c in shared_contexts]
        run_batches(token_budget_batches(lengths, self.max_batch_tokens), run_shared)
        return results

    def _score_whole(
        self,
        rows: Sequence[_Continuation],
        shared: _SharedPrefix,
        results: dict[tuple[int, int], Score],
    ) -> None:
        sequences = [[*row.context, *row.tokens][shared.length : -1] for row in rows]
        keep = max(len(row.tokens) for row in rows)
        hidden_rows = self._forward(sequences, shared.expand(len(rows)), shared.length, keep)
        for row, logits in zip(rows, hidden_rows, strict=True):  # (keep, vocab)
            results[row.owner] = _score_tokens(logits[-len(row.tokens) :], row.tokens)

    def _score_options(
        self,
        groups: Sequence[Sequence[_Continuation]],
        shared: _SharedPrefix,
        results: dict[tuple[int, int], Score],
    ) -> None:
        """Phase 1: each context once, giving every option's first token. Phase 2: the remaining tokens."""
        contexts = [list(group[0].context[shared.length :]) for group in groups]
        needs_rest = any(len(row.tokens) > 1 for group in groups for row in group)
        cache = shared.expand(len(groups)) or (DynamicCache() if needs_rest else None)
        first = self._forward(contexts, cache, shared.length, 1)[:, -1]  # (contexts, vocab)
        normalizer = first.logsumexp(-1)
        best = first.argmax(-1).tolist()
        rest: list[tuple[int, _Continuation, float]] = []
        for g, group in enumerate(groups):
            ids = torch.tensor([row.tokens[0] for row in group], device=first.device)
            log_probs = (first[g, ids] - normalizer[g]).tolist()
            for row, log_prob in zip(group, log_probs, strict=True):
                if len(row.tokens) == 1:
                    results[row.owner] = Score(log_prob, 1, best[g] == row.tokens[0])
                else:
                    rest.append((g, row, log_prob))
        if not rest:
            return
        assert cache is not None
        width = max(map(len, contexts))
        mask = torch.tensor([[0] * (width - len(c)) + [1] * len(c) for c in contexts], device=self.device)
        for chunk in token_budget_batches([len(row.tokens) for _, row, _ in rest], MAX_SCORED_POSITIONS):
            chosen = [rest[c] for c in chunk]
            source = torch.tensor([g for g, _, _ in chosen], device=self.device)
            logits_rows = self._forward(
                [list(row.tokens[:-1]) for _, row, _ in chosen],
                _select_rows(cache, source),
                shared.length,
                0,
                past_mask=mask[source],
                pad_left=False,
            )
            for (g, row, log_prob), logits in zip(chosen, logits_rows, strict=True):
                tail = _score_tokens(logits[: len(row.tokens) - 1], row.tokens[1:])
                greedy = tail.greedy and best[g] == row.tokens[0]
                results[row.owner] = Score(log_prob + tail.log_prob, len(row.tokens), greedy)

    # ---------------------------------------------------------------------------------------- forward

    def _shared_prefix(self, contexts: Sequence[tuple[int, ...]]) -> _SharedPrefix:
        """Run the tokens that all contexts begin with once; at least one token is left to each context."""
        length = 0
        if len(contexts) > 1:
            length = min(common_prefix_length(contexts), min(map(len, contexts)) - 1)
        if length < MIN_SHARED_PREFIX:
            return _SharedPrefix(0, None)
        cache = DynamicCache()
        self._forward([list(contexts[0][:length])], cache, 0, 1)
        return _SharedPrefix(length, cache)

    def _forward(
        self,
        sequences: Sequence[Sequence[int]],
        cache: DynamicCache | None,
        prefix_length: int,
        logits_to_keep: int,
        *,
        past_mask: torch.Tensor | None = None,
        pad_left: bool = True,
    ) -> torch.Tensor:
        """Logits (rows, kept positions, vocab) in fp32 of padded sequences behind a cached past.

        The past is a prefix of `prefix_length` unpadded tokens, then whatever `past_mask` (rows, tokens) marks.
        """
        width = max(map(len, sequences))
        padding = [[self.pad_token] * (width - len(s)) for s in sequences]
        rows = [[*p, *s] if pad_left else [*s, *p] for s, p in zip(sequences, padding, strict=True)]
        ids = torch.tensor(rows, device=self.device)  # (rows, width)
        ones = [[1] * len(s) for s in sequences]
        zeros = [[0] * len(p) for p in padding]
        mask = torch.tensor(
            [[*z, *o] if pad_left else [*o, *z] for o, z in zip(ones, zeros, strict=True)], device=self.device
        )
        past = torch.ones((len(rows), prefix_length), dtype=mask.dtype, device=self.device)
        whole = torch.cat([past, *([] if past_mask is None else [past_mask]), mask], dim=1)
        positions = (whole.cumsum(1) - 1).clamp(min=0)[:, -width:]
        arguments: dict[str, Any] = {} if cache is None else {self._cache_argument: cache}
        output = self.module(
            input_ids=ids,
            attention_mask=whole,
            position_ids=positions,
            logits_to_keep=logits_to_keep,
            use_cache=cache is not None,
            **arguments,
        )
        return output.logits.float()  # type: ignore[no-any-return]

    # ------------------------------------------------------------------------------------- generation

    @torch.inference_mode()
    def _generate_batch(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[list[Completion]]:
        n, stops = sampling.n, self.stop_tokens
        shared = self._shared_prefix([tuple(p) for p in prompts])
        cache = shared.expand(len(prompts)) or DynamicCache()
        tails = [p[shared.length :] for p in prompts]
        logits = self._forward(tails, cache, shared.length, 1)[:, -1].repeat_interleave(n, 0)
        if n > 1:
            cache.batch_repeat_interleave(n)
        width = max(map(len, tails))
        mask = torch.tensor([[0] * (width - len(t)) + [1] * len(t) for t in tails], device=self.device)
        mask = mask.repeat_interleave(n, 0)
        limits = [min(sampling.max_tokens, self.context_length - len(p)) for p in prompts for _ in range(n)]
        rows = [_Row(_generator(sampling.seed, p, k)) for p in prompts for k in range(n)]
        active = list(range(len(rows)))
        while active:
            log_probs = logits.log_softmax(-1)  # (active, vocab)
            tokens = _pick(log_probs, [rows[r].generator for r in active], sampling)
            chosen = log_probs.gather(1, tokens[:, None])[:, 0].tolist()
            going_on: list[int] = []
            for position, (r, token, log_prob) in enumerate(zip(active, tokens.tolist(), chosen, strict=True)):
                row = rows[r]
                row.log_probs.append(log_prob)
                if token in stops:
                    row.finished = "stop"
                    continue
                row.tokens.append(token)
                row.text = None
                if sampling.stop and any(s in self._text(row) for s in sampling.stop):
                    row.finished = "stop"
                elif len(row.tokens) < limits[r]:
                    going_on.append(position)
            if not going_on:
                break
            if len(going_on) < len(active):
                index = torch.tensor(going_on, device=self.device)
                cache.batch_select_indices(index)
                mask, tokens = mask[index], tokens[index]
                active = [active[p] for p in going_on]
            step = [[t] for t in tokens.tolist()]
            logits = self._forward(step, cache, shared.length, 1, past_mask=mask)[:, -1]
            mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)
        completions = [self._completion(row, sampling.stop) for row in rows]
        return [completions[i : i + n] for i in range(0, len(completions), n)]

    def _text(self, row: _Row) -> str:
        if row.text is None:
            row.text = str(self.tokenizer.decode(row.tokens, skip_special_tokens=True))
        return row.text

    def _completion(self, row: _Row, stop: Sequence[str]) -> Completion:
        text = self._text(row)
        cuts = [text.index(s) for s in stop if s in text]
        return Completion(
            text=text[: min(cuts)] if cuts else text,
            token_log_probs=tuple(row.log_probs),
            finish_reason="stop" if row.finished else "length",
        )


class _Row:
    """One continuation in the making."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.tokens: list[int] = []
        self.log_probs: list[float] = []
        self.finished: str | None = None
        self.text: str | None = None


@dataclass(frozen=True, slots=True)
class _SharedPrefix:
    """The key/value cache of the tokens with which every prompt of a call begins."""

    length: int
    cache: DynamicCache | None

    def expand(self, rows: int) -> DynamicCache | None:
        if self.cache is None:
            return None
        return _select_rows(self.cache, torch.zeros(rows, dtype=torch.long))


def _select_rows(cache: DynamicCache, rows: torch.Tensor) -> DynamicCache:
    """A new cache that holds the given rows of another one, which stays as it is."""
    selected = DynamicCache()
    for index, layer in enumerate(cache.layers):
        keys, values = layer.keys, layer.values  # (rows, heads, tokens, head_dim)
        where = rows.to(keys.device)
        selected.update(keys.index_select(0, where), values.index_select(0, where), index)
    return selected


def _score_tokens(logits: torch.Tensor, tokens: Sequence[int]) -> Score:
    """Score of `tokens` under logits (tokens, vocab)."""
    ids = torch.tensor(tokens, device=logits.device)
    log_probs = logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(-1)
    return Score(float(log_probs.sum()), len(tokens), bool((logits.argmax(-1) == ids).all()))


def _generator(seed: int, prompt: Sequence[int], sample: int) -> torch.Generator:
    """A random stream that depends on the seed, the prompt and the sample's number, not on the batch."""
    digest = hashlib.sha256(repr((seed, list(prompt), sample)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _pick(log_probs: torch.Tensor, generators: Sequence[torch.Generator], sampling: Sampling) -> torch.Tensor:
    """Next token of each row: greedy, or a sample by the Gumbel trick within the nucleus. (rows,)"""
    if sampling.temperature == 0:
        return log_probs.argmax(-1)
    scaled = log_probs / sampling.temperature
    if sampling.top_p < 1:
        ordered, order = scaled.log_softmax(-1).sort(-1, descending=True)
        outside = ordered.exp().cumsum(-1) - ordered.exp() >= sampling.top_p
        scaled = scaled.masked_fill(outside.scatter(1, order, outside), -torch.inf)
    uniform = torch.stack([torch.rand(scaled.shape[1], generator=g) for g in generators]).to(scaled.device)
    return (scaled - (-uniform.clamp_min(1e-20).log()).log()).argmax(-1)


def _prepare_each(count: int, prepare: Callable[[int], T]) -> tuple[list[T | None], dict[int, EvolventError]]:
    rows: list[T | None] = []
    failures: dict[int, EvolventError] = {}
    for i in range(count):
        try:
            rows.append(prepare(i))
        except EvolventError as error:
            rows.append(None)
            failures[i] = error
    return rows, failures


def _complete(results: Sequence[T | None], failures: dict[int, EvolventError]) -> list[T]:
    if failures:
        raise PromptErrors(failures, results)
    return [result for result in results if result is not None]
