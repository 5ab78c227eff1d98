"""Rehearsal of a guide: one player of an Avalon table speaks by it, the others listen, z says how it went.

Scenes are rounds of talk in games of self-play: of each deal the first after a quest, and the last. Two guides are
compared on the same scenes, so that the margin of a pair is z of one minus z of the other. With a model, worksheets,
speeches and listeners are its; without one the guide is an :class:`ActGuide` and the table listens as to typed acts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evolvent.methods.strategist.belief import Belief
from evolvent.methods.strategist.dialogue.acts import Act, act_score, heard
from evolvent.methods.strategist.dialogue.spoken import SpeechRecord, kind_of, listen, speak, speech_score
from evolvent.methods.strategist.games.avalon import Avalon, AvalonState, Ballot, Proposal, QuestResult
from evolvent.methods.strategist.games.avalon_rules import FIRST_EVIL, seats_of
from evolvent.methods.strategist.games.rng import Stream, key_of
from evolvent.methods.strategist.matches import Seat, pair_seeds, play
from evolvent.methods.strategist.proposers.llm import Writer
from evolvent.methods.strategist.search.settings import SearchSettings
from evolvent.methods.strategist.skills import ActGuide, GuideSkill, skill_from
from evolvent.methods.strategist.skills.guide import Guide
from evolvent.methods.strategist.skills.program import seed_program
from evolvent.methods.strategist.tournament import Job, Played

SILENCE = "silence"  # says nothing, z = 0: the anchor of guides


@dataclass(frozen=True)
class Scene:
    """Somebody's turn to speak, and a random number for what he leaves to chance."""

    state: AvalonState
    player: int
    uniform: float


class Rehearsal:
    """Scenes for one role.

    Args:
        game: the rules.
        role: "good", "merlin" or "evil".
        search: of the self-play that scenes come from.
        writer: who speaks and listens; None: typed acts.
    """

    def __init__(self, game: Avalon, role: str, search: SearchSettings, writer: Writer | None) -> None:
        self.game, self.role, self.search, self.writer = game, role, search, writer
        self._scenes: dict[tuple[int, int], list[tuple[Scene, Scene]]] = {}
        self._scores: dict[tuple[str, int, int], NDArray[np.float64]] = {}

    def play(self, job: Job) -> Played:
        """A match of two guides; in place of :func:`~evolvent.methods.strategist.tournament.play_job`."""
        first, second = (self.scores(player.skill, job.pairs, job.seed) for player in (job.first, job.second))
        return (first - second).tolist(), ""

    def scores(self, skill: str, pairs: int, seed: int) -> NDArray[np.float64]:
        """z of a guide (its JSON, or "silence") in the two scenes of each deal, (pairs, 2)."""
        if skill == SILENCE:
            return np.zeros((pairs, 2))
        if (skill, pairs, seed) not in self._scores:
            guide = skill_from(json.loads(skill))
            assert isinstance(guide, GuideSkill | ActGuide)
            found = [[self.perform(guide, scene)[0] for scene in both] for both in self.scenes(pairs, seed)]
            self._scores[skill, pairs, seed] = np.array(found)
        return self._scores[skill, pairs, seed]

    def scenes(self, pairs: int, seed: int) -> list[tuple[Scene, Scene]]:
        """The two scenes of each deal."""
        if (pairs, seed) not in self._scenes:
            seat = Seat(seed_program(self.game).evaluator(self.game), replace(self.search, move="sample"))
            seating = np.zeros((pairs, self.game.num_players), np.int64)
            finals = play(self.game, [seat], seating, pair_seeds(seed, pairs)).finals
            self._scenes[pairs, seed] = [self._two_of(final, key_of(seed, i)) for i, final in enumerate(finals)]
        return self._scenes[pairs, seed]

    def perform(self, guide: Guide, scene: Scene) -> tuple[float, SpeechRecord]:
        """z of a speech by a guide, and what was written, said and heard."""
        game, state, player = self.game, scene.state, scene.player
        belief = Belief(game.role_set)
        belief.observe(state.history)
        if isinstance(guide, ActGuide):
            before, private = belief.evil_probability(), belief.evil_probability(game.info(state, player))
            act = guide.policy.choose(game, state, player, private, before, scene.uniform)
            belief.talk(heard(act, player, before))
            z = act_score(act, player, state.roles, before, belief.evil_probability())
            return z, SpeechRecord(str(guide), "", str(act))
        assert self.writer is not None
        record = speak(self.writer, game, state, player, guide, belief, "")
        said = game.say(state, player, record.speech)
        record.listeners = listen(self.writer, game, said, [(player, record.speech)])
        suspicion = record.listeners
        if self.role == "merlin":
            suspicion = listen(self.writer, game, said, [(player, record.speech)], what="Merlin")
        return speech_score(player, state.roles, record.listeners, suspicion), record

    def _two_of(self, final: AvalonState, key: int) -> tuple[Scene, Scene]:
        rounds = talks(self.game, final)
        first = next((state for state in rounds if state.quest), rounds[-1])
        return self._scene(first, key_of(key, 0)), self._scene(rounds[-1], key_of(key, 1))

    def _scene(self, state: AvalonState, key: int) -> Scene:
        """The role's turn; whoever speaks before him has nothing to add."""
        player = next(p for p, role in enumerate(state.roles) if kind_of(role) == self.role)
        while (speaker := self.game.speakers(state)[0]) != player:
            state = self.game.say(state, speaker, str(Act("pass")))
        return Scene(state, player, Stream(key).uniform())


def talks(game: Avalon, final: AvalonState) -> list[AvalonState]:
    """The state before each proposal of a finished game."""
    state = AvalonState(final.roles, final.history[0].leader)
    found = []
    for event in final.history:
        match event:
            case Proposal(leader, team):
                found.append(state)
                state = game.step(state, {leader: team})
            case Ballot(approvals) if game.phase(state) == "vote":
                state = game.step(state, {p: approvals >> p & 1 for p in range(game.num_players)})
            case QuestResult(team, fails):  # which of the evil players failed it, the state does not say
                seats = seats_of(team)
                failing = [p for p in seats if state.roles[p] >= FIRST_EVIL][:fails]
                state = game.step(state, {p: int(p not in failing) for p in seats})
    return found
