"""The capability probe: what this model can do for this method, measured before it is trusted with it.

code      8 samples of `evaluate_state`: how many pass every check                 unlocks the proposer llm, at 4
ideas     lists of ideas that can be read                                          … with 80 %
choice    rank correlation of 24 edits, as the model ranks them, with what self-play gains by each;   choice, at 0.4
listener  JSON that can be read, and the right sign, on 40 scenes of talk          talk by the model, at 80 and 65 %
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evolvent.methods.strategist.config import StrategistConfig
from evolvent.methods.strategist.games.protocol import Game
from evolvent.methods.strategist.games.rng import key_of
from evolvent.methods.strategist.matches import Seat, play_pairs
from evolvent.methods.strategist.proposers import Replay
from evolvent.methods.strategist.proposers.choice import options, rank
from evolvent.methods.strategist.proposers.llm import Budget, Writer, heading
from evolvent.methods.strategist.proposers.prompting import (
    describe_states,
    key_states,
    parse_code,
    parse_ideas,
    parse_json,
    render,
)
from evolvent.methods.strategist.sandbox.language import SkillError
from evolvent.methods.strategist.skills.code import CodeSkill, check_code
from evolvent.methods.strategist.skills.program import ProgramSkill, seed_program
from evolvent.methods.strategist.tournament import Player, self_play
from evolvent.models.protocol import LanguageModel

logger = logging.getLogger(__name__)

CODE_SAMPLES, CODE_NEEDED = 8, 4
IDEA_PROMPTS, IDEAS_NEEDED = 5, 0.8
CHOICE_NEEDED, GAIN_PAIRS = 0.4, 200
SCENES, JSON_NEEDED, SIGN_NEEDED = 40, 0.8, 0.65


@dataclass(frozen=True)
class Probe:
    """What a model did.

    Attributes:
        model: its name.
        code: valid samples of 8; None where guides are learnt.
        code_errors: why the others failed.
        ideas: share of readable lists.
        choice: Spearman correlation with true gains; None where there is no feature library.
        listener_json: share of readable answers; listener_sign: share of right signs; None outside Avalon.
    """

    model: str
    code: int | None
    code_errors: tuple[str, ...]
    ideas: float
    choice: float | None
    listener_json: float | None = None
    listener_sign: float | None = None

    @property
    def writes(self) -> bool:
        """Whether it can be the paper's proposer."""
        return self.code is not None and self.code >= CODE_NEEDED and self.ideas >= IDEAS_NEEDED

    @property
    def chooses(self) -> bool:
        """Whether it can rank edits."""
        return self.choice is not None and self.choice >= CHOICE_NEEDED

    @property
    def listens(self) -> bool:
        """Whether it can listen to talk."""
        return (self.listener_json or 0) >= JSON_NEEDED and (self.listener_sign or 0) >= SIGN_NEEDED

    @property
    def talks(self) -> bool:
        """Whether it can coach and rehearse dialogue guides."""
        return self.ideas >= IDEAS_NEEDED and self.listens

    @property
    def unlocks(self) -> str:
        """The best proposer that it may be."""
        return "llm" if self.writes else "choice" if self.chooses else "residual"

    def summary(self) -> str:
        """One line."""
        parts = [f"code {self.code} of {CODE_SAMPLES} valid (needs {CODE_NEEDED})"] if self.code is not None else []
        parts.append(f"ideas {self.ideas:.0%} readable")
        if self.choice is not None:
            parts.append(f"ranking of edits Spearman {self.choice:+.2f} (needs {CHOICE_NEEDED})")
        if self.listener_json is not None:
            parts.append(f"listening {self.listener_json:.0%} readable, {self.listener_sign:.0%} right sign")
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """As stored."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Probe:
        """From what `to_json` gave."""
        return cls(**{**row, "code_errors": tuple(row["code_errors"])})


def run_probe(model: LanguageModel, game: Game, args: StrategistConfig) -> Probe:
    """Ask the model everything; minutes on a processor."""
    writer = Writer(model, args, Budget())
    if args.skill_kind == "guide":
        return Probe(model.name, None, (), _ideas(writer, game), None, *_listener(writer))
    valid, errors = _code(writer, game, args)
    ideas = _ideas(writer, game)
    choice = _choice(model, game, args) if len(game.feature_names) else None
    heard = _listener(writer) if game.name == "avalon" else (None, None)
    return Probe(model.name, valid, tuple(errors), ideas, choice, *heard)


def _code(writer: Writer, game: Game, args: StrategistConfig) -> tuple[int, list[str]]:
    prompt = render("seed_code", head=heading(game), thought="Compare scores, hands and what is still to be won.")
    valid, errors = 0, []
    for i in range(CODE_SAMPLES):
        source = parse_code(writer.ask([prompt], key_of(100, i), max_tokens=min(500, args.max_new_tokens))[0])
        try:
            if not source:
                raise SkillError("no function evaluate_state")
            check_code(game, CodeSkill(source), args.limits, set())
            valid += 1
        except SkillError as error:
            errors.append(str(error))
    return valid, errors


def _ideas(writer: Writer, game: Game) -> float:
    conclusions = "The value ignores the cards that are still in hand, and it is too sure early in the game."
    prompt = render("ideas", head=heading(game), skill=str(_seed(game)), conclusions=conclusions, count=3)
    read = [
        len(parse_ideas(writer.ask([prompt], key_of(101, i), max_tokens=200)[0], 3)) == 3 for i in range(IDEA_PROMPTS)
    ]
    return float(np.mean(read))


def _choice(model: LanguageModel, game: Game, args: StrategistConfig) -> float:
    """Spearman correlation between the model's scores of edits and what each gains in self-play against the seed."""
    from scipy.stats import spearmanr

    seed = seed_program(game)
    player = Player.of("seed", seed)
    played = self_play(game, player, args.search, args.limits, 100, key_of(args.seed, 102) >> 1)
    replay = Replay.for_team_zero(game, played)
    edits = options(game, replay)
    rows = key_states(replay, args.feedback_states, "discrepancy", np.random.default_rng(args.seed))
    prompt = render("choice", skill=str(seed), states=describe_states(game, replay, rows))
    scores = rank(model, prompt, [f" {edit}" for edit in edits])
    base = Seat(seed.evaluator(game), args.search)
    gains = [
        play_pairs(game, Seat(seed.apply(edit).evaluator(game), args.search), base, GAIN_PAIRS, 7).mean()
        for edit in edits
    ]
    return float(spearmanr(scores, gains).statistic) if np.ptp(scores) and np.ptp(gains) else 0.0


