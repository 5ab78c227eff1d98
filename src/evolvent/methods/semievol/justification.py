"""Self-justification (S4): a judge looks again at the rows on which the configurations disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from evolvent.data.records import Question
from evolvent.data.tasks import Task
from evolvent.errors import NoLogProbsError, PromptErrors
from evolvent.methods.semievol.collaboration import Consensus
from evolvent.models.protocol import Choice, LanguageModel, Prompt, Sampling

MIN_DISPUTED = 20  # labelled rows; fewer cannot tell a good judge from a bad one


@dataclass(frozen=True, slots=True)
class JudgeTrial:
    """How the judge did against the vote on labelled rows where the voters disagree."""

    disputed: int
    vote_accuracy: float
    judge_accuracy: float

    @property
    def passed(self) -> bool:
        """Whether there were enough rows and the judge was right more often."""
        return self.disputed >= MIN_DISPUTED and self.judge_accuracy > self.vote_accuracy

    def __str__(self) -> str:
        if self.disputed < MIN_DISPUTED:
            return f"judge not used: only {self.disputed} disputed labelled rows, {MIN_DISPUTED} are needed to test it"
        verdict = "used" if self.passed else "not used"
        return (
            f"judge {verdict}: right on {self.judge_accuracy:.1%} of {self.disputed} disputed labelled rows, "
            f"the vote on {self.vote_accuracy:.1%}"
        )


def justify(
    judge: LanguageModel,
    task: Task,
    questions: Sequence[Question],
    consensuses: Sequence[Consensus],
    *,
    max_tokens: int = 256,
) -> list[Consensus]:
    """Replace the distribution of every disputed row by the judge's; leave the others alone.

    Choice tasks in closed form, over all of the row's options; free-form tasks, and judges that tell no
    log-probabilities, by one greedy answer. A row on which
    the judge says nothing readable keeps its vote.
    """
    disputed = [i for i, c in enumerate(consensuses) if not c.agreed and c.candidates]
    if not disputed:
        return list(consensuses)
    prompts = [
        task.judge_prompt(questions[i], [consensuses[i].candidates[b] for b in consensuses[i].ballots if b >= 0])
        for i in disputed
    ]
    result = list(consensuses)
    try:
        choices = _scored(judge, task, prompts, [questions[i] for i in disputed])
        if choices is not None:
            for i, choice in zip(disputed, choices, strict=True):
                result[i] = replace(
                    result[i],
                    distribution=choice.probabilities("token"),
                    nll=-max(choice.scores("token")),
                    judged=True,
                )
        else:
            for i, completions in zip(disputed, judge.generate(prompts, Sampling(max_tokens=max_tokens)), strict=True):
                answer = task.parse(completions[0].text, questions[i])
                result[i] = _with_answer(task, result[i], answer, completions[0].mean_nll)
    except PromptErrors as errors:
        if len(errors.failures) == len(disputed):
            raise
    return result


def try_judge(
    judge: LanguageModel,
    task: Task,
    labeled: Sequence[Question],
    consensuses: Sequence[Consensus],
    *,
    max_tokens: int = 256,
) -> JudgeTrial:
    """Test a judge on held-out labelled rows."""
    rows = [i for i, c in enumerate(consensuses) if not c.agreed and c.answer is not None]
    if len(rows) < MIN_DISPUTED:
        return JudgeTrial(len(rows), float("nan"), float("nan"))
    questions = [labeled[i] for i in rows]
    votes = [consensuses[i] for i in rows]
    judged = justify(judge, task, questions, votes, max_tokens=max_tokens)

    def accuracy(answers: Sequence[Consensus]) -> float:
        hits = [
            c.answer is not None and task.matches(c.answer, q.answer or "")
            for q, c in zip(questions, answers, strict=True)
        ]
        return float(np.mean(hits))

    return JudgeTrial(len(rows), accuracy(votes), accuracy(judged))


def _scored(
    judge: LanguageModel, task: Task, prompts: Sequence[Prompt], questions: Sequence[Question]
) -> list[Choice] | None:
    """The judge's scores of all options; None where the answer must be generated."""
    if task.kind != "choice":
        return None
    try:
        return judge.choose(prompts, [task.options(q) for q in questions])
    except NoLogProbsError:
        return None


def _with_answer(task: Task, consensus: Consensus, answer: str | None, nll: float) -> Consensus:
    if answer is None:
        return consensus
    candidates = list(consensus.candidates)
    match = next((i for i, c in enumerate(candidates) if task.matches(c, answer)), None)
    if match is None:
        match = len(candidates)
        candidates.append(answer)
    one_hot = tuple(float(i == match) for i in range(len(candidates)))
    # Sureness stays that of the vote: the judge's single answer has no distribution of its own.
    shares = [*consensus.distribution, *[0.0] * (len(candidates) - len(consensus.distribution))]
    mixed = tuple(0.5 * a + 0.5 * b for a, b in zip(one_hot, shares, strict=True))
    return replace(consensus, candidates=tuple(candidates), distribution=mixed, nll=nll, judged=True)
