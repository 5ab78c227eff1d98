"""SemiEvol: semi-supervised fine-tuning by propagation, collaboration, selection and evolution.

Luo et al., "SemiEvol: Semi-supervised Fine-tuning for LLM Adaptation", arXiv 2410.14745. The stages below are the
paper's, in its order; what differs from it, and the measurements behind that, is in docs/semievol.md.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evolvent.data.overlap import GateReport, data_gate
from evolvent.data.readers import Rows, as_questions
from evolvent.data.records import Question
from evolvent.data.tasks import ChoiceTask, Task
from evolvent.errors import ConfigError, DataError, NothingSelectedError
from evolvent.evaluation.evaluate import Evaluation, evaluate
from evolvent.evaluation.guarantee import CertifiedThreshold, certified_threshold
from evolvent.methods.semievol import pool as pool_table
from evolvent.methods.semievol.collaboration import Consensus, Response, ask, merge, prefix_order, same_prompts
from evolvent.methods.semievol.config import InferenceConfiguration, SemiEvolConfig
from evolvent.methods.semievol.evolution import (
    Verdict,
    accept_or_roll_back,
    evolution_examples,
    evolution_training,
)
from evolvent.methods.semievol.gating import (
    VoterWeights,
    answer_log_prior,
    cross_fit_folds,
    require_useful_warmup,
    weigh_voters,
)
from evolvent.methods.semievol.justification import JudgeTrial, justify, try_judge
from evolvent.methods.semievol.propagation import (
    answer_room,
    build_retriever,
    fitting_demonstrations,
    nearest_labeled,
    supervised_examples,
    warmup_training,
)
from evolvent.methods.semievol.report import build_metrics, build_report
from evolvent.methods.semievol.selection import Confidence, Selection, select, uncertainty
from evolvent.methods.semievol.storage import SemiEvolStages
from evolvent.models.protocol import LanguageModel
from evolvent.models.resolve import ENDPOINT_PREFIX
from evolvent.runs.lineage import Lineage

logger = logging.getLogger(__name__)

OnProgress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class SemiEvolResult:
    """What a run leaves.

    Attributes:
        model: reference of the resulting model: a checkpoint folder, or `endpoint:NAME@URL`.
        accepted: whether the evolved model was kept; if not, `model` is the warmed-up one.
        metrics: flat, as in metrics.json.
        selected: id -> pseudo-label of the rows it learnt from.
        report_path: the HTML report.
        output_dir: the run folder.
    """

    model: str
    accepted: bool
    metrics: dict[str, Any]
    selected: dict[str, str]
    report_path: Path
    output_dir: Path

    def load(self) -> LanguageModel:
        """The resulting model, loaded."""
        from evolvent.models.resolve import load

        return load(self.model)


class SemiEvol:
    """Fine-tune from few labelled and many unlabelled rows.

    Args:
        model: "embedded", a folder, hub id, GGUF, `endpoint:NAME@URL`, or a loaded model.
        labeled: rows with answers: a file, rows, or questions.
        unlabeled: rows whose answers, if there are any, are hidden from the method.
        args: every setting.
        task: what a question looks like to the model; default multiple choice.
        eval_dataset: labelled test rows; without them the report has no test column.
        on_progress: called with (stage, done, total, note).

    Raises:
        DataError: no usable rows; ConfigError: the run folder holds another run; ModelError: the model cannot do this.

    Example:
        >>> from evolvent import SemiEvol, SemiEvolConfig, samples
        >>> news = samples.bbc_news(labeled=20, unlabeled=40, test=20, seed=0)
        >>> method = SemiEvol("embedded", news.labeled, news.unlabeled, task=news.task,
        ...                   args=SemiEvolConfig(output_dir="runs/news"))  # doctest: +SKIP
        >>> method.run().model  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | Path | LanguageModel,
        labeled: Rows,
        unlabeled: Rows,
        *,
        args: SemiEvolConfig,
        task: Task | None = None,
        eval_dataset: Rows | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.args = args
        given = [as_questions(labeled, labeled=True), as_questions(unlabeled, labeled=False)]
        for name, rows in zip(("labeled", "unlabeled"), given, strict=True):
            if not rows:
                raise DataError(f"{name}: no rows; SemiEvol needs both labelled and unlabelled rows")
        given.append(as_questions(eval_dataset, labeled=True) if eval_dataset is not None else [])
        chosen: Task = ChoiceTask() if task is None else task
        self.task: Task = chosen.fitted([question for rows in given for question in rows])
        self._given = [self.task.completed(rows) for rows in given]
        self.on_progress: OnProgress = on_progress or (lambda *_: None)
        self.stages = SemiEvolStages(model, args, self.on_progress)
        self.round = 1
        self.base = self.warm = self.evolved = ""

    # ------------------------------------------------------------------------------------------ the method

    def run(self) -> SemiEvolResult:
        """All stages; continues where a run in the same folder stopped.

        Raises:
            NothingSelectedError: no pseudo-label was sure enough; the warmed-up model is kept.
        """
        with self.stages:
            self.gate()
            self.warmup()
            self.propagate()
            self.trial()
            for number in range(1, self.args.rounds + 1):
                self.round = number
                self.collaborate()
                self.justify()
                self.select()
                if self._settled():
                    break
                self.evolve()
            self.control()
            self.accept()
            self.evaluate()
            return self.report()

    def label(self) -> dict[str, str]:
        """Only as far as the selection: id -> pseudo-label of the kept rows; see also `pool.parquet`."""
        with self.stages:
            self.gate()
            self.warmup()
            self.propagate()
            self.trial()
            self.collaborate()
            self.justify()
            self.select()
            return self.selected_answers()

    # -------------------------------------------------------------------------------------------- stages

    def gate(self) -> GateReport:
        """S0: drop duplicates, remove overlap with the test rows, set a hold-out aside if there is enough."""
        args = self.args
        labeled, unlabeled, test = self._given
        labels = getattr(self.task, "labels", None)
        self.labeled, self.unlabeled, self.test, self.gate_report = data_gate(
            labeled, unlabeled, test or None, keep_overlap=args.keep_overlap, labels=labels
        )
        if not self.labeled or not self.unlabeled:
            raise DataError(
                "nothing is left after removing duplicates and overlap with the test rows "
                f"(labelled {len(self.labeled)}, unlabelled {len(self.unlabeled)}); see `doctor`, or keep_overlap=True"
            )
        size = int(args.holdout * len(self.labeled))
        random = np.random.default_rng(args.seed)
        held = set(random.permutation(len(self.labeled))[: size if size >= args.min_holdout else 0].tolist())
        self.holdout = [q for i, q in enumerate(self.labeled) if i in held]
        self.labeled = [q for i, q in enumerate(self.labeled) if i not in held]
        self.stages.set_data(
            {
                "labeled": self.labeled,
                "unlabeled": self.unlabeled,
                "holdout": self.holdout,
                "test": self.test,
            },
            self.task,
        )
        self.voters = args.voters(lists_options=self.task.lists_options)
        return self.gate_report

    def warmup(self) -> str:
        """S1, in-weight propagation: the warmed-up model, trained on the labelled rows."""
        self.base = self.stages.base
        if not self.args.in_weight:
            self.warm = self.base
            return self.warm
        self.warm = self.stages.train(
            "warmup",
            self.base,
            supervised_examples(self.task, self.labeled),
            warmup_training(self.args, rows=len(self.labeled)),
        )
        return self.warm

    def propagate(self) -> list[tuple[int, ...]]:
        """S2, in-context propagation: the labelled rows nearest to each row."""
        count = max((v.demonstrations_from + v.demonstrations for v in self.voters), default=0)
        if self.args.few_shot_baseline:
            count = max(count, self.args.k_shots)
        everything = {
            "labeled": self.labeled,
            "holdout": self.holdout,
            "unlabeled": self.unlabeled,
            "test": self.test,
        }

        def compute(folder: Path) -> None:
            found: dict[str, Any] = {name: [() for _ in rows] for name, rows in everything.items()}
            if count:
                retriever = build_retriever(self.args.retriever, self.labeled)
                for name, rows in everything.items():
                    if rows:
                        found[name] = nearest_labeled(retriever, rows, self.labeled, count=count)
            (folder / "nearest.json").write_text(json.dumps(found))

        stored = self.stages.run(
            "propagate",
            {"retriever": self.args.retriever, "count": count},
            compute,
            load=lambda folder: json.loads((folder / "nearest.json").read_text()),
            data=("labeled", "holdout", "unlabeled", "test"),
        )
        self.nearest = {name: [tuple(row) for row in rows] for name, rows in stored.items()}
        return self.nearest["unlabeled"]

    def trial(self) -> VoterWeights:
        """Test every voter on labelled rows it was not trained on: a hold-out, or cross-fitting."""
        trained_on: list[tuple[str, list[Question]]] = []
        if self.holdout:
            trained_on = [(self.warm, self.holdout)]
        elif self.args.gate == "always" and self.args.in_weight:
            trained_on = self._cross_fit()
        elif self.args.gate == "always":
            trained_on = [(self.base, self.labeled)]
        self.tried: list[Question] = []
        self.tried_responses: dict[str, list[Response]] = {voter.name: [] for voter in self.voters}
        for number, (model, rows) in enumerate(trained_on):
            answered = self._ask(
                f"trial-{number + 1}", model, "holdout" if self.holdout else "labeled", rows, self.voters
            )
            self.tried += rows
            for name, responses in answered.items():
                self.tried_responses[name] += responses
        self.weights = weigh_voters(self.task, self.voters, self.tried, self.tried_responses, self.args)
        logger.info("%s", self.weights)
        if self.args.in_weight and not self.args.force:
            require_useful_warmup(self.weights, self.labeled)
        return self.weights

    def collaborate(self) -> list[Consensus]:
        """S3: every voter answers every unlabelled row; their distributions are averaged."""
        model = self.warm if self.round == 1 else self.evolved
        voting = [voter for voter in self.voters if voter.name in self.weights.voting]
        self.responses = self._ask(f"collaborate-{self.round}", model, "unlabeled", self.unlabeled, voting)
        self.log_prior = answer_log_prior(
            self.args.prior_correction, list(self.responses.values()), self.unlabeled, self.labeled
        )
        self.consensuses = self._merge(self.unlabeled, self.responses)
        self.labeling_model = model
        return self.consensuses

    def justify(self) -> list[Consensus]:
        """S4: a judge decides the disputed rows, if it does that better than the vote."""
        self.judge_trial: JudgeTrial | None = None
        judge = self.args.judge
        if judge == "none" or len(self.voters) < 2:
            return self.consensuses
        reference = self.labeling_model if judge in ("auto", "always") else judge

        def compute(folder: Path) -> None:
            model = self.stages.model(reference)
            trial = None
            if judge != "always":
                trial = try_judge(model, self.task, self.tried, self._merge(self.tried, self.tried_responses))
            used = judge == "always" or (trial is not None and trial.passed)
            judged = justify(model, self.task, self.unlabeled, self.consensuses) if used else self.consensuses
            pool_table.write_consensuses(folder / "consensus.jsonl", judged)
            pool_table.write_trial(folder / "trial.json", trial)

        self.consensuses, self.judge_trial = self.stages.run(
            f"justify-{self.round}",
            {"judge": judge, "model": reference, "consensus": pool_table.digest(self.consensuses)},
            compute,
            load=lambda folder: (
                pool_table.read_consensuses(folder / "consensus.jsonl"),
                pool_table.read_trial(folder / "trial.json"),
            ),
        )
        return self.consensuses

    def select(self) -> Selection:
        """S5 and S6: order by confidence, keep the surest inside each class; write `pool.parquet`."""
        kind: Confidence = _confidence(self.args, self.task)
        self.uncertainties = [uncertainty(c, kind) for c in self.consensuses]
        self.certified: CertifiedThreshold | None = None
        threshold = None
        if self.args.target_precision is not None:
            self.certified = self._certify(kind)
            threshold = -self.certified.threshold if self.certified.certified else -np.inf
        self.previous = self.selected_answers() if self.round > 1 else {}
        self.selection = select(
            [c.id for c in self.consensuses],
            [c.answer for c in self.consensuses],
            self.uncertainties,
            theta=self.args.theta,
            balance=self.args.balance if self.task.kind == "choice" else "global",
            min_per_class=self.args.min_per_class,
            known={q.answer for q in self.labeled},
            certified_threshold=threshold,
        )
        self.pool = pool_table.pool_rows(
            self.task,
            self.unlabeled,
            self.consensuses,
            self.uncertainties,
            self.selection,
            list(self.weights.voting),
            round_number=self.round,
        )
        pool_table.write_pool(
            self.stages.folder.folder,
            self.task,
            self.unlabeled,
            self.pool,
            correction_weight=self.args.correction_weight,
        )
        if not self.selection.kept:
            self.stages.event("nothing-selected")
            raise NothingSelectedError(
                f"no pseudo-label was kept: {self._why_nothing()}; the warmed-up model is at {self.warm}"
            )
        return self.selection

    def evolve(self) -> str:
        """S7: train on the labelled and the selected rows."""
        chosen = [(self.unlabeled[i], self.consensuses[i]) for i in self.selection.kept]
        examples = evolution_examples(self.task, self.labeled, chosen, self.args)
        self.evolve_steps = evolution_training(self.args, rows=len(self.labeled) + len(chosen))
        self.evolved = self.stages.train(
            f"evolve-{self.round}",
            self.base if self.args.evolve_from == "base" else self.warm,
            examples,
            self.evolve_steps,
            labeled=len(self.labeled) if self.args.include_labeled else 0,
            labeled_share=self.args.labeled_share,
        )
        return self.evolved

    def control(self) -> str | None:
        """The compute-matched control: the same start, steps and learning rate, on labelled rows only."""
        self.controlled: str | None = None
        if self.args.control:
            self.controlled = self.stages.train(
                "control",
                self.base if self.args.evolve_from == "base" else self.warm,
                supervised_examples(self.task, self.labeled),
                self.evolve_steps,
            )
        return self.controlled

    def accept(self) -> Verdict:
        """S8: keep the evolved model, or roll back to the warmed-up one; write `checkpoint/` with its lineage."""
        rows = self.holdout or self.labeled
        correct = [
            self._evaluate(f"accept-{name}", model, "holdout" if self.holdout else "labeled", rows).correct
            for name, model in (("warm", self.warm), ("evolved", self.evolved))
        ]
        self.verdict = accept_or_roll_back(*correct, held_out=bool(self.holdout))
        self.final = self.evolved if self.verdict.accepted else self.warm
        self.stages.event("verdict", accepted=self.verdict.accepted, reason=self.verdict.reason)
        return self.verdict

    def evaluate(self) -> dict[str, Evaluation]:
        """Every variant on the same test rows."""
        self.evaluations: dict[str, Evaluation] = {}
        if not self.test:
            return self.evaluations
        variants: dict[str, tuple[str, int]] = {}
        if self.args.zero_shot_baseline:
            variants["zero-shot"] = (self.base, 0)
        if self.args.few_shot_baseline and self.args.k_shots:
            variants["few-shot"] = (self.base, self.args.k_shots)
        if self.args.in_weight:
            variants["sft"] = (self.warm, 0)
        if self.controlled:
            variants["sft-same-compute"] = (self.controlled, 0)
        for name, reference in self.args.also_evaluate.items():
            variants[name] = (reference, 0)
        variants["semievol"] = (self.final, 0)
        for name, (reference, shots) in variants.items():
            self.evaluations[name] = self._evaluate(f"test-{name}", reference, "test", self.test, shots=shots)
        return self.evaluations

    def report(self) -> SemiEvolResult:
        """Write metrics.json, checkpoint/ and report.html."""
        metrics = build_metrics(self)
        self.stages.write_metrics(metrics)
        measured = {n: {"accuracy": e.metrics["accuracy"]} for n, e in self.evaluations.items()}
        lineage = Lineage(
            parent=self.base,
            method="semievol",
            metrics_before=measured.get("zero-shot", {}),
            metrics_after=measured.get("semievol", {}),
            notes=[self.verdict.reason],
        )
        checkpoint = self.stages.publish(self.final, lineage)
        report_path = build_report(self, metrics).save(self.args.output_dir / "report.html")
        return SemiEvolResult(
            model=checkpoint,
            accepted=self.verdict.accepted,
            metrics=metrics,
            selected=self.selected_answers(),
            report_path=report_path,
            output_dir=self.args.output_dir,
        )

    # ------------------------------------------------------------------------------------------- parts

    def selected_answers(self) -> dict[str, str]:
        """Id -> pseudo-label of the rows that are kept now."""
        return {self.consensuses[i].id: str(self.consensuses[i].answer) for i in self.selection.kept}

    def _settled(self) -> bool:
        """S9: stop when fewer than 1 % of the selected labels changed since the last round."""
        now = self.selected_answers()
        changed = sum(self.previous.get(k) != v for k, v in now.items()) + len(self.previous.keys() - now.keys())
        return self.round > 1 and changed < 0.01 * len(now)

    def _merge(self, rows: Sequence[Question], responses: Mapping[str, Sequence[Response]]) -> list[Consensus]:
        voting = self.weights.voting
        return merge(
            self.task, rows, [responses[name] for name in voting], list(voting.values()), log_prior=self.log_prior
        )

    def _ask(
        self, stage: str, model: str, data: str, rows: Sequence[Question], voters: Sequence[InferenceConfiguration]
    ) -> dict[str, list[Response]]:
        """The voters' responses to `rows`, in shards that a killed run does not repeat."""
        position = {q.id: i for i, q in enumerate(getattr(self, data))}
        nearest = [self.nearest[data][position[q.id]] for q in rows]
        answered: dict[str, list[Response]] = {}
        first = same_prompts(voters)
        for voter in voters:
            exact = self.task.kind == "choice" and not (voter.model or model).startswith(ENDPOINT_PREFIX)
            if exact and first[voter.name] in answered:
                answered[voter.name] = answered[first[voter.name]]
                continue
            order = prefix_order(nearest, voter)

            def respond(
                chosen: Sequence[int], voter: InferenceConfiguration = voter, order: Sequence[int] = order
            ) -> list[Response]:
                asked = [order[c] for c in chosen]
                return ask(
                    self.stages.model(voter.model or model),
                    self.task,
                    voter,
                    [rows[i] for i in asked],
                    [[self.labeled[j] for j in nearest[i]] for i in asked],
                    seed=self.args.seed,
                    samples=self.args.samples,
                    max_tokens=self.args.max_new_tokens,
                )

            responses = self.stages.responses(
                f"{stage}-{voter.name}",
                {"voter": voter.model_dump(), "model": model, "rows": [rows[i].id for i in order]},
                len(rows),
                respond,
            )
            answered[voter.name] = [response for _, response in sorted(zip(order, responses, strict=True))]
        return answered

    def _cross_fit(self) -> list[tuple[str, list[Question]]]:
        """Models that were trained without a fold, each with that fold."""
        fitted = []
        for number, fold in enumerate(cross_fit_folds(self.labeled, self.args.folds, self.args.seed)):
            rest = [q for q in self.labeled if q not in fold]
            model = self.stages.train(
                f"crossfit-{number + 1}",
                self.base,
                supervised_examples(self.task, rest),
                warmup_training(self.args, rows=len(rest)),
            )
            fitted.append((model, fold))
        return fitted

    def _certify(self, kind: Confidence) -> CertifiedThreshold:
        if not self.tried:
            raise ConfigError('target_precision needs held-out labelled rows to calibrate on: gate="always" cross-fits')
        assert self.args.target_precision is not None
        votes = self._merge(self.tried, self.tried_responses)
        confidence = [-uncertainty(c, kind) for c in votes]
        correct = [
            c.answer is not None and self.task.matches(c.answer, q.answer or "")
            for c, q in zip(votes, self.tried, strict=True)
        ]
        return certified_threshold(
            np.array(confidence), np.array(correct), self.args.target_precision, delta=1 - self.args.certainty
        )

    def _why_nothing(self) -> str:
        if self.certified is not None and not self.certified.certified:
            return (
                f"{len(self.tried)} labelled rows cannot certify a precision of {self.args.target_precision:.0%} "
                f"with {self.args.certainty:.0%} certainty; lower target_precision or label more"
            )
        return "no row has two readable votes; look at responses under stages/"

    def _evaluate(self, stage: str, model: str, data: str, rows: Sequence[Question], *, shots: int = 0) -> Evaluation:
        max_tokens = self.args.max_new_tokens

        def measure() -> Evaluation:
            asked, task = self.stages.model(model), self.task
            if shots:
                room = answer_room(task, max_tokens)
                near = [[self.labeled[j] for j in row[:shots]][::-1] for row in self.nearest[data]]
                fitting = {
                    q.id: fitting_demonstrations(asked, task, q, shown, room=room)
                    for q, shown in zip(rows, near, strict=True)
                }
                task = task.with_demonstrations(fitting)
            return evaluate(asked, rows, task, normalization="token", max_tokens=max_tokens)

        return self.stages.evaluation(stage, {"model": model, "shots": shots}, measure, data=(data,))


def _confidence(args: SemiEvolConfig, task: Task) -> Confidence:
    if args.confidence != "auto":
        return args.confidence
    return "entropy" if task.kind == "choice" else "semantic"
