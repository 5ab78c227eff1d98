"""Talk by a language model: a worksheet is answered, then a speech made of the answers; listeners say whom they trust.

    score of a speech, z ∈ [−2, 2]    evil:    mean over servants of trust gained = −(mean e_speaker for "evil")
                                      Merlin:  min(mean servant trust gained, −mean suspicion of evil that he is Merlin)

The official code adds "how much more evil" to goodness; here trust is minus the change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from evolvent.methods.strategist.belief import Belief
from evolvent.methods.strategist.games.avalon import Avalon, AvalonState
from evolvent.methods.strategist.games.avalon_rules import FIRST_EVIL, ROLES
from evolvent.methods.strategist.games.rng import key_of
from evolvent.methods.strategist.proposers.llm import Writer
from evolvent.methods.strategist.proposers.prompting import parse_json, render
from evolvent.methods.strategist.skills.guide import SEED_GUIDES, Guide, GuideSkill

LARGEST = 2.0


@dataclass
class Heard:
    """What one listener made of a round of talk.

    Attributes:
        evidence: e_p of each player, 0 where nothing was said.
        reasoning: the listener's words.
        unread: whether no JSON could be read, even when asked again.
        ignored: entries that named nobody or were no number.
    """

    evidence: dict[int, float]
    reasoning: str = ""
    unread: bool = False
    ignored: int = 0


@dataclass
class SpeechRecord:
    """A speech with its preparation."""

    worksheet: str
    answers: str
    speech: str
    listeners: dict[int, Heard] = field(default_factory=dict)


def kind_of(role: int) -> str:
    """Which guide a role speaks by: "merlin", "evil" or "good"."""
    return "evil" if role >= FIRST_EVIL else "merlin" if ROLES[role] == "merlin" else "good"


def guide_for(role: int, guides: Mapping[str, Guide]) -> GuideSkill:
    """The worksheet of a role, a plain one if there is none for it."""
    kind = kind_of(role)
    guide = guides.get(kind)
    return guide if isinstance(guide, GuideSkill) else GuideSkill(kind, SEED_GUIDES[kind])


def speak(
    writer: Writer, game: Avalon, state: AvalonState, player: int, guide: GuideSkill, belief: Belief, intention: str
) -> SpeechRecord:
    """Answer the worksheet, then speak.

    Args:
        writer: the model.
        game: the rules.
        state: the table; only what the speaker may know goes into the prompts.
        player: who speaks.
        guide: the worksheet.
        belief: public evidence so far.
        intention: the move that the speaker's search intends, in words; may be empty.
    """
    key = key_of(player, len(state.history))
    evil = belief.evil_probability(game.info(state, player))
    thought = "You believe: " + ", ".join(f"player {p} evil {chance:.0%}" for p, chance in enumerate(evil)) + "."
    worksheet = render(
        "worksheet", role=ROLES[state.roles[player]], knowledge=f"You are player {player}.",
        history=game.render(state, player), belief=thought, intention=intention, skill=str(guide),
    )  # fmt: skip
    answers = writer.ask([worksheet], key_of(5, key), max_tokens=300)[0]
    speech = writer.ask([render("speech", worksheet=worksheet, answers=answers)], key_of(6, key), max_tokens=120)[0]
    return SpeechRecord(worksheet, answers, " ".join(speech.split()))


def listen(
    writer: Writer, game: Avalon, state: AvalonState, talk: Sequence[tuple[int, str]], *, what: str = "evil"
) -> dict[int, Heard]:
    """One call a listener for a round of talk, all in one batch; what cannot be read is asked again once, then 0."""
    said = "\n".join(f"player {player}: {speech}" for player, speech in talk)
    everybody = range(game.num_players)
    prompts = [
        render("listen", knowledge=f"You are player {p}, {ROLES[state.roles[p]]}.", history=game.render(state, p),
               talk=said, players=", ".join(map(str, everybody)), what=what)
        for p in everybody
    ]  # fmt: skip
    key = key_of(7, len(state.history), *what.encode())
    answers = writer.ask(prompts, key, max_tokens=200)
    read = [read_evidence(answer, game.num_players) for answer in answers]
    again = [p for p in everybody if read[p].unread]
    if again:
        asked = [f"{prompts[p]}\nEnd with the JSON object." for p in again]
        for p, answer in zip(again, writer.ask(asked, key_of(8, key), max_tokens=200), strict=True):
            read[p] = read_evidence(answer, game.num_players)
    return dict(enumerate(read))


def read_evidence(answer: str, players: int) -> Heard:
    """e_p out of a listener's answer: clamped to ±2, unknown players and words ignored and counted."""
    found = parse_json(answer)
    if found is None:
        return Heard({}, answer, unread=True)
    evidence, ignored = {}, 0
    for name, value in found.items():
        digits = str(name).lower().removeprefix("player").strip()
        if digits.isdecimal() and int(digits) < players and type(value) in (int, float) and np.isfinite(value):
            evidence[int(digits)] = float(np.clip(value, -LARGEST, LARGEST))
        else:
            ignored += 1
    return Heard(evidence, answer, ignored=ignored)


def mean_evidence(listeners: Sequence[Heard]) -> dict[int, float]:
    """e_p of the table: the mean over all listeners; silence about a player counts 0."""
    players = sorted({p for heard in listeners for p in heard.evidence})
    return {p: float(np.mean([heard.evidence.get(p, 0.0) for heard in listeners])) for p in players}


def speech_score(
    speaker: int, roles: Sequence[int], evil_after: Mapping[int, Heard], merlin_after: Mapping[int, Heard]
) -> float:
    """z of a speech, see the head of this file."""
    servants = [p for p, role in enumerate(roles) if role < FIRST_EVIL and p != speaker]
    trust = -float(np.mean([evil_after[p].evidence.get(speaker, 0.0) for p in servants]))
    if ROLES[roles[speaker]] != "merlin":
        return trust
    evil = [p for p, role in enumerate(roles) if role >= FIRST_EVIL]
    suspicion = float(np.mean([merlin_after[p].evidence.get(speaker, 0.0) for p in evil]))
    return min(trust, -suspicion)
