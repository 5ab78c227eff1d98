"""A provider's fine-tuning job: paid for once, whatever happens in between."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_provider import FakeProvider

from evolvent.errors import ConfigError, EndpointError, ModelError
from evolvent.models.endpoint import EndpointModel, Prices
from evolvent.training import jobs
from evolvent.training.config import FineTuneConfig
from evolvent.training.examples import TrainingExample
from evolvent.training.jobs import fine_tune_job
from evolvent.training.learners import JobLearner

CHAT = [{"role": "user", "content": "Which topic?"}]
EXAMPLES = [TrainingExample("News: Late goal\nTopic:", " sport"), TrainingExample(CHAT, "tech")]


def train(provider: FakeProvider, folder: Path, **options):
    endpoint = options.pop("endpoint", None) or EndpointModel("gpt-4o-mini", provider.url, max_retries=2)
    return fine_tune_job(endpoint, EXAMPLES, state_dir=folder, base_model="gpt-4o-mini", poll_seconds=0.01, **options)


def test_a_job_is_uploaded_created_and_waited_for(tmp_path):
    seen: list[str] = []
    with FakeProvider() as provider:
        result = train(provider, tmp_path, epochs=3, seed=7, on_status=seen.append)
    assert (result.status, result.model) == ("succeeded", "ft:gpt-4o-mini:ftjob-1")
    assert result.trained_tokens == 1234
    assert seen == ["running", "succeeded"]
    assert (provider.jobs[0]["hyperparameters"]["n_epochs"], provider.jobs[0]["seed"]) == (3, 7)
    rows = [json.loads(line) for line in provider.contents["file-1"].splitlines()]
    assert rows[0]["messages"] == [
        {"role": "user", "content": "News: Late goal\nTopic:"},
        {"role": "assistant", "content": "sport"},
    ]
    assert rows[1]["messages"] == [*CHAT, {"role": "assistant", "content": "tech"}]


@pytest.mark.parametrize("lost", ["file_id", "job_id"])
def test_a_kill_before_an_id_was_stored_pays_only_once(tmp_path, monkeypatch, lost):
    store = jobs.write_json

    def killed(path, values):
        if lost in values:
            raise KeyboardInterrupt
        store(path, values)

    with FakeProvider() as provider:
        monkeypatch.setattr(jobs, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            train(provider, tmp_path)
        monkeypatch.undo()
        assert train(provider, tmp_path).status == "succeeded"
        assert (len(provider.files), len(provider.jobs)) == (1, 1)
        assert train(provider, tmp_path).model == "ft:gpt-4o-mini:ftjob-1"
        assert (len(provider.files), len(provider.jobs)) == (1, 1)


def test_a_failed_job_is_tried_again_and_says_why(tmp_path):
    with FakeProvider(outcome="failed") as provider:
        result = train(provider, tmp_path)
        assert (result.model, result.error) == (None, "line 3 has no messages")
        provider.outcome = "succeeded"
        assert train(provider, tmp_path).status == "succeeded"
        assert (len(provider.files), len(provider.jobs)) == (1, 2)


def test_a_bad_moment_is_survived_and_a_bad_day_is_an_error(tmp_path):
    with FakeProvider(faults=[500, 503]) as provider:
        assert train(provider, tmp_path / "a").status == "succeeded"
    with FakeProvider(faults=[500] * 9) as provider, pytest.raises(EndpointError, match="go on with the same job"):
        train(provider, tmp_path / "b")


def test_other_examples_are_another_job(tmp_path):
    with FakeProvider() as provider:
        train(provider, tmp_path, epochs=1)
        train(provider, tmp_path, epochs=2)
        assert len(provider.jobs) == 2


def test_nothing_is_uploaded_above_the_highest_cost(tmp_path):
    with FakeProvider() as provider:
        endpoint = EndpointModel("gpt-4o-mini", provider.url, prices=Prices(1, 1, training=1e6))
        with pytest.raises(ConfigError, match="nothing was uploaded"):
            train(provider, tmp_path, endpoint=endpoint, max_cost=1.0)
        with pytest.raises(ConfigError, match="prices"):
            train(provider, tmp_path, max_cost=1.0)
        assert provider.files == []


def test_the_learner_hands_back_a_reference_or_the_providers_reason(tmp_path):
    with FakeProvider(polls=1) as provider:
        learner = JobLearner(EndpointModel("gpt-4o-mini", provider.url))
        made = learner.train(f"endpoint:gpt-4o-mini@{provider.url}", EXAMPLES, FineTuneConfig(), tmp_path / "a")
        assert made == f"endpoint:ft:gpt-4o-mini:ftjob-1@{provider.url}"
        provider.outcome = "failed"
        with pytest.raises(ModelError, match="line 3 has no messages"):
            learner.train(f"endpoint:gpt-4o-mini@{provider.url}", EXAMPLES[:1], FineTuneConfig(), tmp_path / "b")
