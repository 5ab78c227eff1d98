"""The loop: what it learns, that it resumes to the same bytes, and what it says about itself."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scripted import ScriptedModel

from evolvent import Strategist, StrategistAgent, StrategistConfig, make_game
from evolvent.errors import ConfigError, ModelError
from evolvent.methods.strategist.proposers.choosing import make_proposer
from evolvent.methods.strategist.proposers.llm import Budget
from evolvent.methods.strategist.sandbox.language import SkillError
from evolvent.methods.strategist.skills import CodeSkill
from evolvent.methods.strategist.skills.program import seed_program

GAME = {"num_cards": 4}
SMALL = {
    "evolutions": 2, "strategies_per_evolution": 2, "ideas_per_evolution": 2, "games_per_pair": 8, "final_games": 20,
    "feedback_games": 16, "search_budget": 8, "anchors": ("seed", "rollout"), "proposer": "residual",
}  # fmt: skip


def small(folder: Path, **changes) -> StrategistConfig:
    return StrategistConfig(output_dir=folder, **{**SMALL, **changes})


def learnt(folder: Path, model=None, **changes):
    method = Strategist(model, make_game("gops", **GAME), args=small(folder, **changes))
    return method, method.run()


def digests(folder: Path) -> dict[str, str]:
    """Bytes of everything that a run computed, without clocks and logs."""
    timed = {
        "events.jsonl",
        "metrics.json",
        "report.html",
        "report.md",
        "manifest.json",
        "config.yaml",
        "DONE",
        "run.lock",
    }
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in timed]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calm") / "run"
    return learnt(folder)


def test_a_run_leaves_skills_ideas_ratings_an_agent_and_a_report(calm):
    method, result = calm
    nodes = method.memory.tree.nodes
    assert len(nodes) == 1 + 2 * 2
    assert {n.proposer for n in nodes.values()} == {"seed", "residual (no LLM)"}
    assert len(method.memory.queue) > 0
    assert all(d.edit for d in method.memory.queue.ideas.values())
    assert result.metrics["skills/by-llm"] == 0
    page = result.report_path.read_text()
    assert "No language model had a part" in page
    assert "Rating over generations" in page
    agent = result.load(budget=4)
    game = make_game("gops", **GAME)
    state = game.step(game.initial(0), {-1: 3})
    assert agent.act(state, 1, seed=5) in game.legal(state, 1)
    assert str(agent.file.proposer) in ("seed", "residual (no LLM)")


def test_credit_of_ideas_is_the_rating_gained_over_the_parent(calm):
    method, _ = calm
    tree, queue = method.memory.tree, method.memory.queue
    for idea in queue.ideas.values():
        used = [n for n in tree.nodes.values() if n.idea == idea.id and n.failed is None]
        assert idea.tries == len(used)
    best = tree.best
    assert best.score == max(n.score for n in tree.alive)


def test_a_finished_run_is_found_again_without_playing(calm, monkeypatch):
    method, result = calm
    from evolvent.methods.strategist import tournament

    monkeypatch.setattr(tournament, "play_pairs", lambda *_: pytest.fail("played again"))
    before = digests(method.args.output_dir)
    _, again = learnt(method.args.output_dir)
    assert again.best == result.best
    assert digests(method.args.output_dir) == before


def test_another_seed_is_another_run_and_the_folder_refuses_it(calm):
    with pytest.raises(ConfigError, match="seed: 0 there, 1 now"):
        learnt(calm[0].args.output_dir, seed=1)


def test_processes_play_the_same_games(calm, tmp_path):
    _, result = learnt(tmp_path / "run", executor="process", workers=2)
    assert result.best == calm[1].best
    a, b = digests(calm[0].args.output_dir), digests(tmp_path / "run")
    assert a == b


def test_ray_plays_the_same_games(calm, tmp_path):
    learnt(tmp_path / "run", executor="ray", workers=1, evolutions=1)
    for name in ("memory.json", "matches.npz", "replay.npz"):
        ours, theirs = (
            folder / "stages" / "02-evolution-01" / name for folder in (tmp_path / "run", calm[0].args.output_dir)
        )
        assert ours.read_bytes() == theirs.read_bytes()


RESUMED = """
import json, sys
from evolvent import Strategist, StrategistConfig, make_game
folder, settings = sys.argv[1:]
args = StrategistConfig.model_validate(json.loads(settings) | {"output_dir": folder})
Strategist(None, make_game("gops", num_cards=4), args=args).run()
"""


@pytest.mark.skipif(not os.environ.get("EVOLVENT_SLOW"), reason="20 processes: EVOLVENT_SLOW=1")
def test_killed_at_twenty_points_it_ends_with_the_same_bytes_slow(calm, tmp_path):
    killed_at(calm[0].args.output_dir, tmp_path / "run", 20)


def killed_at(calm: Path, folder: Path, kills: int) -> None:
    """Kill a run -9 whenever it has written so much more than at the last kill; then let it end; compare."""
    settings = json.dumps(StrategistConfig(output_dir="x", **SMALL).model_dump(mode="json", exclude={"output_dir"}))
    done = 0

    def size() -> int:
        return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and p.name != "events.jsonl")

    while True:
        process = subprocess.Popen([sys.executable, "-c", RESUMED, str(folder), settings])
        before = size() if folder.exists() else 0
        while process.poll() is None and (done == kills or not folder.exists() or size() == before):
            time.sleep(0.001)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        done += 1
    assert process.returncode == 0
    assert done == kills
    assert digests(folder) == digests(calm)


class Killed(BaseException):
    """Stands for kill -9 in this process: nothing catches it, nothing is tidied up but the lock."""


def test_stopped_at_twenty_points_it_ends_with_the_same_bytes(calm, tmp_path, monkeypatch):
    """At each of 20 writes in turn the write is torn and the run ends there; the next one goes on."""
    from evolvent.runs import folder as run_folder

    target, points, count = tmp_path / "run", 0, 0
    real = run_folder.ShardedJsonl.append

    def torn(self, rows):
        nonlocal count
        count += 1
        if count % 2 == 1 and points < 20:
            with self.path.open("a") as file:
                file.write('{"key": "torn')
            raise Killed
        real(self, rows)

    monkeypatch.setattr(run_folder.ShardedJsonl, "append", torn)
    while True:
        try:
            learnt(target)
            break
        except Killed:
            points += 1
    assert points == 20
    assert digests(target) == digests(calm[0].args.output_dir)


# --------------------------------------------------------------------------------------------------- with a model


def test_a_model_that_writes_is_asked_with_the_papers_prompts(tmp_path):
    model = ScriptedModel()
    method, result = learnt(tmp_path / "run", model, proposer="llm", skill_kind="code", num_seeds=2, evolutions=1)
    nodes = method.memory.tree.nodes.values()
    assert all(isinstance(n.skill, CodeSkill) for n in nodes if n.failed is None)
    assert result.metrics["skills/by-llm"] > 0
    assert any("Reflect" in a or "Where is the heuristic wrong" in a for a in model.asked)
    assert any("Change it by this one idea and nothing else" in a for a in model.asked)
    assert any("cannot be used" in a for a in model.asked), "the skill that failed its checks went back for repair"
    assert {n.proposer for n in nodes if n.parent} == {"llm (scripted)"}
    failed = [n for n in nodes if n.failed]
    assert all(method.memory.queue[n.idea].tries == 0 or n.idea for n in failed)


def test_answers_given_before_a_kill_are_not_asked_again(tmp_path):
    model = ScriptedModel()
    learnt(tmp_path / "calm", model, proposer="llm", skill_kind="code", num_seeds=1, evolutions=1)
    dying = ScriptedModel(die_after=3)
    with pytest.raises(ScriptedModel.DiedError):
        learnt(tmp_path / "run", dying, proposer="llm", skill_kind="code", num_seeds=1, evolutions=1)
    rest = ScriptedModel()
    learnt(tmp_path / "run", rest, proposer="llm", skill_kind="code", num_seeds=1, evolutions=1)
    assert len(rest.asked) < len(model.asked)
    assert digests(tmp_path / "run") == digests(tmp_path / "calm")


class Trapped(ScriptedModel):
    """Its edited skills fail at one state that is seldom reached, unlike its seeds."""

    def _answer(self, prompt):
        trap = "def evaluate_state(state):\n"
        trap += "    if sum(state['hand0']) == 9 and state['score0'] + 2 * state['score1'] == 28:\n"
        trap += "        return (state['nothing'], 0), {}\n"
        answer = super()._answer(prompt)
        return (
            answer.replace("def evaluate_state(state):\n", trap) if "Change it by this one idea" in prompt else answer
        )


def test_a_skill_that_fails_only_in_its_feedback_games_does_not_end_the_run(tmp_path):
    args = small(tmp_path / "run", proposer="llm", skill_kind="code", num_seeds=1, evolutions=1)
    method = Strategist(Trapped(), make_game("gops", num_cards=6), args=args)
    result = method.run()
    failed = [n for n in method.memory.tree.nodes.values() if n.failed]
    assert any("KeyError" in n.failed for n in failed)
    assert result.node.failed is None


def test_a_best_skill_that_fails_on_fresh_deals_makes_way_for_the_next_best(tmp_path, monkeypatch):
    from evolvent.methods.strategist import strategist

    kind = {"proposer": "llm", "skill_kind": "code", "num_seeds": 2, "evolutions": 1}
    method, calm = learnt(tmp_path / "calm", ScriptedModel(), **kind)
    second = method.memory.tree.alive[1]
    real = strategist.play_job

    def failing(job):
        return (None, f"{calm.node.id}: a rare state") if job.first.id == calm.node.id else real(job)

    monkeypatch.setattr(strategist, "play_job", failing)
    for _ in range(2):  # and the same is found when the finished run is opened again
        method, result = learnt(tmp_path / "run", ScriptedModel(), **kind)
        assert result.node.id == second.id
        assert method.memory.tree[calm.node.id].failed == "a rare state"
        assert "best-vs-rollout" in method.final


def test_three_rounds_without_a_usable_skill_end_the_run_with_advice(tmp_path):
    with pytest.raises(SkillError, match="no usable skill in 3 rounds"):
        learnt(
            tmp_path / "run", ScriptedModel(broken_after_seed=True), proposer="llm", skill_kind="code", num_seeds=1,
            evolutions=4, repair_attempts=0,
        )  # fmt: skip


def test_a_budget_of_prompts_ends_the_run_in_good_order(tmp_path):
    method, result = learnt(
        tmp_path / "run", ScriptedModel(), proposer="llm", skill_kind="code", num_seeds=1, evolutions=5, max_llm_calls=8
    )
    assert method.budget.calls >= 8
    assert max(n.evolution for n in method.memory.tree.nodes.values()) < 5
    assert result.report_path.is_file()


@pytest.mark.parametrize("improvement", ["line", "greedy", "bfs", "bfs-thought"])
def test_the_published_searches_choose_their_parents(tmp_path, improvement):
    model = None if improvement != "bfs-thought" else ScriptedModel()
    kind = {"proposer": "llm", "skill_kind": "code", "num_seeds": 1} if model else {}
    method, _ = learnt(tmp_path / "run", model, improvement=improvement, **kind)
    tree = method.memory.tree
    assert len(tree) > 2
    if improvement == "greedy":
        assert {tree[n.parent].evolution for n in tree.nodes.values() if n.evolution == 2} <= {0, 1}
    if improvement == "bfs-thought":
        assert any("Write new thoughts" in a for a in model.asked)


def test_settings_that_contradict_each_other_are_refused(tmp_path):
    for wrong in ({"skill_kind": "code"}, {"skill_kind": "program", "proposer": "llm"}, {"anchors": ()}, {"seed": -1}):
        with pytest.raises(ValueError):
            small(tmp_path, **wrong)
    with pytest.raises(ConfigError, match="needs a model"):
        make_proposer("llm", None, small(tmp_path), Budget(None))
    for game, told in ((make_game("avalon"), "GOPS only"), (make_game("gops", num_cards=6), "at most 5 cards")):
        with pytest.raises(ConfigError, match=told):
            Strategist(None, game, args=small(tmp_path, exploitability_weight=1.0))


def test_exploitability_counts_in_the_choice_of_the_best(tmp_path):
    method, _ = learnt(tmp_path / "run", exploitability_weight=1.0, evolutions=1)
    known = method.memory.exploitabilities
    assert known
    assert all(value >= 0 for value in known.values())


def test_avalon_learns_too(tmp_path):
    args = small(tmp_path / "run", evolutions=1, games_per_pair=4, search_budget=8, final_games=8)
    method = Strategist(None, make_game("avalon", num_players=5), args=args)
    result = method.run()
    assert "Effects by side" in result.report_path.read_text()
    assert np.isfinite(result.metrics["rating/best"])


def test_a_loaded_agent_is_the_skill_that_was_learnt(calm):
    method, result = calm
    agent = StrategistAgent.from_pretrained(method.args.output_dir)
    assert agent.file.skill == result.best.to_json()
    assert agent.file.lineage[0]["id"] == "s0"
    assert seed_program(agent.game).to_json()["terms"][0]["feature"] == "score_difference"


def test_a_loaded_agent_has_the_limits_that_its_skill_was_learnt_under(tmp_path):
    kind = {"proposer": "llm", "skill_kind": "code", "num_seeds": 1, "evolutions": 0, "fuel": 50_000}
    _, result = learnt(tmp_path / "run", ScriptedModel(), **kind)
    agent = result.load()
    assert agent.seat.evaluator.worker.limits.fuel == 50_000
    agent.seat.evaluator.close()
    path = result.agent / "strategist.json"
    path.write_text(path.read_text().replace('"budget"', '"budgett"'))
    with pytest.raises(ModelError, match=r"strategist\.json: field search: .*budgett"):
        result.load()


def test_with_auto_a_model_is_probed_and_what_it_cannot_do_falls_back_by_name(tmp_path):
    class Talker(ScriptedModel):
        def _answer(self, prompt):
            return "What a lovely game."

    method, result = learnt(tmp_path / "run", Talker(), proposer="auto", evolutions=1)
    assert (method.probe.code, method.probe.ideas) == (0, 0.0)
    assert len(method.probe.code_errors) == 8
    assert result.proposer == "residual (no LLM)"
    assert method.probe.summary() in result.report_path.read_text()
    assert not [n for n in method.memory.tree.nodes.values() if n.proposer.startswith("llm")]
