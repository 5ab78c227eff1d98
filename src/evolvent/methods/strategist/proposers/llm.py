"""`llm`: the paper's prompts. Reflect on key states, draw ideas, carry out one idea at a time, repair what fails."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from evolvent.errors import EvolventError, ModelError, PromptErrors
from evolvent.methods.strategist.config import StrategistConfig
from evolvent.methods.strategist.games.protocol import Game
from evolvent.methods.strategist.games.rng import key_of
from evolvent.methods.strategist.proposers import Draft, Replay
from evolvent.methods.strategist.proposers.prompting import (
    describe_states,
    key_states,
    parse_code,
    parse_ideas,
    render,
)
from evolvent.methods.strategist.sandbox.language import SkillError, check_source
from evolvent.methods.strategist.skills import CodeSkill, Skill
from evolvent.methods.strategist.skills.code import check_code
from evolvent.methods.strategist.tree import Node
from evolvent.models.protocol import LanguageModel, Prompt, Sampling

logger = logging.getLogger(__name__)

RULES = {
    "gops": (
        "The game is GOPS: two hands and a deck of prizes hold 1 to {n}. Each round a prize is drawn and both players "
        "bid a card at once; the higher bid wins the prize and what ties left before; a tie {ties}. Most points win."
    ),
    "avalon": (
        "The game is The Resistance: Avalon with {n} players. A leader proposes a team, all vote, the team goes on a "
        "quest; evil players may fail it{needed}. Three successful quests win for good unless the Assassin names "
        "Merlin; three failed quests{rejected} win for evil."
    ),
}
SIGNATURES = {
    "gops": "`values` is a tuple (v0, v1): the points that player 0 and player 1 are expected to have at the end.",
    "avalon": "`values` is a dict from each player to the probability in [0, 1] that this player's side wins.",
}


class Budget:
    """Prompts and tokens that were spent, and whether any are left."""

    def __init__(self, most_calls: int | None = None, most_tokens: int | None = None) -> None:
        self.most_calls, self.most_tokens = most_calls, most_tokens
        self.calls, self.tokens = 0, 0

    @property
    def spent(self) -> bool:
        """Whether no prompt or no token is left."""
        return (self.most_calls is not None and self.calls >= self.most_calls) or (
            self.most_tokens is not None and self.tokens >= self.most_tokens
        )


class Writer:
    """A model that is asked with a seed for each prompt and counted."""

    def __init__(self, model: LanguageModel, args: StrategistConfig, budget: Budget) -> None:
        self.model, self.args, self.budget = model, args, budget

    def ask(self, prompts: Sequence[Prompt], key: int, *, max_tokens: int | None = None) -> list[str]:
        """One answer a prompt; a prompt that cannot be answered gives an empty one."""
        answers, failures = self._asked(prompts, key, max_tokens)
        for error in failures.values():
            logger.warning("%s", error)
        return answers

    def ask_fitting(self, versions: Iterable[str], key: int, *, max_tokens: int) -> str:
        """The answer to the first version of a prompt, each shorter than the one before, that the model has room for.

        Raises:
            ModelError: not even the last one fits.
        """
        for version in versions:
            answers, failures = self._asked([version], key, max_tokens)
            if not failures:
                return answers[0]
            if "context" not in str(failures[0]):
                logger.warning("%s", failures[0])
                return ""
        raise ModelError(f"{self.model.name}: the shortest version of a prompt does not fit: {failures[0]}")

    def _asked(
        self, prompts: Sequence[Prompt], key: int, max_tokens: int | None
    ) -> tuple[list[str], Mapping[int, EvolventError]]:
        sampling = Sampling(
            max_tokens=min(max_tokens or self.args.max_new_tokens, self.args.max_new_tokens),
            temperature=self.args.llm_temperature,
            seed=key_of(self.args.seed, key) >> 33,
        )
        chats: list[Prompt] = [[{"role": "user", "content": p}] if isinstance(p, str) else p for p in prompts]
        self.budget.calls += len(chats)
        try:
            answers, failures = self.model.generate(chats, sampling), {}
        except PromptErrors as error:
            answers, failures = [result or [] for result in error.results], error.failures
        self.budget.tokens += sum(len(c.token_log_probs) for answer in answers for c in answer)
        return [answer[0].text if answer else "" for answer in answers], failures


class LLMProposer:
    """Code skills by a language model.

    Args:
        model: asked in chats.
        args: of the run.
        budget: counts prompts.
    """

    def __init__(self, model: LanguageModel, args: StrategistConfig, budget: Budget) -> None:
        self.name = f"llm ({model.name})"
        self.writer, self.args = Writer(model, args, budget), args
        self.shapes: set[str] = set()

    def remember(self, skills: Iterable[Skill | None]) -> None:
        """Skills that exist, which no new one may repeat."""
        self.shapes = {check_source(skill.source).shape for skill in skills if isinstance(skill, CodeSkill)}

    def seeds(self, game: Game, count: int, random: np.random.Generator) -> list[Skill]:
        """Thought, then code; seeds that fail their checks are repaired or left out.

        Raises:
            SkillError: none of them works.
        """
        head = heading(game)
        thoughts = [
            self.writer.ask([render("seed_thought", head=head)], key_of(10, i), max_tokens=600)[0] for i in range(count)
        ]
        prompts = [render("seed_code", head=head, thought=thought) for thought in thoughts]
        made = self._checked(game, prompts, [f"seed-{i}" for i in range(count)])
        skills = [skill for skill in made if not isinstance(skill, str)]
        if not skills:
            raise SkillError(
                f"{self.name}: none of {count} seed skills can be used; the last: {made[-1]}\n"
                "See what the model can do with: evolvent strategist probe"
            )
        return skills

    def ideas(self, game: Game, node: Node, replay: Replay, count: int, random: np.random.Generator) -> list[Draft]:
        """Prompt A: conclusions from key states; prompt B: ideas. None found is asked again once."""
        head, skill = heading(game), str(node.skill)
        if self.args.feedback == "critic":
            versions = [render("critic", head=head, skill=skill)]
        else:
            rows = key_states(replay, self.args.feedback_states, self.args.feedback, random)
            assert isinstance(node.skill, CodeSkill)
            with node.skill.evaluator(game, self.args.limits) as evaluate:
                _, notes = evaluate.with_notes(replay.states[rows])
            told = [  # what does not fit is left out: states first, then notes; never the skill
                describe_states(game, replay, rows[:most], notes if told_notes else ())
                for most, told_notes in [*((n, True) for n in range(len(rows), 0, -1)), (1, False)]
            ]
            versions = [render("reflect", head=head, skill=skill, states=states) for states in told]
        key = int(random.integers(1 << 31))
        conclusions = self.writer.ask_fitting(versions, key_of(1, key), max_tokens=800)
        asked = render("ideas", head=head, skill=skill, conclusions=conclusions, count=count)
        for attempt in range(2):
            found = parse_ideas(self.writer.ask([asked], key_of(2, key, attempt), max_tokens=800)[0], count)
            if found:
                return [Draft(text) for text in found]
        logger.warning("%s had no idea in the form that was asked for", self.name)
        return []

    def implement(
        self, game: Game, nodes: Sequence[Node], drafts: Sequence[Draft], keys: Sequence[str]
    ) -> list[Skill | str]:
        """Prompt C for all of them in one batch; prompt D for those that fail their checks."""
        head = heading(game)
        prompts = []
        for node, draft, key in zip(nodes, drafts, keys, strict=True):
            if self.args.improvement == "bfs-thought":
                asked = render("rethink", head=head, skill=str(node.skill), idea=draft.text)
                thought = self.writer.ask([asked], key_of(3, *key.encode()), max_tokens=600)[0]
                prompts.append(render("seed_code", head=head, thought=thought))
            else:
                prompts.append(render("implement", head=head, skill=str(node.skill), idea=draft.text))
        return self._checked(game, prompts, keys)

    def _checked(self, game: Game, prompts: Sequence[str], keys: Sequence[str]) -> list[Skill | str]:
        made: list[Skill | str] = [""] * len(prompts)
        asked = dict(enumerate(prompts))
        for attempt in range(self.args.repair_attempts + 1):
            if not asked:
                break
            batch_key = key_of(4, attempt, *"".join(keys).encode())
            answers = self.writer.ask(list(asked.values()), batch_key)
            again = {}
            for i, answer in zip(asked, answers, strict=True):
                source = parse_code(answer)
                try:
                    if not source:
                        raise SkillError("there is no function evaluate_state in the answer")
                    checked = check_code(game, CodeSkill(source), self.args.limits, self.shapes)
                except SkillError as error:
                    made[i] = str(error)
                    again[i] = render("repair", prompt=prompts[i], answer=source or answer[:2000], error=str(error))
                else:
                    self.shapes.add(checked.shape)
                    made[i] = CodeSkill(source)
            asked = again
        return made


def heading(game: Game) -> str:
    """What all prompts about a game begin with."""
    ties = "carries over" if game.settings.get("ties") == "carry" else "loses it"
    count = game.settings.get("num_cards", game.num_players)
    rejected = ", or five rejected teams in a row," if game.settings.get("fifth") == "evil_wins" else ""
    needed = ", the fourth with two fails only" if game.num_players >= 7 else ""
    rules = RULES.get(game.name, f"The game is {game.name}.").format(
        n=count, ties=ties, rejected=rejected, needed=needed
    )
    fields = ", ".join(game.view(game.encode([game.initial(0)])[0]))
    signature = SIGNATURES.get(game.name, "`values` is a tuple with the expected return of each player.")
    return render("head", rules=rules, fields=fields, signature=signature)
