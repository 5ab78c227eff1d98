"""Strategist: skills for games by self-play search and reflection.

Light, Cai, Chen, Wang, Chen, Cheng, Yue, Hu, "Strategist: Self-improvement of LLM Decision Making via Bi-Level Tree
Search", arXiv 2408.10635. High level: ideas with credit, applied one at a time to skills of a scored tree. Low level:
tree search turns a skill into moves, and its self-play into feedback. What differs from the paper is in
docs/strategist.md.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evolvent.data.files import write_json, write_jsonl
from evolvent.errors import ConfigError
from evolvent.evaluation.significance import bootstrap_interval
from evolvent.methods.strategist.agent import AgentFile, StrategistAgent, write_agent
from evolvent.methods.strategist.belief_tables import GameRecord, log_line, read_logs, record_of
from evolvent.methods.strategist.config import StrategistConfig
from evolvent.methods.strategist.dialogue.rehearsal import SILENCE, Rehearsal
from evolvent.methods.strategist.executors import Serial, make_executor
from evolvent.methods.strategist.exploitability import check_exploitable, exploitability
from evolvent.methods.strategist.games.avalon import Avalon
from evolvent.methods.strategist.games.gops import Gops
from evolvent.methods.strategist.games.protocol import Game
from evolvent.methods.strategist.games.registry import make_game
from evolvent.methods.strategist.games.rng import key_of
from evolvent.methods.strategist.ideas import Idea
from evolvent.methods.strategist.matches import pair_seeds, play, play_pairs
from evolvent.methods.strategist.probe import Probe
from evolvent.methods.strategist.proposers import Draft, Proposer, Replay
from evolvent.methods.strategist.proposers.choosing import choose_proposer
from evolvent.methods.strategist.proposers.journal import Journal
from evolvent.methods.strategist.proposers.llm import Budget, LLMProposer
from evolvent.methods.strategist.ratings import Match, Ratings
from evolvent.methods.strategist.report import build_metrics, build_report
from evolvent.methods.strategist.rounds import Memory
from evolvent.methods.strategist.sandbox.language import SkillError, edit_share
from evolvent.methods.strategist.sandbox.workers import FORBIDDEN
from evolvent.methods.strategist.skills import CodeSkill, ProgramSkill, Skill
from evolvent.methods.strategist.tournament import (
    EVALUATORS,
    Job,
    Player,
    Tournament,
    game_json,
    play_job,
    seat_of,
    self_play,
)
from evolvent.methods.strategist.tree import Node, StrategyTree
from evolvent.models.protocol import LanguageModel
from evolvent.runs.folder import Run, ShardedJsonl

logger = logging.getLogger(__name__)
OnProgress = Callable[[str, int, int, str], None]

IDEAS, IMPLEMENT, DEALS, SELF_PLAY, TRIAL, FINAL = range(6)  # purposes of random draws
TRIAL_PAIRS = 64  # game pairs that decide whether recalibrated constants are kept
REWRITE = 0.6  # share of changed syntax beyond which an implementation changed more than its idea
EMPTY_ROUNDS = 3  # without one usable skill, after which the run gives up


class SkillFailedError(SkillError):
    """A skill failed in the final games; `node` is its id."""

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(reason)
        self.node = node


@dataclass(frozen=True)
class StrategistResult:
    """What a run leaves.

    Attributes:
        best: the skill with the highest rating.
        node: its place in the tree.
        proposer: who had the ideas: "residual (no LLM)", "llm (NAME)", …
        metrics: flat, as in metrics.json.
        agent: folder that :meth:`StrategistAgent.from_pretrained` loads.
        report_path: the HTML report.
        output_dir: the run folder.
    """

    best: Skill
    node: Node
    proposer: str
    metrics: dict[str, Any]
    agent: Path
    report_path: Path
    output_dir: Path

    def load(self, budget: int | None = None) -> StrategistAgent:
        """The best skill as an agent."""
        return StrategistAgent.from_pretrained(self.agent, budget=budget)


class Strategist:
    """Learn skills for a game from self-play alone.

    Args:
        model: who writes skills and ideas: "embedded", a folder, hub id, endpoint or loaded model; None: nobody, and
            ideas come from regression.
        game: "gops", "avalon", "openspiel:NAME", or a game from :func:`make_game`.
        args: every setting.
        on_progress: called with (stage, done, total, note).

    Raises:
        ConfigError: a setting does not fit the game or the model; the run folder holds another run.

    Example:
        >>> from evolvent import Strategist, StrategistConfig, make_game
        >>> args = StrategistConfig(output_dir="runs/gops", evolutions=2)
        >>> result = Strategist(None, make_game("gops", num_cards=6), args=args).run()  # doctest: +SKIP
        >>> print(result.best)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | Path | LanguageModel | None,
        game: str | Game,
        *,
        args: StrategistConfig,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.model = model
        self.game: Game = make_game(game) if isinstance(game, str) else game
        self.args = args
        self.on_progress: OnProgress = on_progress or (lambda *_: None)
        if args.exploitability_weight:
            check_exploitable(self.game)
        if args.skill_kind == "guide" and not isinstance(self.game, Avalon):
            raise ConfigError(f'skill_kind="guide": nobody talks in {self.game.name}; guides are learnt in avalon')
        self.selection = args.search.resolved(isinstance(self.game, Avalon))
        self.memory = Memory()
        self.budget = Budget(args.max_llm_calls, args.max_llm_tokens)
        self.probe: Probe | None = None
        self.games: list[GameRecord] = []  # of Avalon, the best skill at every seat, on deals that chose nothing

    # ------------------------------------------------------------------------------------------ the method

    def run(self, *, resume: bool = True) -> StrategistResult:
        """All of it; continues where a run in the same folder stopped.

        Raises:
            SkillError: no skill could be made in three rounds; what there is stays in the run folder.
        """
        args = self.args
        opened = Run.open(
            args.output_dir, method="strategist", config=args, resume=resume, on_config_change=args.on_config_change
        )
        with opened as self.folder, make_executor(args.executor, args.workers) as self.executor, EVALUATORS:
            self.choose()
            self.seeds()
            for number in range(1, args.evolutions + 1):
                if self.budget.spent:
                    logger.warning(
                        "the budget is spent after %d rounds: %d prompts, %d tokens", number - 1, self.budget.calls,
                        self.budget.tokens,
                    )  # fmt: skip
                    break
                self.evolve(number)
                self._still_worth_it(number)
            self.evaluate()
            return self.report()

    # -------------------------------------------------------------------------------------------- stages

    def choose(self) -> Proposer:
        """Who has ideas: with "auto", the model if the probe says that it can, else regression, by its name."""
        self.proposer, self.probe = choose_proposer(self.folder, self.model, self.game, self.args, self.budget)
        self.rehearsal: Rehearsal | None = getattr(self.proposer, "rehearsal", None)
        self.folder.event("proposer", name=self.proposer.name, probe=self.probe.summary() if self.probe else None)
        logger.info("proposer: %s", self.proposer.name)
        return self.proposer

    def seeds(self) -> list[Node]:
        """The first skills play each other and the anchors."""

        def compute(folder: Path) -> None:
            random = self._random(0, IMPLEMENT)
            with self._journal(folder):
                for skill in self.proposer.seeds(self.game, self.args.num_seeds, random):
                    self.memory.tree.add(skill)
                self._tournament(folder, 0, list(self.memory.tree.nodes.values()), [])
            self._some_alive()
            self.memory.save(folder, self.budget)

        self._stage("seeds", compute)
        return self.memory.tree.alive

    def evolve(self, number: int) -> list[Node]:
        """One round: file ideas, apply some of them, let the new skills play, give credit.

        Returns:
            The new nodes.
        """
        before = set(self.memory.tree.nodes)

        def compute(folder: Path) -> None:
            with self._journal(folder):
                self.file_ideas(number)
                made = self.implement(number)
                parents = {n.parent: self.memory.tree[n.parent] for n in made if n.parent is not None}
                rated = self._tournament(folder, number, [n for n in made if n.failed is None], list(parents.values()))
            self._some_alive()
            self.give_credit(made, rated)
            self.memory.save(folder, self.budget)

        self._stage(f"evolution-{number:02d}", compute)
        return [node for id, node in self.memory.tree.nodes.items() if id not in before]

    def file_ideas(self, number: int) -> list[Idea]:
        """σ ← select_strategy(T); reflect on its key states; file ideas with z = 0, n = 0."""
        random, args = self._random(number, IDEAS), self.args
        filed = []
        for _ in range(args.ideas_per_evolution):
            node = self._select_strategy(random, number)
            replay = self.memory.replay_for(node)
            for draft in self.proposer.ideas(self.game, node, replay, args.ideas_per_prompt, random):
                idea = self.memory.queue.add(
                    draft.text, draft.edit, source=node.id, evolution=number, proposer=self.proposer.name,
                    prior=args.idea_prior,
                )  # fmt: skip
                filed += [idea] if idea is not None else []
        return filed

    def implement(self, number: int) -> list[Node]:
        """σ ← select_strategy, d ← select_idea; the skill with only d applied. A failure counts, but not against d."""
        random, args, tree, queue = self._random(number, IMPLEMENT), self.args, self.memory.tree, self.memory.queue
        chosen: list[tuple[Node, Idea]] = []
        for _ in range(args.strategies_per_evolution):
            node = self._select_strategy(random, number)
            tried = [n.idea for n in tree.nodes.values() if n.parent == node.id and n.idea is not None]
            tried += [d.id for parent, d in chosen if parent.id == node.id]
            if args.improvement != "strategist":  # the published searches have no queue: this round's ideas, once each
                tried += [
                    d.id for d in queue.ideas.values() if d.evolution != number or d.id in {c.id for _, c in chosen}
                ]
            idea = queue.select(random, c=args.ucb_c, temperature=args.idea_temperature, but=tried)
            if idea is not None:
                chosen.append((node, idea))
        drafts = [Draft(idea.text, idea.edit) for _, idea in chosen]
        keys = [f"{number}-{slot}" for slot in range(len(chosen))]
        skills = self.proposer.implement(self.game, [node for node, _ in chosen], drafts, keys) if chosen else []
        made = []
        for slot, ((parent, idea), skill) in enumerate(zip(chosen, skills, strict=True)):
            fields: dict[str, Any] = {"evolution": number, "proposer": self.proposer.name}
            if isinstance(skill, str):
                made.append(tree.add(None, parent=parent, idea=idea.id, failed=skill, **fields))
                continue
            skill, notes = self._calibrated(skill, parent, key_of(number, slot))
            made.append(tree.add(skill, parent=parent, idea=idea.id, notes=notes, **fields))
        return made

    def give_credit(self, made: Sequence[Node], rated: Ratings | None) -> None:
        """z_d moves by the rating gained over the parent, in units of the ratings' spread."""
        played = [n for n in made if n.failed is None]
        scores = [n.score for n in played] + [self.memory.tree[n.parent].score for n in played if n.parent]
        floor = float(np.sqrt(np.mean([rated.absolute_error(n.id) ** 2 for n in played]))) if played and rated else 0.0
        spread = max(float(np.std(scores)) if scores else 0.0, floor, 1e-9)
        for node in played:
            assert node.parent is not None
            assert node.idea is not None
            self.memory.queue.credit(node.idea, (node.score - self.memory.tree[node.parent].score) / spread)

    def evaluate(self) -> dict[str, Any]:
        """The best skill against the seed, one playout a leaf and random play, on deals that chose nothing.

        A skill that fails on those deals is out, and the next best is measured.
        """
        tree = self.memory.tree

        def compute(folder: Path) -> None:
            failed: dict[str, str] = {}
            while True:
                try:
                    self._measure(folder, self._some_alive().best)
                    break
                except SkillFailedError as error:
                    failed[error.node] = str(error)
                    self._fail(tree[error.node], str(error))
            if failed:
                write_json(folder / "failed.json", failed)

        inputs = {"best": tree.best.id, "games": self.args.final_games, "digest": self.memory.digest}
        self.final: dict[str, Any] = self.folder.stage("final", inputs, compute, load=self._load_final)
        return self.final

    def report(self) -> StrategistResult:
        """Skills, ideas, ratings and the page; then the best skill as an agent."""
        best, folder = self.memory.tree.best, self.folder
        self.memory.write(folder.folder)
        agent = AgentFile(
            game=self.game.name, settings=dict(self.game.settings), skill=_skill(best).to_json(),
            proposer=best.proposer, search=vars(self.args.search), sandbox=self.args.sandbox, fuel=self.args.fuel,
            worker_memory_mb=self.args.worker_memory_mb, worker_timeout_s=self.args.worker_timeout_s,
            lineage=[_step(node, self.memory.queue.ideas) for node in self.memory.tree.lineage(best)],
        )  # fmt: skip
        write_agent(folder.path("best"), agent)
        metrics = build_metrics(self)
        folder.write_metrics(metrics)
        page = build_report(self, metrics).save(folder.path("report.html"))
        return StrategistResult(
            _skill(best), best, self.proposer.name, metrics, folder.path("best"), page, folder.folder
        )

    # --------------------------------------------------------------------------------------------- parts

    def _measure(self, folder: Path, best: Node) -> None:
        """The final games of a skill, into the folder of their stage."""
        args, tree = self.args, self.memory.tree
        found = {}
        ours = Player.of(best.id, _skill(best))
        anchors = (SILENCE,) if self.rehearsal else ("rollout", "random")
        others = {name: Player(name, name) for name in anchors}
        if tree["s0"].failed is None:
            others = {"seed": Player.of("s0", _skill(tree["s0"])), **others}
        for name, player in others.items():
            for who, measured in (("best", ours), ("seed", others.get("seed", ours))):
                if measured.skill == player.skill or (who == "seed" and "seed" not in others):
                    continue
                with self._journal(folder):
                    found[f"{who}-vs-{name}"] = self._margins(measured, player)
            self.on_progress("final games", len(found), 5, "")
        (folder / "margins.json").write_text(json.dumps(found))
        if isinstance(self.game, Avalon) and not self.rehearsal:
            games, seating = args.final_games, np.zeros((args.final_games, self.game.num_players), np.int64)
            seeds = pair_seeds(key_of(args.seed, FINAL, 1) >> 1, games)
            try:
                played = play(self.game, [seat_of(self.game, ours, args.search, args.limits)], seating, seeds)
            except SkillError as error:
                raise SkillFailedError(best.id, str(error)) from error
            write_jsonl(folder / "games.jsonl", [log_line(record_of(final)) for final in played.finals])

    def _margins(self, first: Player, second: Player) -> list[list[float]]:
        """Margins on fresh deals, (final_games, 2).

        Raises:
            SkillFailedError: says which of the two failed.
        """
        args, seed = self.args, key_of(self.args.seed, FINAL) >> 1
        if self.rehearsal:
            ours, theirs = (self.rehearsal.scores(p.skill, args.final_games, seed) for p in (first, second))
            scored: list[list[float]] = (ours - theirs).tolist()
            return scored
        job = Job(*game_json(self.game), first, second, args.search, args.limits, args.final_games, seed)
        margins, failure = play_job(job)
        if margins is None:
            node, _, reason = failure.partition(": ")
            raise SkillFailedError(node, reason)
        return margins

    def _load_final(self, folder: Path) -> dict[str, Any]:
        if (folder / "failed.json").is_file():
            for id, reason in json.loads((folder / "failed.json").read_text()).items():
                self.memory.tree[id].failed = reason
        if (folder / "games.jsonl").is_file():
            self.games = list(read_logs(folder / "games.jsonl"))
        found: dict[str, Any] = json.loads((folder / "margins.json").read_text())
        return found

    def _select_strategy(self, random: np.random.Generator, number: int) -> Node:
        tree, args = self.memory.tree, self.args
        kind = args.improvement
        if kind == "line":
            return max((n for n in tree.alive), key=lambda n: int(n.id[1:]))
        if kind == "greedy":
            last = [n for n in tree.alive if n.evolution == max(m.evolution for m in tree.alive)]
            return max(last, key=lambda n: n.score)
        topk = 1 if kind in ("bfs", "bfs-thought") else args.strategy_topk
        return tree.select(random, topk=topk, temperature=args.strategy_temperature)

    def _calibrated(self, skill: Skill, parent: Node, key: int) -> tuple[Skill, list[str]]:
        """Constants refitted on the shared replay, kept if self-play agrees."""
        notes = []
        if isinstance(skill, CodeSkill) and isinstance(parent.skill, CodeSkill):
            share = edit_share(parent.skill.source, skill.source)
            notes += [f"rewrite: {share:.0%} of the syntax changed"] if share > REWRITE else []
        if not self.args.calibrate or self.rehearsal:
            return skill, notes
        replay, args = self.memory.replay, self.args
        target = replay.target(args.outcome_share)
        try:
            if isinstance(skill, ProgramSkill):
                fitted: Skill = skill.refit(self.game, replay.states, target, ridge=args.ridge_lambda)
            elif isinstance(skill, CodeSkill):
                fitted = skill.recalibrated(
                    self.game, replay.states, target, ridge=args.ridge_lambda, limits=args.limits
                )
            else:
                return skill, notes
            if fitted == skill:
                return skill, notes
            players = [Player.of("fitted", fitted), Player.of("written", skill)]
            seats = [seat_of(self.game, p, args.search, args.limits) for p in players]
            margins = play_pairs(self.game, seats[0], seats[1], TRIAL_PAIRS, key_of(args.seed, TRIAL, key) >> 1)
        except SkillError as error:
            logger.info("not recalibrated: %s", error)
            return skill, notes
        if margins.mean() <= 0:
            return skill, [*notes, "recalibration refused by self-play"]
        return fitted, [*notes, f"recalibrated, {margins.mean():+.2f} in self-play"]

    def _tournament(self, folder: Path, number: int, new: Sequence[Node], parents: Sequence[Node]) -> Ratings | None:
        """Evaluate new skills together with their parents and the anchors, rate everybody, record self-play."""
        args, tree = self.args, self.memory.tree
        if not new:
            return None
        others = {n.id: Player.of(n.id, _skill(n)) for n in parents}
        if number and "seed" in args.anchors:
            others.setdefault("s0", Player.of("s0", _skill(tree["s0"])))
        if number and "champion" in args.anchors:
            champion = next(n for n in tree.alive if n.evolution < number)
            others.setdefault(champion.id, Player.of(champion.id, _skill(champion)))
        if "rollout" in args.anchors or not others:
            anchor = SILENCE if self.rehearsal else "rollout"
            others.setdefault(anchor, Player(anchor, anchor))
        name = f"round {number}" if number else "seeds"
        where: dict[str, Any] = {"log": ShardedJsonl(folder / "matches.jsonl"), "executor": self.executor}
        if self.rehearsal:
            where = {"log": None, "executor": Serial(), "play_job": self.rehearsal.play}
        tournament = Tournament(
            self.game, args.search, args.limits, args.race, args.rating_l2, key_of(args.seed, DEALS, number),
            on_progress=lambda d, t: self.on_progress(name, d, t, ""), **where,
        )  # fmt: skip
        players = [Player.of(n.id, _skill(n)) for n in new]
        matches, ratings = tournament.play(players, list(others.values()), self.memory.matches)
        self.memory.matches += matches
        self._rate(ratings, tournament.failures)
        for node in new:
            if node.failed is None and not self.rehearsal:
                try:
                    played = self_play(
                        self.game, Player.of(node.id, _skill(node)), args.search, args.limits, args.feedback_games,
                        key_of(args.seed, SELF_PLAY, int(node.id[1:])) >> 1,
                    )  # fmt: skip
                except SkillError as error:
                    self._fail(node, str(error))
                else:
                    self.memory.replays[node.id] = Replay.for_team_zero(self.game, played)
        self.on_progress(name, 1, 1, "")
        return ratings

    def _rate(self, ratings: Ratings, failures: Mapping[str, str]) -> None:
        for node in self.memory.tree.nodes.values():
            if node.id in failures:
                self._fail(node, failures[node.id])
            elif node.id in ratings.players:
                node.score, node.error = ratings[node.id], ratings.error(node.id)
                node.score -= self.args.exploitability_weight * self._exploitability(node)

    def _fail(self, node: Node, reason: str) -> None:
        node.failed = reason
        EVALUATORS.drop()  # its worker may be gone
        if FORBIDDEN in reason:
            self.folder.event("security", node=node.id, reason=reason)
            logger.warning("security: %s: %s", node.id, reason)

    def _some_alive(self) -> StrategyTree:
        tree = self.memory.tree
        if not tree.alive:
            raise SkillError(
                f"every skill has failed (last: {list(tree.nodes.values())[-1].failed}); see what the model can do "
                "with: evolvent strategist probe, or set proposer: residual"
            )
        return tree

    def _exploitability(self, node: Node) -> float:
        if not self.args.exploitability_weight:
            return 0.0
        known = self.memory.exploitabilities
        if node.id not in known:
            assert isinstance(self.game, Gops)
            seat = seat_of(self.game, Player.of(node.id, _skill(node)), self.args.search, self.args.limits)
            known[node.id] = exploitability(self.game, seat, seed=self.args.seed).value
        return known[node.id]

    def _stage(self, name: str, compute: Callable[[Path], None]) -> None:
        """A stage whose result is the memory after it; its input is the memory before."""
        where = {"output_dir", "evolutions", "final_games", "executor", "workers", "on_config_change"}
        inputs = {
            "before": self.memory.digest,
            "game": [self.game.name, dict(self.game.settings)],
            "proposer": self.proposer.name,
            "args": self.args.model_dump(mode="json", exclude=where),
        }
        self.folder.stage(name, inputs, compute, load=lambda folder: self.memory.load(folder, self.budget))

    def _journal(self, folder: Path) -> Journal:
        """Answers of the model that were given before a kill are given again, and the tree's skills are known to it."""
        if isinstance(self.proposer, LLMProposer):
            self.proposer.remember(n.skill for n in self.memory.tree.nodes.values())
        return Journal(self.proposer, ShardedJsonl(folder / "calls.jsonl"))

    def _random(self, number: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.args.seed, number, purpose])

    def _still_worth_it(self, number: int) -> None:
        tree = self.memory.tree
        last = [n for n in tree.nodes.values() if n.evolution > number - EMPTY_ROUNDS and n.evolution > 0]
        if number >= EMPTY_ROUNDS and all(n.failed is not None for n in last):
            reason = last[-1].failed if last else "there was no idea to apply"
            raise SkillError(
                f"no usable skill in {EMPTY_ROUNDS} rounds (last: {reason}). What there is stays in "
                f"{self.args.output_dir}; "
                "see what the model can do with: evolvent strategist probe, or set proposer: residual"
            )

    @property
    def replay(self) -> Replay:
        """Self-play of all skills."""
        return self.memory.replay

    def interval(self, key: str) -> tuple[float, float, float]:
        """Mean final margin and its 95 % interval over game pairs."""
        i = bootstrap_interval(np.array(self.final[key]).mean(1))
        return i.mean, i.low, i.high

    @property
    def matches(self) -> list[Match]:
        """All matches of the tournaments."""
        return self.memory.matches


def _skill(node: Node) -> Skill:
    assert node.skill is not None
    return node.skill


def _step(node: Node, ideas: Mapping[str, Idea]) -> dict[str, Any]:
    return {"id": node.id, "idea": ideas[node.idea].text if node.idea else None, "proposer": node.proposer,
            "score": round(node.score, 6), "notes": node.notes}  # fmt: skip