def _listener(writer: Writer) -> tuple[float, float]:
    """Scenes in which somebody speaks plainly for or against himself or another."""
    prompts, signs = [], []
    for i in range(SCENES):
        bad = i % 2 == 0
        about = i % 5
        speaker = (about + 1) % 5
        said = (
            f"I was on the quest that failed with player {about}, and I am good: player {about} is evil."
            if bad
            else f"Player {about} was on both quests that succeeded. I trust player {about}."
        )
        history = f"Quest 1: team {about} {speaker}, {'1 fail' if bad else '0 fails'}."
        prompts.append(
            render("listen", knowledge="You are player 4's neighbour, a servant of Arthur.", history=history,
                   talk=f"player {speaker}: {said}", players="0, 1, 2, 3, 4", what="evil")
        )  # fmt: skip
        signs.append((about, 1 if bad else -1))
    readable, right = 0, 0
    answers = writer.ask(prompts, key_of(103), max_tokens=120)
    for answer, (about, sign) in zip(answers, signs, strict=True):
        found = parse_json(answer)
        value = (found or {}).get(str(about), (found or {}).get(about))
        readable += found is not None
        right += isinstance(value, int | float) and value * sign > 0
    return readable / SCENES, right / SCENES


def _seed(game: Game) -> ProgramSkill | str:
    return seed_program(game) if len(game.feature_names) else "0"
