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
from evolvent.errors import ConfigError, ModelError, NothingSelectedError
from evolvent.methods.selfparam.baselines import Trained, passage_rows, reading_prompt, retrieved
from evolvent.methods.selfparam.config import SelfParamConfig
from evolvent.methods.selfparam.generation import generate_pairs
from evolvent.methods.selfparam.injection import balanced, batches, distilled, gain_weights, replay_buffer
from evolvent.methods.selfparam.measure import (
    Answers,
    Drift,
    answer,
    drift,
    held_out,
    measure,
    original_predictions,
    question_prompt,
    sampled_texts,
)
from evolvent.methods.selfparam.pairs import Pairs, QAPair, read_pairs, settle_conflicts, write_pairs
from evolvent.methods.selfparam.report import build_metrics, build_report
from evolvent.methods.selfparam.storage import OnProgress, Storage, digest
from evolvent.methods.selfparam.teacher import (
    Format,
    Hint,
    ProbeRow,
    Teacher,
    TeacherCache,
    TeacherPrompt,
    best,
    probe_prompts,
    read_probe,
    write_probe,
)
from evolvent.methods.selfparam.weights import plain_checkpoint, publish, weight_bytes, write_ledger
from evolvent.models.distributions import token_distributions
from evolvent.models.local import LocalModel
from evolvent.models.resolve import ENDPOINT_PREFIX, load_local
from evolvent.training.distillation import Distillation
from evolvent.training.examples import EncodedExample
from evolvent.training.finetune import fine_tune

