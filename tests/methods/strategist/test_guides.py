"""Dialogue guides: scenes of real games, scores of talk, and their evolution with and without a model that coaches."""

from __future__ import annotations

import numpy as np
import pytest
from scripted import ScriptedModel

from evolvent import Strategist, StrategistAgent, StrategistConfig, make_game
from evolvent.errors import ConfigError, PromptErrors
from evolvent.methods.strategist.belief import Belief
from evolvent.methods.strategist.dialogue.acts import Act, ActPolicy, act_score
from evolvent.methods.strategist.dialogue.rehearsal import Rehearsal, talks
from evolvent.methods.strategist.games.avalon_rules import FIRST_EVIL, MERLIN
from evolvent.methods.strategist.games.rng import key_of
from evolvent.methods.strategist.matches import Seat, pair_seeds, play
from evolvent.methods.strategist.proposers.llm import Budget, Writer
from evolvent.methods.strategist.search.settings import SearchSettings
from evolvent.methods.strategist.skills import ActGuide, GuideSkill, skill_from
from evolvent.methods.strategist.skills.program import Edit, Expression
from evolvent.methods.strategist.table import Table
from evolvent.models.protocol import Completion

AVALON = make_game("avalon", num_players=5)
SEARCH = SearchSettings(budget=8, move="visits")


def coached(folder, model, **changes) -> Strategist:
    settings = {"evolutions": 2, "strategies_per_evolution": 2, "games_per_pair": 8, "final_games": 20,
                "search_budget": 8, "skill_kind": "guide", "guide_role": "merlin", **changes}  # fmt: skip
    method = Strategist(model, AVALON, args=StrategistConfig(output_dir=folder, **settings))
    method.result = method.run()
    return method


class Coach(ScriptedModel):
    """Writes worksheets; its listeners like a speech that follows one with three questions."""

    def _answer(self, prompt):
        if "In this round of talk" in prompt:
            return '{"0": -2, "1": -2, "2": -2, "3": -2, "4": -2}' if "calm" in prompt else "{}"
        if "Do not reveal your role" in prompt:
            return "calm words" if "\nQ3:" in prompt else "loud words"
        if "Write the whole new worksheet" in prompt:
            pick = sum(map(ord, prompt)) % 5
            return f"Here it is.\nQ1: Who?\nQ2: Why?\nQ3: What if case {pick} holds?" if pick else "No."
        return super()._answer(prompt)


@pytest.mark.parametrize("fifth", ["evil_wins", "auto_approve"])
def test_a_finished_game_is_told_again_proposal_by_proposal(fifth):
    game = make_game("avalon", num_players=7, fifth=fifth, discussion_rounds=0)
    finals = play(game, [Seat(None)], np.zeros((20, 7), np.int64), pair_seeds(3, 20)).finals
    for final in finals:
        for state in talks(game, final):
            assert game.phase(state) == "propose"
            assert final.history[: len(state.history)] == state.history
            assert final.fails[: len(state.fails)] == state.fails


@pytest.mark.parametrize("role", ["good", "merlin", "evil"])
def test_in_a_scene_it_is_the_turn_of_the_role(role):
    for scene in [s for both in Rehearsal(AVALON, role, SEARCH, None).scenes(10, 5) for s in both]:
        assert AVALON.speakers(scene.state)[0] == scene.player
        of = scene.state.roles[scene.player]
        assert role == ("evil" if of >= FIRST_EVIL else "merlin" if of == MERLIN else "good")


def test_an_act_scores_by_what_the_table_believes_and_merlin_by_what_gives_him_away():
    roles = next(s for s in (AVALON.initial(i).roles for i in range(50)) if s[0] == MERLIN)
    evil = next(p for p, role in enumerate(roles) if role >= FIRST_EVIL)
    before = np.full(5, 0.4)
    after = before + 0.1 * (np.array(roles) >= FIRST_EVIL)
    servant = next(p for p, role in enumerate(roles) if role < FIRST_EVIL and role != MERLIN)
    assert act_score(Act("claim"), servant, roles, before, after) == pytest.approx(0.2)
    assert act_score(Act("claim"), evil, roles, before, after) == pytest.approx(-0.2)
    assert act_score(Act("accuse", 1 << evil), 0, roles, before, after) == pytest.approx(-2 * (0.7 - 0.4))
    assert act_score(Act("accuse", 1 << servant), 0, roles, before, after) == pytest.approx(0.2)


def test_scores_are_those_of_the_belief_by_hand():
    rehearsal = Rehearsal(AVALON, "good", SEARCH, None)
    guide = ActGuide("good", ActPolicy(accuse_from=0.3))
    z, record = rehearsal.perform(guide, (scene := rehearsal.scenes(1, 2)[0][1]))
    belief = Belief(AVALON.role_set)
    belief.observe(scene.state.history)
    before = belief.evil_probability()
    suspect = int(record.speech.removeprefix("I think player ").removesuffix(" is evil."))
    belief.talk({suspect: 2.0 * max(0.0, 1 - 2 * before[scene.player])})
    evil = np.array(scene.state.roles) >= FIRST_EVIL
    assert z == pytest.approx(2 * (belief.evil_probability() - before)[evil].mean())


