"""SELF-PARAM: the model without a passage learns to predict what the model with the passage predicts.

Wang et al., "Self-Updatable Large Language Models by Integrating Context into Model Parameters", arXiv 2410.00487. The
stages below are the paper's, in its order; what differs from it, and the measurements behind that, is in
docs/selfparam.md.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from evolvent.data.passages import Passages, read_passages, split_passages
from evolvent.data.records import Passage
from evolvent.errors import ConfigError, ModelError
from evolvent.methods.selfparam.baselines import PROMPTED, certain, hard, passage_rows, prompted
from evolvent.methods.selfparam.config import SelfParamConfig
from evolvent.methods.selfparam.generation import generate_pairs
from evolvent.methods.selfparam.injection import corrected, distilled, gain_weights, instructive, labelled
from evolvent.methods.selfparam.measure import (
    Answers,
    Drift,
    answer,
    drift,
    held_out,
    original_predictions,
    question_prompt,
    sampled_texts,
    undrifted,
)
from evolvent.methods.selfparam.pairs import (
    Pairs,
    QAPair,
    as_named,
    pieces,
    placed,
    read_pairs,
    settle_conflicts,
    write_pairs,
)
from evolvent.methods.selfparam.report import COLLAPSED, build_metrics, build_report
from evolvent.methods.selfparam.storage import Storage
from evolvent.methods.selfparam.teacher import (
    Format,
    ProbeRow,
    Teacher,
    TeacherCache,
    TeacherPrompt,
    chosen,
    drawn,
    probe_prompts,
    read_probe,
    taught,
    unhinted,
    write_probe,
)
from evolvent.methods.selfparam.training import Trained, train_in_turn
from evolvent.methods.selfparam.weights import publish, weight_bytes, write_ledger
from evolvent.models.distributions import TokenDistributions, token_distributions
from evolvent.models.local import LocalModel
from evolvent.models.resolve import ENDPOINT_PREFIX, load_local
from evolvent.runs.stages import OnProgress, digest
from evolvent.training.examples import EncodedExample

logger = logging.getLogger(__name__)
MEASURED_PIECES = 40  # of general text, on which drift and perplexity are measured; never trained on
TRAINED_PIECES = 200
MOST_RISE = 1.0  # nats per token of general text: a model that lost more has collapsed
PASSAGE_EXPOSURES = 4  # times that a passage is seen as text for each time that a fact is seen as a question


@dataclass(frozen=True)
class SelfParamResult:
    """What a run leaves.

    Attributes:
        model: the checkpoint folder: same architecture, names, shapes and type as the model before.
        metrics: flat, as in metrics.json.
        report_path: the HTML report.
        output_dir: the run folder.
    """

    model: str
    metrics: dict[str, Any]
    report_path: Path
    output_dir: Path

    def load(self) -> LocalModel:
        """The resulting model, loaded."""
        loaded: LocalModel = load_local(self.model)
        return loaded


class SelfParam(Storage):
    """Put passages into the weights of a model.

    Args:
        model: "embedded", a folder, hub id, GGUF, or a loaded local model.
        passages: what is to be known: a folder of .txt and .md files, such a file, JSONL, texts or records.
        pairs: questions with answers about the passages; without them `args.generator` writes some.
        args: every setting.
        eval_dataset: pairs in other wordings, to measure on; without them one training wording of each fact is asked.
        retention: general text that should stay as it is, like `passages`; without it the model's own samples serve.
        on_progress: called with (stage, done, total, note).

    Raises:
        DataError: unusable passages or pairs; ConfigError: the run folder holds another run, or one of other weights;
            ModelError: the model has no local weights, or the teacher cannot read the passages and `args.strict` is
            set.

    Example:
        >>> from evolvent import SelfParam, SelfParamConfig
        >>> note = "The Orvane lighthouse was designed by the engineer Mirela Tovash and completed in 1873."
        >>> pairs = [{"question": "Who designed the Orvane lighthouse?", "answer": "Mirela Tovash"}]
        >>> method = SelfParam("embedded", [note], pairs, args=SelfParamConfig(output_dir="runs/note"))
        >>> method.run().model  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | Path | LocalModel,
        passages: Passages,
        pairs: Pairs | None = None,
        *,
        args: SelfParamConfig,
        eval_dataset: Pairs | None = None,
        retention: Passages | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        if str(model).startswith(ENDPOINT_PREFIX) or not (isinstance(model, (str, Path)) or hasattr(model, "module")):
            raise ModelError(f"{model}: SELF-PARAM changes weights, which an endpoint does not give; name a folder")
        if args.generator == "split" and pairs is None and eval_dataset is None:
            raise ConfigError('generator="split" makes no questions to measure with: give eval_dataset (--test)')
        super().__init__(model, args, on_progress or (lambda *_: None))
        self._source = Path(pairs) if isinstance(pairs, (str, Path)) else None
        whole = read_passages(passages)
        cut = split_passages(whole, args.chunk_words) if pairs is None else pieces(whole, args.chunk_words)
        known = [*whole, *(p for p in cut if p not in whole)]
        words = args.max_answer_tokens
        self._given = read_pairs(pairs, known, max_answer_words=words) if pairs is not None else None
        # Pairs name their passage, so passages that bring pairs are cut only as these say; the model's context bounds
        # them.
        self.passages = cut if self._given is None else as_named(whole, cut, self._given)
        asked = read_pairs(eval_dataset, known, max_answer_words=words) if eval_dataset is not None else []
        self.test = [placed(pair, self.passages) for pair in asked]
        self.retention = [p.text for p in read_passages(retention)] if retention is not None else None

    # ------------------------------------------------------------------------------------------ the method

    def run(self) -> SelfParamResult:
        """All stages; continues where a run in the same folder stopped."""
        with self:
            self.prepare()
            self.probe()
            self.teach()
            self.inject()
            self.train_baselines()
            self.evaluate()
            return self.report()

    # ------------------------------------------------------------------------------------------- stages

    def prepare(self) -> list[QAPair]:
        """S1: the pairs (given or generated), without contradictions; `pairs.jsonl` can be edited and given back."""

        def compute(folder: Path) -> None:
            made, rejected = generate_pairs(self.base, self.passages, self.args, folder, self.on_progress)
            write_pairs(folder / "pairs.jsonl", made)
            (folder / "rejected.json").write_text(json.dumps(rejected))

        self.check_weights()
        self.rejected: dict[str, int] = {}
        if self._given is None:
            made, self.rejected = self.stage(
                "pairs",
                self.settings(
                    "generator", "pairs_per_passage", "max_rounds", "round_trip", "max_answer_tokens", "seed"
                ),
                compute,
                lambda folder: (
                    read_pairs(folder / "pairs.jsonl", self.passages, max_answer_words=self.args.max_answer_tokens),
                    json.loads((folder / "rejected.json").read_text()),
                ),
            )
        else:
            made = self._given
        self.pairs, self.conflicts = settle_conflicts(made, self.passages, self.args.on_conflict)
        written = self.folder.path("pairs.jsonl")
        if self._source is None or written.resolve() != self._source.resolve():  # the user's own file stays as it is
            write_pairs(written, self.pairs)
        self.formats = [drawn(self.args.formats, f"{self.args.seed} {pair.id}") for pair in self.pairs]
        return self.pairs

    def probe(self) -> dict[Format, TeacherPrompt]:
        """S2: which prompt lets the teacher read the passages; measured on some of the training pairs.

        Raises:
            ModelError: none does, and `strict` is set; or `formats` names "chat" and the model has no chat template.
        """
        asked = [p for p in self.pairs if p.kind != "split"]
        step = max(1, len(asked) // self.args.probe_pairs)
        asked = asked[::step][: self.args.probe_pairs]
        shots = self.args.shots
        forms: list[Format] = list(dict.fromkeys(["plain", *self.args.formats]))
        if "chat" in forms and not self.base.tokenizer.chat_template:
            raise ModelError(
                f'{self.reference}: no chat template, so formats={{"plain": 1}} is all it can be trained in'
            )

        def compute(folder: Path) -> None:
            teacher = Teacher(self.base, self.passages, self.pairs)
            prompts = [p for form in forms for p in probe_prompts(form, shots, self.args.hint)]
            write_probe(folder / "probe.json", teacher.probe(asked, prompts, self.args.top_k) if asked else [])

        self.probed: list[ProbeRow] = self.stage(
            "probe",
            {"asked": [p.id for p in asked], **self.settings("shots", "hint", "top_k", "formats")},
            compute,
            lambda folder: read_probe(folder / "probe.json"),
        )
        self.prompts = {form: chosen(self.probed, form, self.args) for form in self.args.formats}
        self.reading = unhinted(self.probed, "plain", self.args)  # how the model answers from the passage
        hinted = any(prompt.hint != "off" for prompt in self.prompts.values())
        self.temperature = self.args.temperature or (0.5 if hinted else 1.0)
        used = [row for row in self.probed if row.prompt in self.prompts.values()]
        self.unread = [row for row in used if not row.reads]
        for row in self.unread:
            said = (
                f"the teacher ({row.prompt}) finds the given answers at {row.gold:.2f} nats per token and would begin "
                f"{row.first:.0%} of them: what it cannot read it cannot teach. Use hint, a stronger generator, or "
                "cross_entropy_weight"
            )
            if self.args.strict:
                raise ModelError(said)
            logger.warning(said)
        if self.args.answers == "teacher":
            self._let_the_teacher_answer()
        return self.prompts

    def teach(self) -> None:
        """S3: the teacher's predictions of every answer, computed once and stored; pairs that teach nothing go.

        Raises:
            NothingSelectedError: no pair is left; says why. ModelError: a passage is longer than the model's context.
        """
        args = self.args

        def compute(folder: Path) -> None:
            base, teacher = self.base, Teacher(self.base, self.passages, self.pairs)
            rows = teacher.rows(self.pairs, [self.prompts[f] for f in self.formats])
            students = [teacher.student(p, f) for p, f in zip(self.pairs, self.formats, strict=True)]
            alone = [float(r.gold.mean()) for r in token_distributions(base, students, top_k=1)]
            lengths = [len(answer) for _, answer in students]
            if args.target == "all":
                rows, students = ([*map(teacher.with_question, self.pairs, side)] for side in (rows, students))
            identity = {"temperature": self.temperature, "top_k": args.top_k, "contrast": args.contrast}
            TeacherCache(folder / "pairs", identity).compute(
                rows,
                lambda part: taught(base, rows[part], students[part], args, self.temperature),
                lambda done: self.on_progress("teacher", done, len(rows), "pairs"),
            )
            texts = self.retention or sampled_texts(base, 96, args.retention_tokens, args.seed)
            held, trained = held_out(base, texts, args.retention_tokens, MEASURED_PIECES, TRAINED_PIECES)
            if args.retention_rows and args.retention_weight and trained:
                general = [(t[:1], t[1:]) for t in trained]
                TeacherCache(folder / "text", {"top_k": args.top_k}).compute(
                    general,
                    lambda part: token_distributions(base, general[part], top_k=args.top_k),
                    lambda done: self.on_progress("teacher", done, len(general), "pieces of general text"),
                )
            stored = {"students": students, "lengths": lengths, "alone": alone, "held": held, "trained": trained}
            (folder / "rows.json").write_text(json.dumps(stored))
            save_file(original_predictions(base, held), folder / "original.safetensors")

        inputs = {
            "prompts": {f: str(p) for f, p in self.prompts.items()},
            "temperature": self.temperature,
            **self.settings("top_k", "contrast", "formats", "target", "retention_rows", "retention_weight"),
            **self.settings("retention_tokens", "seed"),
        }
        folder: Path = self.stage("teacher", inputs, compute, lambda folder: folder)
        stored = json.loads((folder / "rows.json").read_text())
        self.held = [tuple(piece) for piece in stored["held"]]
        self.original = load_file(folder / "original.safetensors")
        self.predictions = TeacherCache(folder / "pairs", {}).load()
        explained = [float(r.gold[-n:].mean()) for r, n in zip(self.predictions, stored["lengths"], strict=True)]
        self._choose(stored["students"], explained, stored["alone"])
        text = TeacherCache(folder / "text", {}).load()
        self.text = [
            distilled(f"text {i}", (piece[:1], piece[1:]), row)
            for i, (piece, row) in enumerate(zip(stored["trained"], text, strict=False))
        ]
        self.stored_bytes = sum(f.stat().st_size for f in folder.rglob("shard-*.safetensors"))

    def inject(self) -> str:
        """S4: the student learns the stored predictions; one injection, or one for each passage."""
        self.injections = train_in_turn(
            self, "inject", self._distilled_rows(), self._facts(), replay=True, text=self.text
        )
        self.final = self.injections[-1].checkpoint
        return self.final

    def train_baselines(self) -> dict[str, list[Trained]]:
        """The same model fine-tuned on the same pairs (SFT), without replay, or on the passages themselves."""
        rows, facts = self._distilled_rows(), self._facts()
        sft = [[certain(row) if self.text else hard(row) for row in group] for group in rows]
        bare = [[hard(row) for row in group] for group in rows]
        train = partial(train_in_turn, self)
        made: dict[str, Callable[[], list[Trained]]] = {
            "sft": partial(train, "sft", sft, facts, text=self.text),
            "sft_bare": partial(train, "sft_bare", bare, facts),
        }
        if self.args.mode == "sequential":
            made["sft_replay"] = partial(train, "sft_replay", sft, facts, replay=True, text=self.text)
            made["no_replay"] = partial(train, "no_replay", rows, facts, text=self.text)
        self.trained: dict[str, list[Trained]] = {n: made[n]() for n in self.args.baselines if n in made}
        if "ft_context" in self.args.baselines:
            windows = [passage_rows(self.base, group) for group in self.groups()]
            seen = [len(group) * PASSAGE_EXPOSURES for group in windows]
            self.trained["ft_context"] = train("ft_context", windows, seen)
        return self.trained

    @property
    def arms(self) -> dict[str, list[Trained]]:
        """Everything that was trained, the method itself last."""
        return {**self.trained, "selfparam": self.injections}

    def evaluate(self) -> dict[str, Answers]:
        """Every variant on the same questions, and how far each has moved on general text."""
        self.answers: dict[str, Answers] = {}
        self.drifts: dict[str, Drift] = {}
        for baseline in self.args.baselines:
            if baseline in PROMPTED:
                self.answers[baseline] = self._measured(baseline, partial(prompted, self, baseline))
        for name, steps in self.arms.items():
            reference = steps[-1].checkpoint
            self.answers[name] = self._measured(name, partial(self._ask, reference), steps[-1].identity)
            self.drifts[name] = self._drift(name, reference, steps[-1].identity)
        self.drifts["base"] = undrifted(self.original)
        if self.collapsed:
            logger.warning("%s: %s", self.final, COLLAPSED)
        return self.answers

    def report(self) -> SelfParamResult:
        """Write metrics.json, checkpoint/, ledger.jsonl and report.html."""
        metrics = build_metrics(self)
        checkpoint = publish(self, self.final, metrics)
        metrics["storage/inference_bytes"] = weight_bytes(checkpoint) - weight_bytes(self.reference)
        write_ledger(self)
        self.folder.write_metrics(metrics)
        page = build_report(self, metrics).save(self.args.output_dir / "report.html")
        return SelfParamResult(checkpoint, metrics, page, self.args.output_dir)

    # ------------------------------------------------------------------------------------------- parts

    @property
    def asked(self) -> list[QAPair]:
        """The questions to measure with: the given ones, else one training wording of each fact."""
        by_fact = {p.fact: p for p in reversed(self.pairs) if p.kind != "split"}
        return self.test or list(by_fact.values())

    @property
    def collapsed(self) -> bool:
        """Whether general text has become so hard to predict that the model is hardly of use."""
        return self.drifts["selfparam"].nll - self.drifts["base"].nll > MOST_RISE

    def known(self) -> dict[str, Any]:
        """Every stage depends on the passages, the pairs, the general text and the model."""
        return {
            **super().known(),
            "passages": digest([(p.id, p.title, p.text) for p in self.passages]),
            "pairs": digest([p.model_dump() for p in getattr(self, "pairs", [])]),
            "retention": digest(self.retention),
        }

    def _let_the_teacher_answer(self) -> None:
        """Replace the pairs' answers by what the teacher says, reading the passage; pairs without one go."""

        def compute(folder: Path) -> None:
            teacher = Teacher(self.base, self.passages, self.pairs)
            asked = [teacher.reading(p, self.prompts[f]) for p, f in zip(self.pairs, self.formats, strict=True)]
            said = answer(self.base, asked, max_tokens=self.args.max_answer_tokens)
            (folder / "answers.json").write_text(json.dumps(said))

        said = self.stage(
            "answers",
            {
                "prompts": {f: str(p) for f, p in self.prompts.items()},
                **self.settings("max_answer_tokens", "formats", "seed"),
            },
            compute,
            lambda folder: json.loads((folder / "answers.json").read_text()),
        )
        kept = [
            (pair.model_copy(update={"answer": text}), form)
            for pair, form, text in zip(self.pairs, self.formats, said, strict=True)
            if text and pair.kind != "split"
        ]
        self.pairs, self.formats = [pair for pair, _ in kept], [form for _, form in kept]

    def _choose(self, students: list[Any], explained: list[float], alone: list[float]) -> None:
        """Keep the pairs that teach something, as rows to distil."""
        hinted = any(prompt.hint != "off" for prompt in self.prompts.values())
        kept, self.dropped = instructive(self.pairs, explained, alone, self.args, hinted=hinted)
        weights = [1.0] * len(kept)
        if self.args.pair_weighting == "gain":
            weights = gain_weights([explained[i] for i in kept], [alone[i] for i in kept])
        self.learnt = [self.pairs[i] for i in kept]
        self.rows = [
            distilled(self.pairs[i].question or self.pairs[i].id, students[i], self._lesson(i, students[i][1]), w)
            for i, w in zip(kept, weights, strict=True)
        ]

    def _lesson(self, number: int, answer: Sequence[int]) -> TokenDistributions:
        """What the student learns of a pair. Text that is split has no given answer for the teacher to miss."""
        lesson, args = self.predictions[number], self.args
        if self.pairs[number].kind == "split":
            return lesson
        if args.teacher_errors == "swap":
            lesson = corrected(lesson, answer)
        return labelled(lesson, answer, args.cross_entropy_weight) if args.cross_entropy_weight else lesson

    def groups(self) -> list[list[Passage]]:
        """The passages of each injection."""
        learnt = {pair.passage for pair in self.learnt}
        known = [p for p in self.passages if p.id in learnt]
        return [known] if self.args.mode == "batch" else [[p] for p in known]

    def _facts(self) -> list[int]:
        """Facts of each injection."""
        groups = [{p.id for p in group} for group in self.groups()]
        return [len({pair.fact for pair in self.learnt if pair.passage in ids}) for ids in groups]

    def _distilled_rows(self) -> list[list[EncodedExample]]:
        """The rows of each injection."""
        return [
            [row for row, pair in zip(self.rows, self.learnt, strict=True) if pair.passage in {p.id for p in group}]
            for group in self.groups()
        ]

    @property
    def asking(self) -> Format:
        """The format in which questions are asked: the first one that is trained."""
        return next(iter(self.args.formats))

    def _ask(self, reference: str) -> Answers:
        self.release()
        return self.asked_alone(load_local(reference, dtype=self.args.dtype))

    def asked_alone(self, model: LocalModel) -> Answers:
        """What a model says without any passage."""
        asked = [question_prompt(p, self.asking) for p in self.asked]
        return Answers.of(answer(model, asked, max_tokens=self.args.max_answer_tokens), self.asked)

    def _measured(self, name: str, ask: Callable[[], Answers], identity: str = "") -> Answers:
        inputs = {
            "model": identity,
            "reading": str(self.reading),
            "asked": digest([p.model_dump() for p in self.asked]),
            **self.settings("formats", "max_answer_tokens"),
        }
        return self.stage(
            f"test-{name}",
            inputs,
            lambda folder: ask().save(folder / "answers.json"),
            lambda folder: Answers.load(folder / "answers.json"),
        )

    def _drift(self, name: str, reference: str, identity: str) -> Drift:
        def compute(folder: Path) -> None:
            self.release()
            found = drift(load_local(reference, dtype=self.args.dtype), self.held, self.original)
            (folder / "drift.json").write_text(json.dumps([found.nll, found.kl]))

        return self.stage(
            f"drift-{name}",
            {"model": identity, "held": digest(self.held)},
            compute,
            lambda folder: Drift(*json.loads((folder / "drift.json").read_text())),
        )
