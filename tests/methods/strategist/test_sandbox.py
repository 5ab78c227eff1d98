"""Nothing that a model writes gets out of the sandbox, and what is harmless runs."""

from __future__ import annotations

import contextlib
import os
import time

import numpy as np
import pytest
from attacks import FORGED, HARMLESS, KERNEL, LANGUAGE, skill
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvent.errors import ConfigError
from evolvent.methods.strategist.games.registry import make_game
from evolvent.methods.strategist.sandbox import seccomp, workers
from evolvent.methods.strategist.sandbox.language import CheckedSource, SkillError, check_source, edit_share
from evolvent.methods.strategist.sandbox.workers import Limits, SecurityError, Worker
from evolvent.methods.strategist.search.settings import SearchSettings
from evolvent.methods.strategist.skills.code import CodeEvaluator, CodeSkill, check_code, reachable_states
from evolvent.methods.strategist.tournament import EVALUATORS, Job, Player, game_json, play_job

pytestmark = pytest.mark.skipif(not seccomp.available(), reason="no seccomp filter for this machine")

GAME = make_game("gops", num_cards=6)
QUICK = Limits(timeout_seconds=1.0, memory_mb=256)
STATES = [GAME.view(row) for row in reachable_states(GAME, 13)]
RUNNING = {  # these pass the language; fuel, memory, watchdog or the check of the result must end them
    "endless loop", "endless recursion", "recursion in lambdas", "endless comprehension", "endless map", "loop in C",
    "list bomb", "doubling", "text bomb", "number bomb", "huge sort", "not a number", "infinity", "text as value",
    "one value", "nothing", "missing key",
}  # fmt: skip


def test_the_corpus_is_large_enough():
    assert len(LANGUAGE) + len(KERNEL) >= 100


@pytest.mark.parametrize("name", sorted(LANGUAGE.keys() - RUNNING))
def test_the_language_refuses_with_a_reason(name):
    with pytest.raises(SkillError, match=r"line \d+|cannot be read|exactly once|not Python"):
        check_source(LANGUAGE[name])


@pytest.mark.parametrize("name", sorted(RUNNING))
def test_what_the_language_allows_still_cannot_take_more_than_its_share(name):
    started = time.monotonic()
    with pytest.raises(SkillError), Worker(check_source(LANGUAGE[name]), QUICK) as worker:
        worker.evaluate(STATES, 2)
    assert time.monotonic() - started < 60  # not a timing: it ended at all


@pytest.mark.parametrize("name", sorted(KERNEL))
def test_past_the_language_the_kernel_ends_the_worker(name):
    with pytest.raises(SkillError) as caught, Worker(CheckedSource("", KERNEL[name], "", False), QUICK) as worker:
        worker.evaluate(STATES[:1], 2)
    harmless_failures = ("limits", "import from disk", "executable memory", "environment of the parent", "kill itself")
    if name not in harmless_failures:
        assert isinstance(caught.value, SecurityError), caught.value


@pytest.mark.parametrize("name", sorted(FORGED))
def test_a_forged_answer_is_refused_by_the_parent(name):
    with pytest.raises(SkillError), Worker(CheckedSource("", FORGED[name], "", False), QUICK) as worker:
        worker.evaluate(STATES[:1], 2)


def test_notes_whose_names_cannot_be_printed_are_left_out():
    source = skill("return (state['score0'], 0), {'': 1.0, '\\ud800': 2.0, 'a\\nb': 3.0, 'lead': 4.0}")
    with Worker(check_source(source), QUICK) as worker:
        _, notes = worker.evaluate(STATES[:1], 2)
    assert notes == [{"lead": 4.0}]


def test_the_way_in_that_the_kernel_attacks_use_is_real():
    """Without the lock the same walk succeeds, so the tests above do not pass because it fails."""
    walk = KERNEL["stat"]
    with Worker(CheckedSource("", walk, "", False), Limits(level="language")) as worker:
        values, _ = worker.evaluate(STATES[:1], 2)
    assert values.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_harmless_skills_are_accepted_and_give_values(name):
    check_code(GAME, CodeSkill(HARMLESS[name]), Limits(), set())


def test_values_are_those_of_the_same_function_in_this_process():
    source = HARMLESS["sorted match"]
    space: dict = {}
    exec(source, space)
    with Worker(check_source(source), Limits()) as worker:
        values, notes = worker.evaluate(STATES, 2)
    expected = [space["evaluate_state"](state) for state in STATES]
    assert values.tolist() == [list(map(float, v)) for v, _ in expected]
    assert notes == [{k: float(x) for k, x in n.items()} for _, n in expected]