def test_answers_shift_within_bounds_and_survive_storage():
    guide = ActGuide("merlin").apply(Edit("shift", Expression("caution"), 0.9))
    assert guide.policy == ActPolicy(caution=1.0)
    assert skill_from(guide.to_json()) == guide
    assert str(guide).endswith("behind what the table believes? 1.00")
    with pytest.raises(ConfigError, match="cannot go further"):
        guide.apply(Edit("shift", Expression("caution"), 0.1))
    with pytest.raises(ConfigError, match="no answer"):
        ActGuide("evil").apply(Edit("shift", Expression("caution"), 0.1))


def test_without_a_model_merlin_learns_not_to_say_what_only_he_knows(tmp_path):
    method = coached(tmp_path / "run", None, evolutions=3, strategies_per_evolution=4)
    assert method.result.proposer == "uniform (no LLM; typed acts)"
    low, _ = method.result.metrics["margin/final/best-vs-seed/ci95"]
    assert low > 0
    assert method.memory.queue.ideas
    assert all(d.tries == sum(n.idea == d.id and n.failed is None for n in method.memory.tree.nodes.values())
               for d in method.memory.queue.ideas.values())  # fmt: skip
    assert "of trust a game over the seed" in method.result.report_path.read_text()
    agent = StrategistAgent.from_pretrained(method.result.agent)
    table = Table(agent.game, agent, seed=4)
    assert table.guides == {"merlin": method.result.best}
    table.run()
    assert table.over


def test_a_coach_is_asked_by_the_papers_steps_and_gets_credit(tmp_path):
    model = Coach()
    method = coached(tmp_path / "run", model, proposer="llm")
    assert method.result.proposer == "llm (scripted)"
    best = method.result.best
    assert isinstance(best, GuideSkill)
    assert len(best.questions) == 3, "the worksheet that listeners like wins"
    assert method.result.metrics["margin/final/best-vs-seed"] == pytest.approx(2.0)
    assert any("speeches that went worst" in asked and "player 1 thought:" in asked for asked in model.asked)
    assert method.memory.tree["s0"].proposer == "seed", "the plain worksheet was written by no model"
    again = Coach()
    assert coached(tmp_path / "run", again, proposer="llm").result.best == best
    assert not again.asked


def test_a_kill_between_answers_changes_nothing(tmp_path):
    calm = coached(tmp_path / "calm", Coach(), proposer="llm")
    with pytest.raises(ScriptedModel.DiedError):
        coached(tmp_path / "killed", Coach(die_after=1500), proposer="llm")
    killed = coached(tmp_path / "killed", Coach(), proposer="llm")
    for name in ("ideas.jsonl", "ratings.json", "matches.npz", "best/strategist.json"):
        assert (tmp_path / "calm" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    assert killed.budget.calls == calm.budget.calls


def test_a_model_that_cannot_listen_falls_back_by_name(tmp_path):
    method = coached(tmp_path / "run", Coach(), evolutions=1)
    assert method.probe.listener_json == 1.0
    assert method.probe.listener_sign < 0.65
    assert method.result.proposer == "uniform (no LLM; typed acts)"
    assert method.result.metrics["skills/by-llm"] == 0


def test_guides_want_a_game_with_talk(tmp_path):
    args = StrategistConfig(output_dir=tmp_path, skill_kind="guide")
    with pytest.raises(ConfigError, match="nobody talks in gops"):
        Strategist(None, "gops", args=args)
    with pytest.raises(ConfigError, match="discussion_rounds is 0"):
        Strategist(None, make_game("avalon", discussion_rounds=0), args=args).run()


def test_a_prompt_that_does_not_fit_is_asked_again_shorter(tmp_path):
    class Narrow(ScriptedModel):
        def generate(self, prompts, sampling):
            self.asked += [p[-1]["content"] for p in prompts]
            if len(self.asked[-1]) > 10:
                raise PromptErrors({0: ConfigError("17 tokens exceed the context of 10 tokens")}, [None])
            return [[Completion("read", (-0.5,) * 3, "stop")]]

    budget = Budget(most_tokens=6)
    writer = Writer(Narrow(), StrategistConfig(output_dir=tmp_path), budget)
    assert writer.ask_fitting(["x" * 30, "x" * 20, "x" * 10], key_of(1), max_tokens=9) == "read"
    assert [len(asked) for asked in writer.model.asked] == [30, 20, 10]
    assert (budget.tokens, budget.spent) == (3, False)
    writer.ask(["x"], 2)
    assert budget.spent
