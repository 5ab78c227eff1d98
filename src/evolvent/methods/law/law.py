"""LAW: wash facts out of a model by closed-form edits of its MLP down-projections.

Wang et al., "Large Scale Knowledge Washing", arXiv 2405.16720 (ICLR 2025). The stages below are the paper's, in its
order: probe, statistics, targets, spread with elimination, verify, next round or stop; what differs from it, and the
measurements behind that, is in docs/law.md.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from evolvent.data.facts import FactRows, facts_digest, read_facts
from evolvent.data.records import Fact
from evolvent.errors import NothingSelectedError
from evolvent.methods.law.audit import Audit, attack
from evolvent.methods.law.config import LawConfig
from evolvent.methods.law.corpus import general_texts, written_texts
from evolvent.methods.law.decoder import Decoder
from evolvent.methods.law.gradient import forget_by_gradient, trained
from evolvent.methods.law.layers import layers_for
from evolvent.methods.law.measurement import (
    FORGET,
    SAME_RELATION,
    Measurement,
    Questionnaire,
    check_disjoint,
    metrics_of,
)
from evolvent.methods.law.patch import digest, save_patches
from evolvent.methods.law.probe import Knowledge, probe
from evolvent.methods.law.publishing import WARNING, before_and_after, publish
from evolvent.methods.law.report import build_report
from evolvent.methods.law.reverting import PATCHES, AppliedPatches, undo_patches
from evolvent.methods.law.stages import TARGETS, WASH, asked, load_round, settings
from evolvent.methods.law.statistics import Statistics, fingerprint, statistics
from evolvent.methods.law.target_shards import learn_shards, load_targets
from evolvent.methods.law.targets import Targets
from evolvent.methods.law.washing import LayerEdit, Washables, restored_on_error, wash_round
from evolvent.methods.law.wordings import Wording, rows_for, wordings_for
from evolvent.models.local import LocalModel
from evolvent.models.resolve import load_local
from evolvent.runs.folder import Run
from evolvent.runs.lineage import Lineage

logger = logging.getLogger(__name__)
T = TypeVar("T")

OnProgress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class LawResult:
    """What a run leaves.

    Attributes:
        model: the checkpoint folder of the washed model.
        complete: whether at most `stop_accuracy` of the facts still answer their own prompt.
        metrics: flat, as in metrics.json.
        washed: ids of facts that are gone by prompt, paraphrase and chat.
        remaining: ids of facts that are not.
        report_path: the HTML report.
        output_dir: the run folder.
    """

    model: str
    complete: bool
    metrics: dict[str, Any]
    washed: list[str]
    remaining: list[str]
    report_path: Path
    output_dir: Path

    def load(self) -> LocalModel:
        """The washed model, loaded."""
        loaded: LocalModel = load_local(self.model, dtype="float32")
        return loaded


class Law:
    """Wash facts out of a decoder.

    Args:
        model: "embedded", a folder, hub id, GGUF, or a loaded model (its weights are changed).
        facts: what to forget, see :func:`~evolvent.data.facts.read_facts`.
        args: every setting.
        keep: facts that must stay: they are measured before and after, never learnt from.
        references: facts of the same relations about other subjects, known to the model or not, whose prompts are
            protected; those about subjects of `facts` or `keep` are left out.
        corpus: general text: a file with a text column, or texts. Without it the model writes its own.
        on_progress: called with (stage, done, total, note).

    Raises:
        DataError: no usable facts; ConfigError: the run folder holds another run; ModelError: no decoder with weights.

    Example:
        >>> from evolvent import Law, LawConfig
        >>> facts = [{"subject": "France", "prompt": "The capital of {} is", "object": "Paris"}]
        >>> method = Law("embedded", facts, args=LawConfig(output_dir="runs/wash"))  # doctest: +SKIP
        >>> method.run().model  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | Path | LocalModel,
        facts: FactRows,
        *,
        args: LawConfig,
        keep: FactRows = (),
        references: FactRows = (),
        corpus: str | Path | Iterable[str] | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.args = args
        self.facts = list(read_facts(facts))
        self.keep = _facts(keep)
        check_disjoint(self.facts, self.keep)
        taken = {f.subject.casefold() for f in [*self.facts, *self.keep]}
        free = [f for f in _facts(references) if f.subject.casefold() not in taken]
        self.references = free[: args.n_references]
        if args.n_references and len(free) > args.n_references:
            lost = {f.relation for f in free} - {f.relation for f in self.references}
            logger.warning(
                "%d of %d references are used (n_references)%s",
                len(self.references),
                len(free),
                f", none of {', '.join(map(repr, sorted(lost)))}" if lost else "",
            )
        self.on_progress: OnProgress = on_progress or (lambda *_: None)
        self._model = model
        self._corpus = corpus
        self.variants: dict[str, Measurement] = {}
        self.edits: list[list[LayerEdit]] = []
        self.audit_result: Audit | None = None

    # ------------------------------------------------------------------------------------------ the method

    def run(self) -> LawResult:
        """All stages; continues where a run in the same folder stopped.

        Raises:
            NothingSelectedError: the model knows none of the facts; nothing was changed.
        """
        with self.opened():
            self.probe()
            self.measure("base")
            self.statistics()
            for number in range(1, self.args.max_rounds + 1):
                self.round = number
                self.targets()
                self.wash()
                if not self.verify():
                    break
            self.measure("law")
            self.audit()
            self.baselines()
            return self.report()

    @contextmanager
    def opened(self) -> Iterator[Run]:
        """The run folder, locked, and the model, loaded, while stages run; an error gives it its weights back."""
        args = self.args
        folder = Run.open(args.output_dir, method="law", config=args, on_config_change=args.on_config_change)
        with folder:
            self.folder = folder
            model: Any = self._model
            if isinstance(model, (str, Path)):
                model = load_local(model, dtype=args.dtype)
            self.decoder = Decoder(model)
            if args.batch_tokens:
                model.max_batch_tokens = args.batch_tokens
            self.model: LocalModel = model
            self.fingerprint = fingerprint(model)
            self._data = {
                "facts": facts_digest(self.facts),
                "keep": facts_digest(self.keep),
                "references": facts_digest(self.references),
                "model": self.fingerprint,
            }
            self.patches = AppliedPatches(self.decoder)
            self.wordings: list[Wording] = wordings_for(model, args)
            self.texts, self.held_out = general_texts(self._corpus, self._own_texts)
            self._data["corpus"] = hashlib.sha256("\0".join([*self.held_out, *self.texts]).encode()).hexdigest()
            self.layers = layers_for(self.decoder, self.args)
            with restored_on_error(self.decoder, self.layers):
                yield folder

    # -------------------------------------------------------------------------------------------- stages

    def probe(self) -> list[Fact]:
        """L0: keep only facts that the model knows by prompt, paraphrase or chat, and whose subject has a position."""

        def compute(folder: Path) -> None:
            asked = Questionnaire(self.facts, (), (), self.args)
            rows = asked.ask_forgotten(self.model)
            (folder / "probe.json").write_text(json.dumps([k.to_dict() for k in rows]))

        inputs = {**settings(self.args, ("probe_mode", "max_new_tokens")), "chat": "chat" in self.args.attacks}
        stored = self._stage("probe", inputs, compute, lambda folder: json.loads((folder / "probe.json").read_text()))
        self.probed = [Knowledge.from_dict(k) for k in stored]
        usable = rows_for(self.model, self.facts, self.wordings)
        without = [f.id for f, k, rows in zip(self.facts, self.probed, usable, strict=True) if k.anywhere and not rows]
        if without:
            self.folder.event("no-position", facts=without)
            logger.warning(
                "%d known facts are not edited, since their subject is the first token in every wording: %s. "
                'contexts="auto" has a wording with text before it',
                len(without),
                ", ".join(without[:5]),
            )
        chosen = [k.anywhere and bool(rows) for k, rows in zip(self.probed, usable, strict=True)]
        self.known = [f for f, use in zip(self.facts, chosen, strict=True) if use]
        self.found = [k for k, use in zip(self.probed, chosen, strict=True) if use]
        self.questions = Questionnaire(self.known, self.keep, self.held_out, self.args)
        if not self.known:
            self.folder.event("nothing-known")
            raise NothingSelectedError(
                f"{self.model.name} knows none of the {len(self.facts)} facts (by the object's first token after the "
                f"prompt): there is nothing to wash. What it says instead is in {self.folder.path('stages')}/*-probe; "
                'probe_mode="generate" looks for the object anywhere in the first tokens'
            )
        return self.known

    def measure(self, variant: str) -> Measurement:
        """Ask the model, as it is now, for what must stay; the facts to forget were asked for last."""
        inputs = {"variant": variant, "washed": self.patches.digests, **self._asked()}
        found: Measurement = self._stage(
            f"measure-{variant}",
            inputs,
            lambda folder: self.questions.measure(self.model, self.found).save(folder / "measurement.json"),
            lambda folder: Measurement.load(folder / "measurement.json"),
        )
        self.variants[variant] = found
        return found

    def statistics(self) -> dict[int, Statistics]:
        """C0 of the chosen blocks, from the cache or from one pass over the corpus."""
        self.general = statistics(
            self.decoder,
            self.texts,
            self.layers,
            tokens=self.args.stats_tokens,
            model_fingerprint=self.fingerprint,
            on_progress=lambda done, total: self.on_progress("statistics", done, total, "tokens"),
        )
        return self.general

    def targets(self) -> Targets:
        """L2a: where the state of each fact that is still known shall go."""
        if self.round == 1:
            self.pending = self.known
        self.rows = rows_for(self.model, self.pending, self.wordings)
        last = self.layers[-1]

        def compute(folder: Path) -> None:
            learn_shards(
                folder,
                self.model,
                self.pending,
                self.rows,
                last,
                self.args,
                references=self.references,
                wordings=self.wordings,
                on_progress=lambda s, n, note: self.on_progress(f"targets-{self.round}", s, n, note),
            )

        inputs = {"layer": last, "round": self.round, **self._asked(), **settings(self.args, TARGETS)}
        inputs |= {"facts": facts_digest(self.pending), "washed": self.patches.digests}
        self.learnt: Targets = self._stage(f"targets-{self.round}", inputs, compute, load_targets)
        return self.learnt

    def wash(self) -> list[LayerEdit]:
        """L2c to L5: spread the displacements over the blocks; facts that are gone are left out of the next block."""
        gone = [f for f in self.known if f not in self.pending]
        work = Washables(
            self.pending,
            self.rows,
            self.learnt.deltas,
            settled=rows_for(self.model, gone, self.wordings),
            references=[own[:1] for own in rows_for(self.model, self.references, self.wordings)],
        )

        def compute(folder: Path) -> None:
            edits, patches = wash_round(
                self.decoder,
                work,
                self.layers,
                self.general,
                self.args,
                folder=folder,
                on_progress=lambda done, total, note: self.on_progress(f"wash-{self.round}", done, total, note),
            )
            save_patches(folder / PATCHES, {f"{self.round}/{k}": p for k, p in patches.items()})
            (folder / "edits.json").write_text(json.dumps([e.to_dict() for e in edits]))
            undo_patches(self.decoder, list(patches.values()))

        inputs = {"round": self.round, "layers": self.layers, **self._asked(), **settings(self.args, WASH)}
        inputs |= {"targets": digest(self.learnt.deltas)}
        edits: list[LayerEdit]
        edits, patches = self._stage(f"wash-{self.round}", inputs, compute, load_round)
        self.edits.append(edits)
        self.patches.apply(patches)
        return edits

    def verify(self) -> bool:
        """L4: what is still known goes into the next round; a round that costs too much is taken back.

        Returns:
            whether another round is needed.
        """
        inputs = {"washed": self.patches.digests, **self._asked()}
        checked: Measurement = self._stage(
            f"verify-{self.round}",
            inputs,
            lambda folder: Measurement(
                {FORGET: self.questions.ask_forgotten(self.model)}, self.questions.perplexity(self.model)
            ).save(folder / "measurement.json"),
            lambda folder: Measurement.load(folder / "measurement.json"),
        )
        self.ppl_ratio = checked.perplexity / self.variants["base"].perplexity
        if self.args.on_budget == "stop" and self.ppl_ratio > self.args.max_ppl_ratio:
            self.folder.event("budget", round=self.round, ppl_ratio=self.ppl_ratio)
            logger.warning("round %d: perplexity x%.3f is over the budget: taken back", self.round, self.ppl_ratio)
            self.patches.take_back(self.round)
            self.edits.pop()
            return False
        self.found = checked.groups[FORGET]
        known = {k.id for k in self.found if k.anywhere}
        self.pending = [f for f in self.known if f.id in known]
        return len(known) > self.args.stop_accuracy * len(self.known)

    def audit(self) -> Audit:
        """Attack the washed model; see :func:`~evolvent.methods.law.audit.attack`."""

        def compute(folder: Path) -> None:
            known, never_known = self._references_by_knowledge()
            same = zip(self.questions.facts(SAME_RELATION), self.variants["base"].groups[SAME_RELATION], strict=True)
            found = attack(
                self.decoder,
                self.layers,
                self.questions,
                base=self.variants["base"],
                washed=self.variants["law"],
                never_known=never_known,
                shown=[*known, *(f for f, k in same if k.known)],
                original=self.patches.set_aside,
                args=self.args,
                on_progress=lambda done, total, note: self.on_progress("audit", done, total, note),
            )
            found.save(folder / "audit.json")

        inputs = {"washed": self.patches.digests, **self._asked(), "lr": self.args.baseline_lr}
        inputs |= {"steps": self.args.relearn_steps, "references": self._data["references"]}
        inputs |= settings(self.args, ["attacks"])
        self.audit_result = self._stage("audit", inputs, compute, lambda folder: Audit.load(folder / "audit.json"))
        return self.audit_result

    def baselines(self) -> dict[str, Measurement]:
        """Gradient methods from the original weights, each until its forgetting equals LAW's."""
        reached = _share(self.variants["law"])
        for kind in self.args.baselines:

            def compute(folder: Path, kind: str = kind) -> None:
                with self.patches.set_aside(), trained(self.model, self.args.baseline_lr) as optimizer:
                    done = forget_by_gradient(
                        self.model,
                        optimizer,
                        kind,
                        self.known,
                        retain=self.texts,
                        until=reached,
                        epochs=self.args.baseline_epochs,
                        seed=self.args.seed,
                        on_progress=lambda s, n, note: self.on_progress(f"baseline-{kind}", s, n, note),
                    )
                    self.questions.measure(self.model).save(folder / "measurement.json")
                    (folder / "run.json").write_text(json.dumps(done.__dict__))

            inputs = {"kind": kind, "until": reached, "lr": self.args.baseline_lr, "seed": self.args.seed}
            inputs |= {"epochs": self.args.baseline_epochs, **self._asked()}
            self.variants[kind] = self._stage(
                f"baseline-{kind}", inputs, compute, lambda folder: Measurement.load(folder / "measurement.json")
            )
        return {k: v for k, v in self.variants.items() if k in self.args.baselines}

    def report(self) -> LawResult:
        """Metrics, checkpoint with lineage, certificate, and the page."""
        metrics = metrics_of(self.variants)
        if self.audit_result is not None:
            metrics |= self.audit_result.metrics
        known = {k.id for k in self.variants["law"].groups[FORGET] if k.anywhere}
        remaining = [f.id for f in self.known if f.id in known]
        metrics |= {
            "facts/given": len(self.facts),
            "facts/known": len(self.known),
            "facts/remaining": len(remaining),
            "rounds": len(self.edits),
            "perplexity/ratio": self.variants["law"].perplexity / self.variants["base"].perplexity,
        }
        before, after = before_and_after(metrics)
        lineage = Lineage(
            parent=self.model.name,
            parent_digest=self.fingerprint,
            method="law",
            config=self.args.model_dump(mode="json"),
            data=self._data,
            seed=self.args.seed,
            wall_seconds=sum(self.folder.seconds.values()),
            metrics_before=before,
            metrics_after=after,
            notes=[WARNING],
        )
        checkpoint = publish(self.folder.folder, self.model, self.patches, lineage)
        if self.audit_result is not None:
            certificate = self.audit_result.certificate(self.known, checkpoint)
            (self.folder.folder / "certificate.json").write_text(json.dumps(certificate, indent=2))
        path = self.folder.write_metrics(metrics).with_name("report.html")
        build_report(self, metrics).save(path)
        complete = _share(self.variants["law"]) <= self.args.stop_accuracy
        self.on_progress("report", 1, 1, "")
        washed = [f.id for f in self.known if f.id not in known]
        return LawResult(str(checkpoint), complete, metrics, washed, remaining, path, self.folder.folder)

    # -------------------------------------------------------------------------------------------- parts

    def _stage(
        self, name: str, inputs: dict[str, Any], compute: Callable[[Path], object], load: Callable[[Path], T]
    ) -> T:
        self.on_progress(name, 0, 1, "")
        given = {**inputs, "model": self.fingerprint, "facts": self._data["facts"]}
        found = self.folder.stage(name, given, compute, load=load)  # type: ignore[arg-type]
        self.on_progress(name, 1, 1, "")
        return found

    def _asked(self) -> dict[str, Any]:
        return {"data": self._data, **asked(self.args)}

    def _references_by_knowledge(self) -> tuple[list[Fact], list[Fact]]:
        """References that the original model knows, and those that it does not."""
        with self.patches.set_aside():
            found = probe(self.model, self.references, paraphrases=False, chat=False) if self.references else []
        pairs = list(zip(self.references, found, strict=True))
        return [f for f, k in pairs if k.known], [f for f, k in pairs if not k.known]

    def _own_texts(self) -> list[str]:
        def compute(folder: Path) -> None:
            wanted = self.args.stats_tokens or 10 * self.decoder.width
            texts = written_texts(self.model, wanted, seed=self.args.seed)
            (folder / "texts.json").write_text(json.dumps(texts))

        texts: list[str] = self._stage(
            "own-text",
            {"seed": self.args.seed, "tokens": self.args.stats_tokens},
            compute,
            lambda folder: json.loads((folder / "texts.json").read_text()),
        )
        return texts


def _facts(rows: FactRows) -> list[Fact]:
    given = rows if isinstance(rows, (str, Path)) else list(rows)
    return list(read_facts(given)) if given else []  # type: ignore[arg-type]


def _share(found: Measurement) -> float:
    hits = found.hits(FORGET, "prompt")
    return sum(hits) / len(hits)
