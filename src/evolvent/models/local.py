"""Any transformers causal language model, batched: generate, loglikelihood, choose.

A prompt is computed once for all its options and all its samples; a prefix that prompts of a call share is computed
once for all of them; the vocabulary is projected only at the positions that are scored.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from transformers import DynamicCache, PreTrainedTokenizerBase

from evolvent.errors import EvolventError, ModelError, PromptErrors
from evolvent.models.batching import run_batches, token_budget_batches
from evolvent.models.decoding import Growing, pick_tokens, random_stream
from evolvent.models.prefixes import Prefix, Tokens, by_depth, in_chunks, keep, length_of, past, share_prefixes
from evolvent.models.protocol import Choice, Completion, Prompt, Sampling, Score

T = TypeVar("T")

Behind = dict[Tokens, Prefix | None]  # context -> what it has in common with others

HELD_BATCHES = 16  # shared prefixes are held for the prompts of so many batches
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
        by_context: dict[Tokens, list[_Continuation]] = {}
        for row in rows:
            by_context.setdefault(row.context, []).append(row)
        results: dict[tuple[int, int], Score] = {}
        for contexts in in_chunks(list(by_context), HELD_BATCHES * self.max_batch_tokens):
            behind = dict(zip(contexts, self.shared_prefixes(contexts), strict=True))
            # A context with a single long continuation is one plain sequence: there is nothing to come back to.
            alone = [c for c in contexts if len(by_context[c]) == 1 and len(by_context[c][0].tokens) > 1]
            several = [c for c in contexts if not (len(by_context[c]) == 1 and len(by_context[c][0].tokens) > 1)]

            def run_alone(batch: list[int], alone: list[Tokens] = alone, behind: Behind = behind) -> None:
                group = [by_context[alone[b]][0] for b in batch]
                self._score_whole(group, [behind[row.context] for row in group], results)

            def run_several(batch: list[int], several: list[Tokens] = several, behind: Behind = behind) -> None:
                chosen = [several[b] for b in batch]
                self._score_options([by_context[c] for c in chosen], [behind[c] for c in chosen], results)

            lengths = [_cost(c, behind[c]) + len(by_context[c][0].tokens) for c in alone]
            run_batches(token_budget_batches(lengths, self.max_batch_tokens), run_alone)
            lengths = [_cost(c, behind[c]) for c in several]
            run_batches(token_budget_batches(lengths, self.max_batch_tokens), run_several)
        return results

    def _score_whole(
        self,
        rows: Sequence[_Continuation],
        behind: Sequence[Prefix | None],
        results: dict[tuple[int, int], Score],
    ) -> None:
        sequences = [[*row.context, *row.tokens][length_of(p) : -1] for row, p in zip(rows, behind, strict=True)]
        kept = max(len(row.tokens) for row in rows)
        cache, mask = past(behind, self.device)
        logits_rows = self.forward(sequences, cache if any(behind) else None, mask, kept)
        for row, logits in zip(rows, logits_rows, strict=True):  # (kept, vocab)
            results[row.owner] = _score_tokens(logits[-len(row.tokens) :], row.tokens)

    def _score_options(
        self,
        groups: Sequence[Sequence[_Continuation]],
        behind: Sequence[Prefix | None],
        results: dict[tuple[int, int], Score],
    ) -> None:
        """Phase 1: each context once, giving every option's first token. Phase 2: the remaining tokens."""
        tails = [group[0].context[length_of(p) :] for group, p in zip(groups, behind, strict=True)]
        needs_rest = any(len(row.tokens) > 1 for group in groups for row in group)
        cache, mask = past(behind, self.device)
        reused = cache if needs_rest or any(behind) else None
        first = self.forward(tails, reused, mask, 1)[:, -1]  # (contexts, vocab)
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
        mask = torch.cat([mask, self._mask(tails)], dim=1)
        for chunk in token_budget_batches([len(row.tokens) for _, row, _ in rest], MAX_SCORED_POSITIONS):
            chosen = [rest[c] for c in chunk]
            source = torch.tensor([g for g, _, _ in chosen], device=self.device)
            logits_rows = self.forward(
                [row.tokens[:-1] for _, row, _ in chosen],
                _select_rows(cache, source),
                mask[source],
                0,
                pad_left=False,
            )
            for (g, row, log_prob), logits in zip(chosen, logits_rows, strict=True):
                tail = _score_tokens(logits[: len(row.tokens) - 1], row.tokens[1:])
                greedy = tail.greedy and best[g] == row.tokens[0]
                results[row.owner] = Score(log_prob + tail.log_prob, len(row.tokens), greedy)

    # ---------------------------------------------------------------------------------------- forward

    def shared_prefixes(self, contexts: Sequence[Tokens]) -> list[Prefix | None]:
        """Compute what contexts share, each run of tokens once; the deepest shared prefix of each context."""
        prefixes, deepest = share_prefixes(contexts)
        for level in by_depth(prefixes):

            def run(batch: list[int], level: list[Prefix] = level) -> None:
                chosen = [level[b] for b in batch]
                cache, mask = past([p.parent for p in chosen], self.device)
                self.forward([p.tokens for p in chosen], cache, mask, 1)
                keep(chosen, cache)

            run_batches(token_budget_batches([len(p.tokens) for p in level], self.max_batch_tokens), run)
        return deepest

    def _mask(self, sequences: Sequence[Sequence[int]], *, pad_left: bool = True) -> torch.Tensor:
        width = max(map(len, sequences))
        rows = [([1] * len(s), [0] * (width - len(s))) for s in sequences]
        return torch.tensor([[*zeros, *ones] if pad_left else [*ones, *zeros] for ones, zeros in rows]).to(self.device)

    def forward(
        self,
        sequences: Sequence[Sequence[int]],
        cache: DynamicCache | None,
        past_mask: torch.Tensor,
        logits_to_keep: int,
        *,
        pad_left: bool = True,
        own_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits (rows, kept positions, vocab) in fp32 of padded sequences behind a past, which they extend.

        Args:
            sequences: token ids.
            cache: keys and values of the past; None when nothing is to be kept.
            past_mask: (rows, past tokens), 1 where the past is not padding.
            logits_to_keep: last positions whose logits are wanted; 0 is all.
            pad_left: on which side short sequences are padded.
            own_mask: (rows, tokens), 1 where sequences that are padded already are not padding.
        """
        width = max(map(len, sequences))
        padding = [[self.pad_token] * (width - len(s)) for s in sequences]
        rows = [[*p, *s] if pad_left else [*s, *p] for s, p in zip(sequences, padding, strict=True)]
        mine = self._mask(sequences, pad_left=pad_left) if own_mask is None else own_mask
        mask = torch.cat([past_mask, mine], dim=1)
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -width:]
        arguments: dict[str, Any] = {} if cache is None else {self._cache_argument: cache}
        output = self.module(
            input_ids=torch.tensor(rows, device=self.device),
            attention_mask=mask,
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
        behind = self.shared_prefixes([tuple(p) for p in prompts])
        cache, mask = past(behind, self.device)
        tails = [p[length_of(b) :] for p, b in zip(prompts, behind, strict=True)]
        logits = self.forward(tails, cache, mask, 1)[:, -1].repeat_interleave(n, 0)
        if n > 1:
            cache.batch_repeat_interleave(n)
        mask = torch.cat([mask, self._mask(tails)], dim=1).repeat_interleave(n, 0)
        rows = [
            Growing(
                self.tokenizer,
                random_stream(sampling.seed, prompt, sample),
                min(sampling.max_tokens, self.context_length - len(prompt)),
                sampling.stop,
            )
            for prompt in prompts
            for sample in range(n)
        ]
        active = rows
        while active:
            log_probs = logits.log_softmax(-1)  # (active, vocab)
            tokens = pick_tokens(log_probs, [row.generator for row in active], sampling)
            chosen = log_probs.gather(1, tokens[:, None])[:, 0].tolist()
            going_on = [
                position
                for position, (row, token, log_prob) in enumerate(zip(active, tokens.tolist(), chosen, strict=True))
                if row.grow(token, log_prob, stops)
            ]
            if not going_on:
                break
            if len(going_on) < len(active):
                index = torch.tensor(going_on, device=self.device)
                cache.batch_select_indices(index)
                mask, tokens = mask[index], tokens[index]
                active = [active[p] for p in going_on]
            step = [[t] for t in tokens.tolist()]
            logits = self.forward(step, cache, mask, 1)[:, -1]
            mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)
        completions = [row.completion() for row in rows]
        return [completions[i : i + n] for i in range(0, len(completions), n)]


def _cost(context: Tokens, prefix: Prefix | None) -> int:
    """Tokens to compute, and an eighth of those that are only attended to."""
    return len(context) - length_of(prefix) + length_of(prefix) // 8


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
