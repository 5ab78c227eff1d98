"""A model behind any OpenAI-compatible server: vLLM, llama.cpp, Ollama, OpenAI.

Strings go to `/completions` as they stand, messages to `/chat/completions` through the server's own template. Calls run
concurrently within a bound, are retried by the `openai` client (429, 5xx, time-outs, cut connections; Retry-After is
honoured), and are answered from an on-disk cache when they were made before.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from evolvent.errors import ConfigError, EndpointError, EvolventError, ModelError, NoLogProbsError, PromptErrors
from evolvent.models.protocol import Choice, Completion, Prompt, Sampling, Score

logger = logging.getLogger(__name__)
T = TypeVar("T")

CHARACTERS_PER_TOKEN = 3  # for the estimate before the first call; on the safe side for most languages
MALFORMED_RETRIES = 3


@dataclass(frozen=True, slots=True)
class Prices:
    """Price of a million tokens, in any one currency."""

    prompt: float
    completion: float
    training: float = 0.0


@dataclass
class Usage:
    """What a model was asked for since it was made; answers out of the cache cost nothing."""

    requests: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def cost(self, prices: Prices) -> float:
        """In the currency of the prices."""
        return (self.prompt_tokens * prices.prompt + self.completion_tokens * prices.completion) / 1e6


class EndpointModel:
    """A language model that an OpenAI-compatible server runs.

    Args:
        name: the model's name at the server.
        base_url: for example `http://localhost:8000/v1`.
        api_key: default the environment variable OPENAI_API_KEY.
        concurrency: requests in flight at most.
        timeout_seconds: of one attempt.
        max_retries: attempts after the first one.
        cache_dir: folder of answers that were given before; None for no cache.
        prices: for the accounting of costs.
        max_cost: calls that would exceed this are refused before they are made; needs `prices`.
        top_log_probs: how many next tokens the server is asked for when options are scored. OpenAI and vLLM tell 20,
            llama.cpp as many as one likes: there, 1000 is better.
        extra_body: further fields of every request. For llama.cpp, `{"top_k": 0, "min_p": 0.0}` samples from the whole
            distribution, and `{"cache_prompt": False}` makes a seed repeatable: otherwise a quantised model's answer
            depends on what was asked before, because a reused prefix was rounded in another batch.

    Example:
        >>> from evolvent import load
        >>> model = load("endpoint:qwen3@http://localhost:8000/v1", concurrency=64)
        >>> model.name
        'qwen3'
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        api_key: str | None = None,
        concurrency: int = 32,
        timeout_seconds: float = 60.0,
        max_retries: int = 6,
        cache_dir: str | Path | None = None,
        prices: Prices | None = None,
        max_cost: float | None = None,
        top_log_probs: int = 20,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        if max_cost is not None and prices is None:
            raise ConfigError("max_cost needs the endpoint's prices: EndpointModel(..., prices=Prices(...))")
        self.name = name
        self.base_url = base_url.rstrip("/")
        self.api_key = api_key or os.environ.get("OPENAI_API_KEY") or "none"
        self.concurrency = concurrency
        self.timeout_seconds = timeout_seconds
        self.max_retries = max_retries
        self.prices, self.max_cost = prices, max_cost
        self.top_log_probs = top_log_probs
        self.extra_body = dict(extra_body or {})
        self.usage = Usage()
        self.served_model: str | None = None
        self._cache = _open_cache(cache_dir)

    def __repr__(self) -> str:
        return f"EndpointModel({self.name!r}, {self.base_url!r})"

    def sibling(self, name: str) -> EndpointModel:
        """Another model of the same server, asked and accounted for together with this one."""
        other = copy.copy(self)
        other.name, other.served_model = name, None
        return other

    # --------------------------------------------------------------------------------------- protocol

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` continuations of each prompt, one request each, so that every one has its own seed.

        Raises:
            EndpointError: the server failed for good; what it answered before is in the cache.
            PromptErrors: it refused single prompts.
        """
        requests = [
            _Request(prompt, sampling, number, log_probs=1) for prompt in prompts for number in range(sampling.n)
        ]
        answers = self._ask(requests)
        completions = [
            answer if isinstance(answer, EvolventError) else _completion(answer, sampling.stop) for answer in answers
        ]
        return _grouped(completions, sampling.n)

    def loglikelihood(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """Walk along each continuation by the server's most probable next tokens; see :meth:`choose`."""
        choices = self.choose([prompt for prompt, _ in pairs], [[text] for _, text in pairs])
        return [Score(c.log_probs[0], c.token_counts[0], c.greedy[0]) for c in choices]

    def choose(self, prompts: Sequence[Prompt], options: Sequence[Sequence[str]]) -> list[Choice]:
        """Log-probabilities of the options, read from the server's list of most probable next tokens.

        A string prompt is followed along each option, token after token. A chat cannot be continued in the middle of
        an answer, so there the first token of the reply decides, and options must differ in it. A token that is not in
        the list counts as the least probable one that is.

        Raises:
            NoLogProbsError: the server does not tell log-probabilities.
            ModelError: two options of a chat begin with the same token.
        """
        if len(prompts) != len(options):
            raise ModelError(f"{len(prompts)} prompts but {len(options)} lists of options: give one list a prompt")
        walks = [
            _Walk(prompt, text, index)
            for index, (prompt, texts) in enumerate(zip(prompts, options, strict=True))
            for text in texts
        ]
        failures: dict[int, EvolventError] = {}
        while pending := [w for w in walks if w.rest and w.owner not in failures]:
            keys = {w.key: w for w in pending}
            answers = self._ask(
                [_Request(w.reached, Sampling(max_tokens=1), 0, self.top_log_probs) for w in keys.values()]
            )
            steps = dict(zip(keys, answers, strict=True))
            for walk in pending:
                step = steps[walk.key]
                if isinstance(step, EvolventError):
                    failures[walk.owner] = step
                else:
                    walk.advance(self._top(step))
        of_prompt: list[list[_Walk]] = [[] for _ in prompts]
        for walk in walks:
            of_prompt[walk.owner].append(walk)
        for index, group in enumerate(of_prompt):
            if group and group[0].chat and index not in failures and (alike := _same_start(group)):
                failures[index] = alike
        results = [_choice(group) for group in of_prompt]
        if failures:
            raise PromptErrors(failures, [None if i in failures else r for i, r in enumerate(results)])
        return results

    # --------------------------------------------------------------------------------------- requests

    def _ask(self, requests: Sequence[_Request]) -> list[dict[str, Any] | EvolventError]:
        """The answers, in order; an error in the place of a prompt that was refused."""
        self._check_cost(requests)

        async def all_of_them() -> list[dict[str, Any] | EvolventError]:
            from openai import AsyncOpenAI

            gate = asyncio.Semaphore(self.concurrency)
            client = AsyncOpenAI(
                api_key=self.api_key, base_url=self.base_url, timeout=self.timeout_seconds, max_retries=self.max_retries
            )
            async with client:
                tasks = [asyncio.create_task(self._answer(client, gate, request)) for request in requests]
                try:
                    return list(await asyncio.gather(*tasks))
                except BaseException:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
                    raise

        return _run(all_of_them)

    async def _answer(self, client: Any, gate: asyncio.Semaphore, request: _Request) -> dict[str, Any] | EvolventError:
        body = request.body(self.name) | self.extra_body
        key = hashlib.sha256(json.dumps([self.base_url, body], sort_keys=True).encode()).hexdigest()
        if self._cache is not None and (stored := self._cache.get(key)) is not None:
            self.usage.cached += 1
            return dict(stored)
        async with gate:
            answer = await self._post(client, request.path, body)
        if isinstance(answer, EvolventError):
            return answer
        if self._cache is not None:
            self._cache.set(key, answer)
        return answer

    async def _post(self, client: Any, path: str, body: dict[str, Any]) -> dict[str, Any] | EvolventError:
        import openai

        for attempt in range(MALFORMED_RETRIES):
            try:
                raw = await client.post(path, cast_to=object, body=body)
                return self._checked(raw)
            except (json.JSONDecodeError, openai.APIResponseValidationError, _MalformedError) as error:
                logger.warning("%s: malformed answer (%s), attempt %d", self.base_url, error, attempt + 1)
                await asyncio.sleep(0.1 * 2**attempt)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                if "logprobs" in body and "logprob" in str(error).lower():
                    body = {k: v for k, v in body.items() if k not in ("logprobs", "top_logprobs")}
                    continue
                return ModelError(f"{self.name} refused the prompt: {_said(error)}")
            except openai.NotFoundError as error:
                hint = "; for a server without /completions use chat=True tasks" if path == "/completions" else ""
                raise EndpointError(f"{self.base_url}{path} with model {self.name!r}: {_said(error)}{hint}") from error
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise EndpointError(f"{self.base_url}: {_said(error)}; set OPENAI_API_KEY or api_key") from error
            except openai.APITimeoutError as error:
                raise EndpointError(
                    f"{self.base_url} did not answer within {self.timeout_seconds:g} s, {self.max_retries + 1} times; "
                    "raise timeout_seconds, lower concurrency, or look at the server"
                ) from error
            except openai.APIError as error:
                raise EndpointError(
                    f"{self.base_url} failed {self.max_retries + 1} times: {_said(error)}; answers so far are kept"
                ) from error
        raise EndpointError(f"{self.base_url}: {MALFORMED_RETRIES} malformed answers in a row; is this an OpenAI API?")

    def _checked(self, raw: Any) -> dict[str, Any]:
        """The parts of an answer that are kept, after accounting for it."""
        if not isinstance(raw, dict) or not raw.get("choices"):
            raise _MalformedError(f"no choices in {str(raw)[:80]!r}")
        served = raw.get("model")
        if self.served_model is None:
            self.served_model = served
        elif served != self.served_model:
            raise EndpointError(
                f"{self.base_url} answered as {self.served_model!r} before and as {served!r} now: "
                "results of two models would be mixed; start again in another folder"
            )
        used = raw.get("usage") or {}
        self.usage.requests += 1
        self.usage.prompt_tokens += int(used.get("prompt_tokens") or 0)
        self.usage.completion_tokens += int(used.get("completion_tokens") or 0)
        return {"choice": raw["choices"][0]}

    def _top(self, answer: Mapping[str, Any]) -> list[tuple[str, float]]:
        """The most probable next tokens as (text, log-probability), best first."""
        top = _tokens(answer["choice"])
        if not top or not top[0].alternatives:
            raise NoLogProbsError(
                f"{self.name} at {self.base_url} gives no log-probabilities: "
                "answers can be generated there, but options cannot be scored"
            )
        return sorted(top[0].alternatives.items(), key=lambda item: -item[1])

    def _check_cost(self, requests: Sequence[_Request]) -> None:
        if self.max_cost is None or self.prices is None:
            return
        prompt = sum(request.characters for request in requests) / CHARACTERS_PER_TOKEN
        completion = sum(request.sampling.max_tokens for request in requests)
        estimate = Usage(prompt_tokens=math.ceil(prompt), completion_tokens=completion).cost(self.prices)
        spent = self.usage.cost(self.prices)
        if spent + estimate > self.max_cost:
            raise EndpointError(
                f"these {len(requests)} requests may cost {estimate:.4g}, after {spent:.4g} spent so far: more than "
                f"max_cost={self.max_cost:g}; nothing was sent. Raise max_cost or use fewer rows"
            )


class _MalformedError(Exception):
    """An answer that is JSON, but not of the API."""


@dataclass(frozen=True)
class _Request:
    prompt: Prompt
    sampling: Sampling
    number: int
    log_probs: int

    @property
    def path(self) -> str:
        return "/completions" if isinstance(self.prompt, str) else "/chat/completions"

    @property
    def characters(self) -> int:
        return len(self.prompt) if isinstance(self.prompt, str) else sum(len(m["content"]) for m in self.prompt)

    def body(self, model: str) -> dict[str, Any]:
        """The JSON of the request."""
        sampling = self.sampling
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        if sampling.temperature > 0:
            digest = hashlib.sha256(repr((sampling.seed, self.prompt, self.number)).encode()).digest()
            body["seed"] = int.from_bytes(digest[:4], "little") >> 1
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if isinstance(self.prompt, str):
            return body | {"prompt": self.prompt, "logprobs": self.log_probs}
        return body | {"messages": list(self.prompt), "logprobs": True, "top_logprobs": self.log_probs}


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    log_prob: float
    alternatives: dict[str, float]


class _Walk:
    """One option on its way through the server's next-token lists."""

    def __init__(self, prompt: Prompt, text: str, owner: int) -> None:
        self.prompt, self.owner = prompt, owner
        self.chat = not isinstance(prompt, str)
        self.text = self.rest = text.lstrip() if self.chat else text
        self.log_prob, self.tokens, self.greedy = 0.0, 0, True
        self.first = ""

    @property
    def reached(self) -> Prompt:
        done = self.text[: len(self.text) - len(self.rest)]
        return self.prompt + done if isinstance(self.prompt, str) else self.prompt

    @property
    def key(self) -> str:
        return json.dumps(self.reached)

    def advance(self, top: Sequence[tuple[str, float]]) -> None:
        """Take the longest token of the list with which the rest begins."""
        fitting = [(t, p) for t, p in top if (t.strip() if self.chat else t) and self._fits(t)]
        self.tokens += 1
        if not fitting:
            self.log_prob += top[-1][1]
            self.greedy, self.rest = False, ""
            return
        token, log_prob = max(fitting, key=lambda item: len(item[0]))
        self.first = self.first or token.strip()
        self.greedy = self.greedy and token == top[0][0]
        self.log_prob += log_prob
        self.rest = "" if self.chat else self.rest[len(token) :]

    def _fits(self, token: str) -> bool:
        return self.rest.startswith(token.strip() if self.chat else token)


def _choice(walks: Sequence[_Walk]) -> Choice:
    return Choice(
        log_probs=tuple(w.log_prob for w in walks),
        token_counts=tuple(w.tokens for w in walks),
        character_counts=tuple(len(w.text.strip()) for w in walks),
        greedy=tuple(w.greedy for w in walks),
    )


def _same_start(walks: Sequence[_Walk]) -> ModelError | None:
    """Two options of a chat that no first token can tell apart."""
    seen: dict[str, str] = {}
    for walk in walks:
        if walk.first in seen:
            return ModelError(
                f"the options {seen[walk.first]!r} and {walk.text!r} begin with the same token, and a chat tells only "
                'the first one: use ChoiceTask(style="letters")'
            )
        if walk.first:
            seen[walk.first] = walk.text
    return None


def _tokens(choice: Mapping[str, Any]) -> list[_Token]:
    """Generated tokens with their alternatives, in the chat's form or in the older one of /completions."""
    given = choice.get("logprobs") or {}
    if given.get("content"):
        return [
            _Token(t["token"], float(t["logprob"]), {a["token"]: float(a["logprob"]) for a in t["top_logprobs"]})
            for t in given["content"]
        ]
    texts, values = given.get("tokens") or [], given.get("token_logprobs") or []
    tops = given.get("top_logprobs") or [{}] * len(texts)
    return [_Token(t, float(v), dict(a or {})) for t, v, a in zip(texts, values, tops, strict=False)]


def _completion(answer: Mapping[str, Any], stop: Sequence[str]) -> Completion:
    choice = answer["choice"]
    text = choice["text"] if "text" in choice else (choice.get("message") or {}).get("content") or ""
    cuts = [text.index(s) for s in stop if s in text]
    return Completion(
        text=text[: min(cuts)] if cuts else text,
        token_log_probs=tuple(t.log_prob for t in _tokens(choice)),
        finish_reason="length" if choice.get("finish_reason") == "length" else "stop",
    )


def _grouped(completions: Sequence[Completion | EvolventError], n: int) -> list[list[Completion]]:
    rows = [completions[i : i + n] for i in range(0, len(completions), n)]
    failures = {i: e for i, row in enumerate(rows) for e in row if isinstance(e, EvolventError)}
    results = [None if i in failures else list(row) for i, row in enumerate(rows)]
    if failures:
        raise PromptErrors(failures, results)
    return results  # type: ignore[return-value]  # without failures every item is a Completion


def _said(error: Exception) -> str:
    body = getattr(error, "body", None)
    message = body.get("message") if isinstance(body, dict) else None
    return str(message or error).splitlines()[0][:300]


def _open_cache(folder: str | Path | None) -> Any:
    if folder is None:
        return None
    import diskcache

    return diskcache.Cache(str(folder), eviction_policy="none", size_limit=1 << 40)


def _run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end, also when this thread has a running loop already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(work())).result()
