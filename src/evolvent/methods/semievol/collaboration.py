"""Collaborative inference (S3): several configurations of one model vote on every row.

For a choice task the vote is exact: one forward pass per configuration gives the probability of every answer, of which
temperature-1 samples would be a Monte-Carlo estimate. Free-form answers are sampled, parsed and clustered.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evolvent.data.records import Question
from evolvent.data.tasks import Task
from evolvent.errors import ModelError, NoLogProbsError, PromptErrors
from evolvent.methods.semievol.config import InferenceConfiguration
from evolvent.methods.semievol.propagation import answer_room, fitting_prompt
from evolvent.models.protocol import Choice, Completion, LanguageModel, Prompt, Sampling

logger = logging.getLogger(__name__)

VOTES = 8  # sampled answers that stand for the probabilities which a server does not tell


@dataclass(frozen=True, slots=True)
class Response:
    """What one configuration said about one row.

    Attributes:
        id: the row.
        answers: its answer, or one per sample; None where nothing could be read from the text.
        nll: mean negative log-likelihood per token of each answer, in nats.
        probabilities: of the row's choices; empty for free-form tasks.
        cut: whether the prompt had to be shortened.
    """

    id: str
    answers: tuple[str | None, ...]
    nll: tuple[float, ...]
    probabilities: tuple[float, ...] = ()
    cut: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "id": self.id,
            "answers": list(self.answers),
            "nll": list(self.nll),
            "probabilities": list(self.probabilities),
            "cut": self.cut,
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Response:
        """From the JSON object of :meth:`to_dict`."""
        return cls(
            id=str(stored["id"]),
            answers=tuple(stored["answers"]),
            nll=tuple(stored["nll"]),
            probabilities=tuple(stored["probabilities"]),
            cut=bool(stored["cut"]),
        )


@dataclass(frozen=True, slots=True)
class Consensus:
    """What the voters together say about one row.

    Attributes:
        id: the row.
        candidates: the possible answers: the row's choices, or one for each cluster of free-form answers.
        distribution: weight of each candidate; sums to 1, or all 0 when no vote could be read.
        ballots: each voter's answer as an index into `candidates`; -1 for none.
        nll: mean token negative log-likelihood of the first voter's answer.
        judged: whether the distribution is the judge's.
    """

    id: str
    candidates: tuple[str, ...]
    distribution: tuple[float, ...]
    ballots: tuple[int, ...]
    nll: float
    judged: bool = False

    @property
    def answer(self) -> str | None:
        """The winning candidate; None when fewer than two votes could be read (or none of a single voter)."""
        votes = sum(b >= 0 for b in self.ballots)
        if votes < min(2, len(self.ballots)):
            return None
        return self.candidates[int(np.argmax(self.distribution))]

    @property
    def agreed(self) -> bool:
        """Whether all voters gave the same readable answer."""
        return len(set(self.ballots)) == 1 and self.ballots[0] >= 0


def ask(
    model: LanguageModel,
    task: Task,
    configuration: InferenceConfiguration,
    questions: Sequence[Question],
    demonstrations: Sequence[Sequence[Question]],
    *,
    seed: int,
    samples: int = 1,
    max_tokens: int = 256,
) -> list[Response]:
    """One configuration's answers to a list of questions, in order.

    Args:
        model: who is asked.
        task: how.
        configuration: with which wording, order of options and temperature.
        questions: the rows.
        demonstrations: for each row, the nearest labelled rows, most similar first.
        seed: fixes permutations and samples together with the row id, whatever the order of rows.
        samples: free-form answers per row.
        max_tokens: of a free-form answer.

    Raises:
        ModelError: probabilities are not numbers; names the rows.
    """
    first, count = configuration.demonstrations_from, configuration.demonstrations
    prompts: list[Prompt] = []
    cuts: list[bool] = []
    for question, near in zip(questions, demonstrations, strict=True):
        shown = list(near[first : first + count])[::-1]  # most similar last
        order = _permutation(question, configuration, seed) if configuration.permute_options else None
        prompt, cut = fitting_prompt(
            model,
            task,
            question,
            shown,
            room=answer_room(task, max_tokens),
            order=order,
            wording=configuration.wording,
        )
        prompts.append(prompt)
        cuts.append(cut)
    if task.kind == "choice":
        options = []
        for question in questions:
            order = _permutation(question, configuration, seed) if configuration.permute_options else None
            options.append(task.options(question, order=order, wording=configuration.wording))
        try:
            choices = _or_none(lambda: model.choose(prompts, options))
        except NoLogProbsError as error:
            logger.warning("%s: the share of %d sampled answers stands for probabilities", error, VOTES)
            return _vote_shares(model, task, configuration, questions, prompts, cuts, seed)
        _require_numbers(model, questions, choices)
        return [_from_choice(q, c, cut) for q, c, cut in zip(questions, choices, cuts, strict=True)]
    sampling = Sampling(
        max_tokens=max_tokens,
        temperature=configuration.temperature,
        n=samples,
        seed=_number(seed, configuration.name),
        stop=("\n\nQuestion:",),
    )
    completions = _or_none(lambda: model.generate(prompts, sampling))
    return [_from_texts(task, q, c, cut) for q, c, cut in zip(questions, completions, cuts, strict=True)]


def same_prompts(voters: Sequence[InferenceConfiguration]) -> dict[str, str]:
    """Voter -> the first voter that asks with the same prompts; where votes are exact, both say the same."""
    first: dict[InferenceConfiguration, str] = {}
    return {v.name: first.setdefault(v.model_copy(update={"name": "", "temperature": 1.0}), v.name) for v in voters}


def prefix_order(nearest: Sequence[Sequence[int]], configuration: InferenceConfiguration) -> list[int]:
    """Row numbers, ordered so that rows behind the same demonstrations go together and share their computation."""
    first, count = configuration.demonstrations_from, configuration.demonstrations
    return sorted(range(len(nearest)), key=lambda row: (*nearest[row][first : first + count][::-1], row))


def merge(
    task: Task,
    questions: Sequence[Question],
    responses: Sequence[Sequence[Response]],
    weights: Sequence[float],
    *,
    log_prior: Mapping[str, float] | None = None,
) -> list[Consensus]:
    """Combine the voters of each row: p(c) = sum over voters g of w_g p_g(c).

    Args:
        task: clusters free-form answers.
        questions: the rows.
        responses: for each voter, its response to each row.
        weights: of the voters; normalised here.
        log_prior: log-prior of each answer, divided out of every voter's distribution (choice tasks).
    """
    total = sum(weights)
    share = [w / total for w in weights]
    merged = []
    for row, question in enumerate(questions):
        ballots = [voter[row] for voter in responses]
        if task.kind == "choice":
            merged.append(_merge_choice(question, ballots, share, log_prior))
        else:
            merged.append(_merge_texts(task, question, ballots, share))
    return merged


def _merge_choice(
    question: Question,
    ballots: Sequence[Response],
    share: Sequence[float],
    log_prior: Mapping[str, float] | None,
) -> Consensus:
    candidates = tuple(question.choices or ())
    prior = np.array([math.exp((log_prior or {}).get(c, 0.0)) for c in candidates])
    mean = np.zeros(len(candidates))
    votes = []
    for ballot, weight in zip(ballots, share, strict=True):
        if not ballot.probabilities:
            votes.append(-1)
            continue
        p = np.asarray(ballot.probabilities) / prior
        p = p / p.sum()
        mean += weight * p
        votes.append(int(p.argmax()))
    distribution = mean / mean.sum() if mean.sum() > 0 else mean
    nll = ballots[0].nll[0] if ballots[0].nll else math.nan
    return Consensus(question.id, candidates, tuple(float(x) for x in distribution), tuple(votes), nll)


def _merge_texts(task: Task, question: Question, ballots: Sequence[Response], share: Sequence[float]) -> Consensus:
    answers = [(a, w / len(b.answers)) for b, w in zip(ballots, share, strict=True) for a in b.answers]
    clusters = task.cluster([a for a, _ in answers])
    count = max(clusters, default=-1) + 1
    mass = np.zeros(count)
    names = [""] * count
    for (answer, weight), cluster in zip(answers, clusters, strict=True):
        if cluster >= 0:
            mass[cluster] += weight
            names[cluster] = names[cluster] or str(answer)
    distribution = mass / mass.sum() if count else mass
    nll = next((n for b in ballots for n, a in zip(b.nll, b.answers, strict=True) if a is not None), math.nan)
    return Consensus(question.id, tuple(names), tuple(float(x) for x in distribution), tuple(clusters), nll)


def _from_choice(question: Question, choice: Choice | None, cut: bool) -> Response:
    if choice is None or not question.choices:
        return Response(question.id, (None,), (), (), cut)
    probabilities = choice.probabilities("token")
    best = int(np.argmax(probabilities))
    nll = -choice.log_probs[best] / max(1, choice.token_counts[best])
    return Response(question.id, (question.choices[best],), (nll,), probabilities, cut)


def _from_texts(task: Task, question: Question, completions: Sequence[Completion] | None, cut: bool) -> Response:
    if completions is None:
        return Response(question.id, (None,), (math.nan,), (), cut)
    answers = tuple(task.parse(c.text, question) for c in completions)
    return Response(question.id, answers, tuple(c.mean_nll for c in completions), (), cut)


def _require_numbers(model: LanguageModel, questions: Sequence[Question], choices: Sequence[Choice | None]) -> None:
    broken = [q.id for q, c in zip(questions, choices, strict=True) if c and any(map(math.isnan, c.probabilities()))]
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise ModelError(
            f"{model.name}: the probabilities of rows {', '.join(broken[:3])}{more} are not numbers: its weights are "
            'broken, or too large for this dtype; train with a lower warmup_lr, or give dtype="float32"'
        )


def _or_none(call: Any) -> list[Any]:
    """Results in order, None where a prompt failed: such a row has no vote and is dropped with a reason."""
    try:
        return list(call())
    except PromptErrors as errors:
        if len(errors.failures) == len(errors.results):
            raise
        return errors.results


def _vote_shares(
    model: LanguageModel,
    task: Task,
    configuration: InferenceConfiguration,
    questions: Sequence[Question],
    prompts: Sequence[Prompt],
    cuts: Sequence[bool],
    seed: int,
) -> list[Response]:
    """Choices by sampling, for a server that tells no log-probabilities."""
    sampling = Sampling(
        max_tokens=16, temperature=configuration.temperature, n=VOTES, seed=_number(seed, configuration.name)
    )
    responses = []
    for question, completions, cut in zip(
        questions, _or_none(lambda: model.generate(prompts, sampling)), cuts, strict=True
    ):
        said = [task.parse(c.text, question) for c in completions or ()]
        counts = np.array([said.count(choice) for choice in question.choices or ()], float)
        if counts.sum() == 0:
            responses.append(Response(question.id, (None,), (), (), cut))
            continue
        best = (question.choices or ())[int(counts.argmax())]
        shares = tuple(float(x) for x in counts / counts.sum())
        responses.append(Response(question.id, (best,), (math.nan,), shares, cut))
    return responses


def _permutation(question: Question, configuration: InferenceConfiguration, seed: int) -> list[int]:
    random = np.random.default_rng(_number(seed, configuration.name, question.id))
    return [int(i) for i in random.permutation(len(question.choices or ()))]


def _number(*parts: object) -> int:
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