logger = logging.getLogger(__name__)
MEASURED_PIECES = 40  # of general text, on which drift and perplexity are measured; never trained on
TRAINED_PIECES = 200
HINT_GAIN = 0.2  # nats per token that a hint must add to the given answers to be used without being asked for
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
        DataError: unusable passages or pairs; ConfigError: the run folder holds another run; ModelError: the model has
            no local weights, or the teacher cannot read the passages and `args.strict` is set.

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
        whole = read_passages(passages)
        self._given = read_pairs(pairs, whole, max_answer_words=args.max_answer_tokens) if pairs is not None else None
        self.test = read_pairs(eval_dataset, whole) if eval_dataset is not None else []
        # Pairs name their passage, so passages that bring pairs are not cut; the model's context bounds them.
        self.passages = whole if pairs is not None else split_passages(whole, args.chunk_words)
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

        self.rejected: dict[str, int] = {}
        if self._given is None:
            made, self.rejected = self.stage(
                "pairs",
                {"generator": self.args.generator, "pairs": self.args.pairs_per_passage, "seed": self.args.seed},
                compute,
                lambda folder: (
                    read_pairs(folder / "pairs.jsonl", self.passages),
                    json.loads((folder / "rejected.json").read_text()),
                ),
            )
        else:
            made = self._given
        self.pairs, self.conflicts = settle_conflicts(made, self.passages, self.args.on_conflict)
        write_pairs(self.folder.path("pairs.jsonl"), self.pairs)
        self.formats: list[Format] = [
            _drawn(self.args.formats, int(digest([self.args.seed, pair.id]), 16)) for pair in self.pairs
        ]
        return self.pairs

    def probe(self) -> dict[Format, TeacherPrompt]:
        """S2: which prompt lets the teacher read the passages; measured on some of the training pairs.

        Raises:
            ModelError: none does, and `strict` is set.
        """
        asked = [p for p in self.pairs if p.kind != "split"]
        step = max(1, len(asked) // self.args.probe_pairs)
        asked = asked[::step][: self.args.probe_pairs]
        shots = self.args.shots
        hints: dict[str, tuple[Hint, ...]] = {
            "auto": ("off", "all"),
            "off": ("off",),
            "all": ("off", "all"),
            "loo": ("off", "loo"),
        }
        forms: list[Format] = list(dict.fromkeys(["plain", *self.args.formats]))

        def compute(folder: Path) -> None:
            teacher = Teacher(self.base, self.passages, self.pairs)
            prompts = [p for form in forms for p in probe_prompts(form, shots, hints=hints[self.args.hint])]
            write_probe(folder / "probe.json", teacher.probe(asked, prompts, self.args.top_k) if asked else [])

        self.probed: list[ProbeRow] = self.stage(
            "probe",
            {"asked": [p.id for p in asked], **self.settings("shots", "hint", "top_k")},
            compute,
            lambda folder: read_probe(folder / "probe.json"),
        )
        self.prompts = {form: self._chosen(form) for form in self.args.formats}
        self.reading = self._reader("plain")
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
            NothingSelectedError: no pair is left; says why.
        """
        args = self.args

        def compute(folder: Path) -> None:
            base, teacher = self.base, Teacher(self.base, self.passages, self.pairs)
            rows = [teacher.teacher(p, self.prompts[f]) for p, f in zip(self.pairs, self.formats, strict=True)]
            identity = {"temperature": self.temperature, "top_k": args.top_k}
            total = len(rows)
            TeacherCache(folder / "pairs", identity).compute(
                base,
                rows,
                top_k=args.top_k,
                temperature=self.temperature,
                on_rows=lambda done: self.on_progress("teacher", done, total, "pairs"),
            )
            students = [teacher.student(p, f) for p, f in zip(self.pairs, self.formats, strict=True)]
            alone = [float(r.gold.mean()) for r in token_distributions(base, students, top_k=1)]
            texts = self.retention or sampled_texts(base, 96, args.retention_tokens, args.seed)
            held, trained = held_out(base, texts, args.retention_tokens, MEASURED_PIECES, TRAINED_PIECES)
            if args.retention_rows and args.retention_weight and trained:
                TeacherCache(folder / "text", {"top_k": args.top_k}).compute(
                    base,
                    [(t[:1], t[1:]) for t in trained],
                    top_k=args.top_k,
                    temperature=1.0,
                    on_rows=lambda done: self.on_progress("teacher", done, len(trained), "pieces of general text"),
                )
            stored = {"students": students, "alone": alone, "held": held, "trained": trained}
            (folder / "rows.json").write_text(json.dumps(stored))
            save_file(original_predictions(base, held), folder / "original.safetensors")

        inputs = {
            "prompts": {f: str(p) for f, p in self.prompts.items()},
            "temperature": self.temperature,
            **self.settings("top_k", "formats", "retention_rows", "retention_tokens", "seed"),
        }
        folder: Path = self.stage("teacher", inputs, compute, lambda folder: folder)
        stored = json.loads((folder / "rows.json").read_text())
        self.held = [tuple(piece) for piece in stored["held"]]
        self.original = load_file(folder / "original.safetensors")
        self.predictions = TeacherCache(folder / "pairs", {}).load()
        self._filter(stored["students"], stored["alone"])
        text = TeacherCache(folder / "text", {}).load()
        self.text = [
            distilled(f"text {i}", (piece[:1], piece[1:]), row)
            for i, (piece, row) in enumerate(zip(stored["trained"], text, strict=False))
        ]
        self.stored_bytes = sum(f.stat().st_size for f in folder.rglob("shard-*.safetensors"))

    def inject(self) -> str:
        """S4: the student learns the stored predictions; one injection, or one for each passage."""
        self.injections = self._train_all("inject", self._distilled_rows(), replay=True, text=self.text)
        self.final = self.injections[-1].checkpoint
        return self.final

    def train_baselines(self) -> dict[str, list[Trained]]:
        """The same model fine-tuned on the same pairs (SFT), and on the passages themselves."""
        self.trained: dict[str, list[Trained]] = {}
        if "sft" in self.args.baselines:
            rows = [[_hard(r) for r in group] for group in self._distilled_rows()]
            self.trained["sft"] = self._train_all("sft", rows, replay=False, text=[])
        if "ft_context" in self.args.baselines:
            groups = [passage_rows(self.base, group) for group in self.groups()]
            self.trained["ft_context"] = self._train_all("ft_context", groups, replay=False, text=[], passages=True)
        return self.trained

    def evaluate(self) -> dict[str, Answers]:
        """Every variant on the same questions, and how far each has moved on general text."""
        by_fact = {p.fact: p for p in reversed(self.pairs) if p.kind != "split"}
        self.asked = self.test or list(by_fact.values())
        self.answers: dict[str, Answers] = {}
        self.drifts: dict[str, Drift] = {}
        for prompted in self.args.baselines:
            if prompted not in self.trained:
                self.answers[prompted] = self._measured(prompted, partial(self._prompted, prompted))
        for name, steps in [*self.trained.items(), ("selfparam", self.injections)]:
            reference = steps[-1].checkpoint
            ask = partial(self._ask, reference, self.asked)
            self.answers[name] = self._measured(name, ask, steps[-1].identity)
            self.drifts[name] = self._drift(name, reference, steps[-1].identity)
        self.drifts["base"] = self._drift("base", "", "")
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
            {"prompts": {f: str(p) for f, p in self.prompts.items()}, **self.settings("max_answer_tokens")},
            compute,
            lambda folder: json.loads((folder / "answers.json").read_text()),
        )
        kept = [
            (pair.model_copy(update={"answer": text}), form)
            for pair, form, text in zip(self.pairs, self.formats, said, strict=True)
            if text and pair.kind != "split"
        ]
        self.pairs, self.formats = [pair for pair, _ in kept], [form for _, form in kept]

    def _chosen(self, form: Format) -> TeacherPrompt:
        rows = [row for row in self.probed if row.prompt.format == form]
        if self.args.teacher_format == "fixed" or not rows:
            hint: Hint = "off" if self.args.hint == "auto" else self.args.hint
            return TeacherPrompt(form, self.args.shots, hint)
        if self.args.hint == "auto":
            unhinted, any_of = best([row for row in rows if row.prompt.hint == "off"]), best(rows)
            return any_of.prompt if any_of.gold - unhinted.gold >= HINT_GAIN else unhinted.prompt
        return best([row for row in rows if row.prompt.hint == self.args.hint]).prompt

    def _reader(self, form: Format) -> TeacherPrompt:
        """The best prompt without a hint: how the model answers from the passage."""
        rows = [r for r in self.probed if r.prompt.hint == "off" and r.prompt.format == form]
        return best(rows).prompt if rows else TeacherPrompt(form, self.args.shots, "off")

    def _filter(self, students: list[Any], alone: list[float]) -> None:
        explained = [float(row.gold.mean()) for row in self.predictions]
        args = self.args
        hinted = any(prompt.hint != "off" for prompt in self.prompts.values())
        kept: list[int] = []
        self.dropped = {"the teacher disagrees": 0, "known already": 0}
        for i, pair in enumerate(self.pairs):
            if explained[i] < args.min_teacher and not hinted and pair.kind != "split":
                self.dropped["the teacher disagrees"] += 1
            elif explained[i] - alone[i] < args.min_gain and int(digest(pair.id), 16) % 10:
                self.dropped["known already"] += 1
            else:
                kept.append(i)
        if not kept:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items())
            raise NothingSelectedError(f"no pair is left to learn from: {reasons} (min_teacher, min_gain)")
        weights = [1.0] * len(kept)
        if args.pair_weighting == "gain":
            weights = gain_weights([explained[i] for i in kept], [alone[i] for i in kept])
        self.learnt = [self.pairs[i] for i in kept]
        self.rows = [
            distilled(self.pairs[i].question or self.pairs[i].id, students[i], self.predictions[i], w)
            for i, w in zip(kept, weights, strict=True)
        ]

    def groups(self) -> list[list[Passage]]:
        """The passages of each injection."""
        learnt = {pair.passage for pair in self.learnt}
        known = [p for p in self.passages if p.id in learnt]
        return [known] if self.args.mode == "batch" else [[p] for p in known]

    def _facts(self, number: int) -> int:
        """Facts that one injection is to learn."""
        here = {passage.id for passage in self.groups()[number]}
        return len({pair.fact for pair in self.learnt if pair.passage in here})

    def _distilled_rows(self) -> list[list[EncodedExample]]:
        """The rows of each injection."""
        return [
            [row for row, pair in zip(self.rows, self.learnt, strict=True) if pair.passage in {p.id for p in group}]
            for group in self.groups()
        ]

    def _train_all(
        self,
        name: str,
        groups: Sequence[list[EncodedExample]],
        *,
        replay: bool,
        text: list[EncodedExample],
        passages: bool = False,
    ) -> list[Trained]:
        """One training for each group of rows, each from the model before it."""
        done: list[Trained] = []
        seen = [len(g) * PASSAGE_EXPOSURES if passages else self._facts(n) for n, g in enumerate(groups)]
        steps_of = [self.args.steps(count) for count in seen]
        for number, rows in enumerate(groups):
            old = replay_buffer(groups[:number], self.args) if replay and self.args.replay_share else []
            pairs, steps = [*rows, *old], steps_of[number]
            mixed = balanced(pairs, text, self.args)
            order = batches(len(rows), len(old), len(text), steps, self.args)
            settings = self.args.training(
                self.peft, steps, self.args.batch_size + (self.args.retention_rows if text else 0)
            )
            source = done[-1] if done else None
            stage = name if len(groups) == 1 else f"{name}-{number + 1:03d}"
            inputs = {
                "source": source.identity if source else self.reference,
                "rows": digest([(r.tokens, r.answer_tokens, r.weight) for r in mixed]),
                "temperature": self.temperature,
                "prompts": {f: str(p) for f, p in self.prompts.items()},
                "order": digest(order),
                "settings": settings.model_dump(mode="json"),
                **self.settings("divergence", "cross_entropy_weight", "top_k"),
            }

            def compute(
                folder: Path,
                source: Trained | None = source,
                mixed: list[EncodedExample] = mixed,
                order: list[int] = order,
                settings: Any = settings,
                stage: str = stage,
            ) -> None:
                self.release()
                reference = source.checkpoint if source else self.reference
                result = fine_tune(
                    reference,
                    mixed,
                    settings,
                    output_dir=folder,
                    order=order,
                    distillation=Distillation(self.args.divergence, self.args.cross_entropy_weight),
                    on_progress=lambda step, of, loss: self.on_progress(stage, step, of, f"loss {loss:.3f}"),
                )
                plain_checkpoint(result.checkpoint, folder)

            folder = self.stage(stage, inputs, compute, lambda folder: folder)
            done.append(Trained(str(folder / "checkpoint"), digest(inputs), steps, folder))
            if self.args.keep_checkpoints is not None:
                done[: -self.args.keep_checkpoints] = [t.pruned() for t in done[: -self.args.keep_checkpoints]]
            if self.args.mode == "sequential":
                done[-1].after = self._after(stage, number, done[-1])
        return done

    def _after(self, stage: str, number: int, trained: Trained) -> Answers | None:
        """Right after an injection: the questions of that passage."""
        (passage,) = self.groups()[number]
        asked = [p for p in self.test if p.passage == passage.id]
        if not asked:
            return None
        return self._answers(
            f"after-{stage}", {"model": trained.identity}, lambda: self._ask(trained.checkpoint, asked), asked
        )

    def _ask(self, reference: str, asked: Sequence[QAPair]) -> Answers:
        self.release()
        model = load_local(reference, dtype=self.args.dtype)
        form: Format = next(iter(self.args.formats))
        return measure(model, asked, prompt=lambda p: question_prompt(p, form), max_tokens=self.args.max_answer_tokens)

    def _prompted(self, name: str) -> Answers:
        """Baselines that train nothing."""
        model, tokens = self.base, self.args.max_answer_tokens
        if name == "base":
            form: Format = next(iter(self.args.formats))
            return measure(model, self.asked, prompt=lambda p: question_prompt(p, form), max_tokens=tokens)
        teacher = Teacher(model, self.passages, self.pairs)
        shown = None if name == "in_context" else retrieved(self.passages, self.asked)
        return measure(
            model, self.asked, prompt=lambda p: reading_prompt(teacher, p, self.reading, shown), max_tokens=tokens
        )

    def _measured(self, name: str, ask: Callable[[], Answers], identity: str = "") -> Answers:
        return self._answers(f"test-{name}", {"model": identity, "reading": str(self.reading)}, ask, self.asked)

    def _answers(
        self, name: str, inputs: dict[str, Any], ask: Callable[[], Answers], asked: Sequence[QAPair]
    ) -> Answers:
        return self.stage(
            name,
            {
                **inputs,
                "asked": digest([p.model_dump() for p in asked]),
                **self.settings("formats", "max_answer_tokens"),
            },
            lambda folder: ask().save(folder / "answers.json"),
            lambda folder: Answers.load(folder / "answers.json"),
        )

    def _drift(self, name: str, reference: str, identity: str) -> Drift:
        def compute(folder: Path) -> None:
            if reference:
                self.release()
            model = load_local(reference, dtype=self.args.dtype) if reference else self.base
            found = drift(model, self.held, self.original)
            (folder / "drift.json").write_text(json.dumps([found.nll, found.kl]))

        return self.stage(
            f"drift-{name}",
            {"model": identity, "held": digest(self.held)},
            compute,
            lambda folder: Drift(*json.loads((folder / "drift.json").read_text())),
        )


def _hard(row: EncodedExample) -> EncodedExample:
    """The same row without the teacher."""
    return EncodedExample(row.tokens, row.answer_tokens, row.weight, row.name)


def _drawn(shares: dict[Format, float], number: int) -> Format:
    """A format drawn by its share, the same for the same number."""
    place = number % 10_000 / 10_000 * sum(shares.values())
    for form, share in shares.items():
        if place < share:
            return form
        place -= share
    return form