def test_fuel_is_per_state_not_per_batch():
    source = skill("n = 0\nfor i in range(150):\n    n += 1\nreturn (n, state['score0']), {}")
    with Worker(check_source(source), Limits(fuel=200)) as worker:
        values, _ = worker.evaluate(STATES, 2)
    assert set(values[:, 0]) == {150.0}
    expected = pytest.raises(SkillError, match="more than 100 loop passes")
    with expected, Worker(check_source(source), Limits(fuel=100)) as worker:
        worker.evaluate(STATES, 2)


@settings(max_examples=15, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(SkillError):
        check_source(text)


def test_types_are_read_over():
    source = "def evaluate_state(state: Dict[str, Any]) -> Tuple[Tuple[float, float], Dict]:\n"
    source += "    lead: np.float64 = state['score0']\n    return (lead, 0), {}\n"
    with Worker(check_source(source), QUICK) as worker:
        values, _ = worker.evaluate(STATES, 2)
    assert values[:, 0].tolist() == [state["score0"] for state in STATES]


def test_two_long_skills_are_compared_in_time():
    before, after = ("    x = 1 + y\n" * 2000, "    x = y\n    z = 1\n" * 1500)
    started = time.monotonic()
    assert 0 < edit_share(f"def f():\n{before}", f"def f():\n{after}") < 1
    assert time.monotonic() - started < 20
    assert edit_share(HARMLESS["sorted match"], HARMLESS["sorted match"]) == 0


def test_a_skill_cannot_answer_differently_the_second_time_or_be_constant_or_a_copy():
    constant = skill("return (1, 2), {}")
    with pytest.raises(SkillError, match="same at every state"):
        check_code(GAME, CodeSkill(constant), Limits(), set())
    shape = check_source(HARMLESS["walrus and slices"]).shape
    renamed = HARMLESS["walrus and slices"].replace("cards", "hand").replace("-2", "-3")
    with pytest.raises(SkillError, match="exists already"):
        check_code(GAME, CodeSkill(renamed), Limits(), {shape})


def test_skill_values_become_units_of_returns_and_are_remembered():
    encoded = reachable_states(GAME, 20)
    with CodeEvaluator(GAME, CodeSkill(HARMLESS["sorted match"]), Limits()) as evaluate:
        first = evaluate(encoded)
        evaluate.worker.close()  # a second question about the same states does not reach the worker
        assert np.array_equal(evaluate(encoded), first)
    assert np.allclose(first[:, 0], -first[:, 1])


def test_avalon_probabilities_outside_zero_and_one_are_refused():
    avalon = make_game("avalon", num_players=5)
    source = skill("return {p: 2.0 for p in state['players']}, {}")
    with (
        pytest.raises(SkillError, match=r"outside \[0, 1\]"),
        CodeEvaluator(avalon, CodeSkill(source), Limits()) as evaluate,
    ):
        evaluate(reachable_states(avalon, 4))


def test_the_worker_starts_clean(monkeypatch):
    monkeypatch.setenv("SECRET", "1")
    source = KERNEL["stat"].replace("os.stat('/')", "assert 'SECRET' not in os.environ and not os.listdir('.')")
    with Worker(CheckedSource("", source, "", False), Limits(level="language")) as worker:
        worker.evaluate(STATES[:1], 2)
        assert worker._process.pid != os.getpid()


def test_a_match_whose_worker_dies_is_played_again_twice_and_then_its_skill_fails(monkeypatch):
    skill = Player.of("s1", CodeSkill(HARMLESS["sorted match"]))
    job = Job(*game_json(GAME), skill, Player("rollout", "rollout"), SearchSettings(budget=4), Limits(), 2, 3)
    with EVALUATORS:
        calm, _ = play_job(job)
    real, killed = Worker.evaluate, []

    def dying(worker, states, players):
        if len(killed) < deaths:
            killed.append(worker)
            worker._process.kill()
            worker._process.wait()
        return real(worker, states, players)

    monkeypatch.setattr(Worker, "evaluate", dying)
    for deaths in (2, 3):
        killed.clear()
        with EVALUATORS:
            margins, failure = play_job(job)
        assert len(killed) == deaths
        assert margins == (calm if deaths == 2 else None)
    assert failure.startswith("s1: the worker ended by itself")


def test_without_seccomp_strict_refuses_and_names_the_way_out(monkeypatch):
    monkeypatch.setattr(workers.seccomp, "available", lambda: False)
    with pytest.raises(ConfigError, match='sandbox="language"'):
        Worker(check_source(HARMLESS["by position"]), Limits())


def test_a_kernel_that_refuses_the_filter_is_named_and_not_the_skill(monkeypatch, tmp_path):
    (tmp_path / "worker.py").write_text(workers._WORKER.read_text())
    (tmp_path / "seccomp.py").write_text("def lock():\n    raise OSError(22, 'refused')\n")
    monkeypatch.setattr(workers, "_WORKER", tmp_path / "worker.py")
    with pytest.raises(ConfigError, match=r'this kernel .*sandbox="language"'):
        Worker(check_source(HARMLESS["by position"]), Limits())
