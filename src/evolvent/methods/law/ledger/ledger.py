"""The erasure ledger: facts are washed on request, one request after the other, and no request is kept.

For each edited block the ledger holds S = Σ kkᵀ and B = Σ rkᵀ over all facts so far, m² + dm numbers whatever their
count, for the ORIGINAL weights. A release solves for the edit of those sums, so a batch that came in pieces is released
as the batch; see :mod:`~evolvent.methods.law.ledger.columns` for what makes that exact.

    config.yaml  ledger.json  held_out.json  statistics/BLOCK.safetensors  receipts/N.json
    sums-N.safetensors  references-N.jsonl          after request N; ledger.json names those that count

`ledger.json` is replaced last, in one step: a request that is killed before has left the ledger as it was.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import yaml
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from evolvent.data.facts import FactRows, facts_digest, read_facts
from evolvent.data.files import read_jsonl, write_json, write_jsonl, write_text
from evolvent.data.records import Fact
from evolvent.errors import ConfigError, DataError, ModelError, NothingSelectedError
from evolvent.methods.law.config import LawConfig
from evolvent.methods.law.corpus import general_texts, written_texts
from evolvent.methods.law.decoder import Decoder
from evolvent.methods.law.layers import layers_for
from evolvent.methods.law.ledger.columns import Units, add_fact
from evolvent.methods.law.ledger.receipts import Opening, OwnReceipt, Receipt, check_chain, commitment, nonce
from evolvent.methods.law.ledger.sums import load_sums, notes_of, save_sums, sums_digest
from evolvent.methods.law.probe import Knowledge, probe
from evolvent.methods.law.spectral import Streamed
from evolvent.methods.law.statistics import (
    Statistics,
    fingerprint,
    load_statistics,
    statistics,
    store_statistics,
)
from evolvent.methods.law.targets import learn_targets, learner_of, suffix_form_agrees
from evolvent.methods.law.wordings import rows_for, wordings_for
from evolvent.models.local import LocalModel
from evolvent.models.resolve import load_local

OnProgress = Callable[[str, int, int, str], None]
SAVED_EVERY = 32  # facts of a request that a kill may cost


class Head(BaseModel):
    """What counts in a ledger.

    Attributes:
        model: reference of the original; fingerprint: of its weights.
        layers: edited blocks; width, hidden: of their down-projections' inputs and outputs.
        requests: how many there were; facts: how many are in the sums.
        sums, references: names of the files.
        beginning: digest of everything that was fixed when the ledger began.
        last: digest of the last receipt; of the beginning before the first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    fingerprint: str
    layers: tuple[int, ...]
    width: int
    hidden: int
    requests: int = 0
    facts: int = 0
    sums: str = ""
    references: str = "references-0.jsonl"
    beginning: str
    last: str


