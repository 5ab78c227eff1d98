"""Receipts of erasure requests: what a ledger publishes, and what only the requester can open.

A ledger keeps a commitment for each fact, SHA-256 over a random nonce and the fact's text. Without the nonce it says
nothing, however few facts there are to guess from; with it, the fact's holder proves that it was in the request.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from evolvent.data.records import Fact
from evolvent.errors import DataError


class Receipt(BaseModel):
    """One request, as the ledger keeps it; holds neither facts nor their subjects.

    Attributes:
        request: its id; number: its place, from 1.
        time: local time with zone.
        facts: how many came; washed: how many of them the model knew, so that they are in the sums.
        commitments: one for each fact, in the request's order.
        model: fingerprint of the weights that the sums are for.
        sums: digest of the sums after this request; it does not depend on the order of requests.
        before: digest of the previous receipt, of the ledger's beginning for the first.
        sha256: over all of the above.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    request: str
    number: int
    time: str
    facts: int
    washed: int
    commitments: tuple[str, ...]
    model: str
    sums: str
    before: str
    sha256: str = ""

    def sealed(self) -> Receipt:
        """With its own digest."""
        return self.model_copy(update={"sha256": digest_of(self.model_dump(mode="json", exclude={"sha256"}))})


class Opening(BaseModel):
    """What opens the commitment of one fact.

    Attributes:
        id: of the fact, in the requester's own file.
        nonce: 128 random bits.
        washed: whether the model knew it.
        before: what the model said of it, see :class:`~evolvent.methods.law.probe.Knowledge`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    nonce: str
    washed: bool
    before: dict[str, Any]


class OwnReceipt(BaseModel):
    """What the requester gets: the receipt, and the openings that the ledger does not keep."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    receipt: Receipt
    openings: tuple[Opening, ...]

    @classmethod
    def load(cls, path: str | Path) -> OwnReceipt:
        """Read a requester's receipt.

        Raises:
            DataError: there is no such file, or it is none.
        """
        try:
            return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from error
        except ValidationError as error:
            raise DataError(f"{path}: not the receipt that `evolvent law ledger add --receipt` wrote") from error

    def opened(self, facts: Sequence[Fact]) -> list[tuple[Fact, Opening]]:
        """The facts that were in the request, each with its opening.

        Raises:
            DataError: a fact was not in it, or is not as it was; names ids.
        """
        places = {opening.id: i for i, opening in enumerate(self.openings)}
        pairs = []
        for fact in facts:
            place = places.get(fact.id)
            opening = None if place is None else self.openings[place]
            if opening is None or commitment(fact, opening.nonce) != self.receipt.commitments[place or 0]:
                raise DataError(
                    f"fact {fact.id} ({fact.subject}) does not open a commitment of request {self.receipt.request}: "
                    "it was not in it, or its subject, prompt, object or aliases were changed since"
                )
            pairs.append((fact, opening))
        return pairs


def nonce() -> str:
    """128 random bits, in hexadecimal."""
    return secrets.token_hex(16)


def commitment(fact: Fact, nonce: str) -> str:
    """SHA-256 over a nonce and what a fact says; its id is not part of it."""
    said = {"subject": fact.subject, "prompt": fact.prompt, "object": fact.object, "aliases": fact.aliases}
    return digest_of({"nonce": nonce, **said})


def check_chain(receipts: Sequence[Receipt], beginning: str) -> None:
    """Every receipt is as it was sealed and names the one before it.

    Raises:
        DataError: names the first receipt that is not.
    """
    before = beginning
    for number, receipt in enumerate(receipts, start=1):
        if receipt.sealed().sha256 != receipt.sha256:
            raise DataError(f"receipt {number} ({receipt.request}) was changed after it was sealed")
        if receipt.number != number or receipt.before != before:
            raise DataError(f"receipt {number} ({receipt.request}) does not follow the one before it: one is missing")
        before = receipt.sha256


def digest_of(value: Any) -> str:
    """SHA-256 of a value as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