class Ledger:
    """A folder of sums and receipts.

    Args:
        folder: see :meth:`begin`.

    Raises:
        DataError: it is no ledger, or its settings are damaged.

    Example:
        >>> from evolvent.methods.law.ledger import Ledger
        >>> ledger = Ledger("runs/ledger")  # doctest: +SKIP
        >>> ledger.add("request.jsonl", receipt="request-receipt.json")  # doctest: +SKIP
    """

    def __init__(self, folder: str | Path, *, on_progress: OnProgress | None = None) -> None:
        self.folder = Path(folder)
        if not (self.folder / "ledger.json").is_file():
            raise DataError(f"{folder}: no ledger.json; this is no erasure ledger")
        try:
            stored = yaml.safe_load((self.folder / "config.yaml").read_text())
            self.args = LawConfig.model_validate({**stored, "output_dir": self.folder})
        except (OSError, TypeError, yaml.YAMLError, ValidationError) as error:
            raise DataError(f"{self.folder / 'config.yaml'}: not the settings of a ledger ({error})") from error
        self.on_progress: OnProgress = on_progress or (lambda *_: None)
        self._model: LocalModel | None = None

    @classmethod
    def begin(
        cls,
        folder: str | Path,
        *,
        model: str | Path | LocalModel,
        args: LawConfig,
        references: FactRows = (),
        corpus: str | Path | Iterable[str] | None = None,
        on_progress: OnProgress | None = None,
    ) -> Self:
        """Make an empty ledger for a model.

        Args:
            folder: must hold none yet.
            model: the original, see :class:`~evolvent.methods.law.law.Law`.
            args: where and how facts are washed; `output_dir` is not used.
            references: facts of the same relations about other subjects, whose prompts a release protects. A request
                about one of them takes it out.
            corpus: general text; without it the model writes its own.
            on_progress: called with (stage, done, total, note).

        Raises:
            ConfigError: the folder holds a ledger, or a setting makes a fact's share depend on other facts.
        """
        place = Path(folder)
        if (place / "ledger.json").is_file():
            raise ConfigError(f"{folder} holds a ledger already")
        _check_settings(args)
        place.mkdir(parents=True, exist_ok=True)
        loaded = model if isinstance(model, LocalModel) else load_local(model, dtype=args.dtype)
        decoder = Decoder(loaded)
        layers = layers_for(decoder, args)
        wanted = args.stats_tokens or 10 * decoder.width
        texts, held_out = general_texts(corpus, lambda: written_texts(loaded, wanted, seed=args.seed))
        mark = fingerprint(loaded)
        tell = on_progress or (lambda *_: None)
        general = statistics(
            decoder,
            texts,
            layers,
            tokens=args.stats_tokens,
            model_fingerprint=mark,
            on_progress=lambda done, total: tell("statistics", done, total, "tokens"),
        )
        for layer, found in general.items():
            store_statistics(place / "statistics" / f"{layer}.safetensors", found)
        kept = list(read_facts(references))[: args.n_references] if references else []
        write_jsonl(place / "references-0.jsonl", (f.model_dump(exclude_defaults=True) for f in kept))
        write_json(place / "held_out.json", held_out)
        stored = args.model_dump(mode="json", exclude={"output_dir"})
        write_text(place / "config.yaml", yaml.safe_dump(stored, sort_keys=False))
        (place / "receipts").mkdir(exist_ok=True)
        hasher = hashlib.sha256(f"{mark}{facts_digest(kept)}{json.dumps(stored)}".encode())
        for layer in layers:
            hasher.update((place / "statistics" / f"{layer}.safetensors").read_bytes())
        beginning = hasher.hexdigest()
        name = model.name if isinstance(model, LocalModel) else str(model)
        head = Head(
            model=name,
            fingerprint=mark,
            layers=layers,
            width=decoder.width,
            hidden=decoder.hidden,
            beginning=beginning,
            last=beginning,
        )
        write_text(place / "ledger.json", head.model_dump_json(indent=2))
        ledger = cls(place, on_progress=on_progress)
        ledger._model = loaded
        return ledger

    # ------------------------------------------------------------------------------------------ requests

    def add(self, facts: FactRows, *, receipt: str | Path, request: str | None = None) -> Receipt:
        """Take a request in; killed, it goes on where it stopped when it is made again.

        Args:
            facts: what is to be forgotten. What the model does not know gets a commitment and no column.
            receipt: file that gets the requester's own receipt. The ledger cannot make it again.
            request: its id; None: a random one.

        Raises:
            ConfigError: the id is taken, the file is another request's receipt, or another process adds.
            NothingSelectedError: the model knows none of the facts; the ledger is as it was.
        """
        rows = list(read_facts(facts))
        with self._locked():
            head = self.head
            name = request or secrets.token_hex(6)
            self._check_new(name, Path(receipt))
            model = self.model
            known = self._known(rows)
            usable = rows_for(model, rows, wordings_for(model, self.args))
            chosen = [i for i, k in enumerate(known) if k.anywhere and usable[i]]
            if not chosen:
                raise NothingSelectedError(f"{model.name} knows none of the {len(rows)} facts: nothing was added")
            sums = self._summed([rows[i] for i in chosen], [usable[i] for i in chosen], head)
            kept = self._references_without({f.subject.casefold() for f in rows})
            openings = tuple(
                Opening(id=f.id, nonce=nonce(), washed=i in set(chosen), before=k.to_dict())
                for i, (f, k) in enumerate(zip(rows, known, strict=True))
            )
            sealed = Receipt(
                request=name,
                number=head.requests + 1,
                time=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                facts=len(rows),
                washed=len(chosen),
                commitments=tuple(commitment(f, o.nonce) for f, o in zip(rows, openings, strict=True)),
                model=head.fingerprint,
                sums=sums_digest(sums),
                before=head.last,
            ).sealed()
            own = OwnReceipt(receipt=sealed, openings=openings)
            write_text(receipt, own.model_dump_json(indent=2) + "\n")
            self._commit(head, sealed, sums, kept)
        return sealed

    def receipts(self) -> list[Receipt]:
        """All receipts, first to last, with their chain checked.

        Raises:
            DataError: one is missing or was changed.
        """
        head = self.head
        found = []
        for number in range(1, head.requests + 1):
            path = self.folder / "receipts" / f"{number}.json"
            if not path.is_file():
                raise DataError(f"{path}: this receipt is missing")
            try:
                found.append(Receipt.model_validate_json(path.read_text(encoding="utf-8")))
            except ValidationError as error:
                raise DataError(f"{path}: this receipt was changed, it is none any more") from error
        check_chain(found, head.beginning)
        if (found[-1].sha256 if found else head.beginning) != head.last:
            raise DataError(f"{self.folder}: the last receipt is not the one that ledger.json names")
        return found

    # ------------------------------------------------------------------------------------------ contents

    @property
    def head(self) -> Head:
        """What counts now.

        Raises:
            DataError: `ledger.json` is damaged.
        """
        path = self.folder / "ledger.json"
        try:
            return Head.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise DataError(f"{path}: not the head of a ledger ({error.errors()[0]['msg']})") from error

    @property
    def model(self) -> LocalModel:
        """The original model.

        Raises:
            ModelError: its weights are not those that the ledger began with.
        """
        if self._model is None:
            head = self.head
            model: LocalModel = load_local(head.model, dtype=self.args.dtype)
            if fingerprint(model) != head.fingerprint:
                raise ModelError(f"{head.model} is not the model that {self.folder} began with: its weights differ")
            self._model = model
        return self._model

    def statistics(self) -> dict[int, Statistics]:
        """C0 of each block."""
        head = self.head
        return {n: load_statistics(self.folder / "statistics" / f"{n}.safetensors", head.width) for n in head.layers}

    def sums(self) -> dict[int, Streamed]:
        """S and B of each block, whole numbers.

        Raises:
            DataError: the file is not the one that the last receipt speaks of.
        """
        head = self.head
        if not head.sums:
            return {layer: Streamed(head.width, head.hidden) for layer in head.layers}
        sums = load_sums(self.folder / head.sums, head.layers)
        if sums_digest(sums) != self.receipts()[-1].sums:
            raise DataError(f"{self.folder / head.sums}: these sums are not those of the last receipt")
        return sums

    def references(self) -> list[Fact]:
        """Facts whose prompts a release protects."""
        return [Fact.model_validate(row) for _, row in read_jsonl(self.folder / self.head.references)]

    def held_out(self) -> list[str]:
        """General text for perplexity."""
        texts: list[str] = json.loads((self.folder / "held_out.json").read_text(encoding="utf-8"))
        return texts

    # --------------------------------------------------------------------------------------------- parts

    def _check_new(self, request: str, receipt: Path) -> None:
        chain = self.receipts()
        if any(r.request == request for r in chain):
            raise ConfigError(f"{self.folder}: request {request} is in this ledger already")
        if receipt.is_file() and OwnReceipt.load(receipt).receipt in chain:
            raise ConfigError(f"{receipt} is the only receipt of another request: choose another --receipt")
        receipt.parent.mkdir(parents=True, exist_ok=True)

    def _known(self, facts: Sequence[Fact]) -> list[Knowledge]:
        args = self.args
        return probe(self.model, facts, mode=args.probe_mode, max_new_tokens=args.max_new_tokens)

    def _summed(self, facts: Sequence[Fact], rows: Sequence[Sequence[Any]], head: Head) -> dict[int, Streamed]:
        """The ledger's sums with these facts; what a killed request has summed already is used."""
        place = self.folder / "adding.safetensors"
        inputs = f"{head.last}{facts_digest(facts)}"
        sums, done = self.sums(), 0
        if place.is_file() and notes_of(place).get("inputs") == inputs:
            sums, done = load_sums(place, head.layers), int(notes_of(place)["done"])
        units = {layer: Units.of(found) for layer, found in self.statistics().items()}
        decoder = Decoder(self.model)
        with learner_of(self.model, self.args.target_dtype) as learner:
            whole = not suffix_form_agrees(learner, head.layers[-1], rows[0])
            for i in range(done, len(facts)):
                found = learn_targets(
                    learner, facts[i : i + 1], rows[i : i + 1], head.layers[-1], self.args, whole=whole
                )
                add_fact(sums, units, decoder, facts[i], rows[i], found.deltas[0])
                self.on_progress("columns", i + 1, len(facts), "facts")
                if (i + 1) % SAVED_EVERY == 0:
                    save_sums(place, sums, inputs=inputs, done=str(i + 1))
        return sums

    def _references_without(self, subjects: set[str]) -> list[Fact]:
        return [f for f in self.references() if f.subject.casefold() not in subjects]

    def _commit(self, head: Head, sealed: Receipt, sums: dict[int, Streamed], references: Sequence[Fact]) -> None:
        number = sealed.number
        after = head.model_copy(
            update={
                "requests": number,
                "facts": head.facts + sealed.washed,
                "sums": f"sums-{number}.safetensors",
                "references": f"references-{number}.jsonl",
                "last": sealed.sha256,
            }
        )
        save_sums(self.folder / after.sums, sums)
        write_jsonl(self.folder / after.references, (f.model_dump(exclude_defaults=True) for f in references))
        write_text(self.folder / "receipts" / f"{number}.json", sealed.model_dump_json(indent=2) + "\n")
        write_text(self.folder / "ledger.json", after.model_dump_json(indent=2))
        for old in (head.sums, head.references, "adding.safetensors"):
            if old:
                (self.folder / old).unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = FileLock(self.folder / "ledger.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise ConfigError(f"{self.folder}: another process adds to this ledger; wait for it") from None
        try:
            yield
        finally:
            lock.release()


def _check_settings(args: LawConfig) -> None:
    """Refuse settings with which a fact's share of the sums would depend on other facts, or that no release uses."""
    if args.method == "anti":
        raise ConfigError("method='anti': a ledger is released by least squares; leave method out, or give memit")
    wrong = {
        "method": args.method == "ascent",
        "target": args.target == "mean",
        "key_contexts": args.key_contexts != "mean",
    }
    told = ", ".join(f"{name}={getattr(args, name)!r}" for name, is_wrong in wrong.items() if is_wrong)
    if told:
        raise ConfigError(f"a ledger cannot hold {told}: a fact's share of its sums would depend on other facts")
