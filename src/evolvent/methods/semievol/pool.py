"""The table of every unlabelled row and its fate, and the files that it is written to."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evolvent.data.files import write_jsonl
from evolvent.data.records import HIDDEN_ANSWER, Question
from evolvent.data.tasks import Task
from evolvent.methods.semievol.collaboration import Consensus
from evolvent.methods.semievol.evolution import is_correction
from evolvent.methods.semievol.justification import JudgeTrial
from evolvent.methods.semievol.selection import Selection


@dataclass(frozen=True, slots=True)
class PoolRow:
    """One unlabelled row: what was said about it, how surely, and why it was kept or dropped.

    Attributes:
        id: of the row.
        question: its text.
        pseudo_answer: the consensus; None when it could not be read.
        uncertainty: see `SemiEvolConfig.confidence`; lower is surer.
        probability: weight of the consensus among the answers.
        votes: voter -> its answer.
        agreed: whether all voters said the same.
        judged: whether a judge decided.
        correction: whether the consensus differs from the first voter's answer.
        reason: "selected", "unsure" or "unparsed".
        round: in which it was labelled.
        correct: against a hidden answer, if the file had one; for the report only.
    """

    id: str
    question: str
    pseudo_answer: str | None
    uncertainty: float
    probability: float
    votes: dict[str, str | None]
    agreed: bool
    judged: bool
    correction: bool
    reason: str
    round: int
    correct: bool | None


def pool_rows(
    task: Task,
    questions: Sequence[Question],
    consensuses: Sequence[Consensus],
    uncertainties: Sequence[float],
    selection: Selection,
    voters: Sequence[str],
    *,
    round_number: int,
) -> list[PoolRow]:
    """The fate of every row, in input order."""
    rows = []
    for question, consensus, unsure, reason in zip(
        questions, consensuses, uncertainties, selection.reasons, strict=True
    ):
        hidden = question.meta.get(HIDDEN_ANSWER)
        answer = consensus.answer
        names = (
            voters if len(voters) == len(consensus.ballots) else [f"vote-{i}" for i in range(len(consensus.ballots))]
        )
        rows.append(
            PoolRow(
                id=question.id,
                question=question.question,
                pseudo_answer=answer,
                uncertainty=unsure,
                probability=max(consensus.distribution, default=0.0),
                votes={
                    n: consensus.candidates[b] if b >= 0 else None
                    for n, b in zip(names, consensus.ballots, strict=True)
                },
                agreed=consensus.agreed,
                judged=consensus.judged,
                correction=is_correction(consensus),
                reason=reason,
                round=round_number,
                correct=None if hidden is None else answer is not None and task.matches(answer, str(hidden)),
            )
        )
    return rows


def write_pool(
    folder: Path,
    task: Task,
    questions: Sequence[Question],
    rows: Sequence[PoolRow],
    *,
    correction_weight: float,
) -> None:
    """Write `pool.parquet` (all rows) and `selected.jsonl` (what is trained on) into the run folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([{**asdict(row), "votes": json.dumps(row.votes)} for row in rows])
    temporary = folder / "pool.parquet.tmp"
    pq.write_table(table, temporary)
    temporary.rename(folder / "pool.parquet")
    write_jsonl(
        folder / "selected.jsonl",
        [
            {
                "id": row.id,
                "prompt": task.prompt(question),
                "completion": task.completion(question, row.pseudo_answer),
                "pseudo_answer": row.pseudo_answer,
                "confidence": None if math.isnan(row.uncertainty) else -row.uncertainty,
                "votes": row.votes,
                "judged": row.judged,
                "round": row.round,
                "weight": correction_weight if row.correction else 1.0,
            }
            for question, row in zip(questions, rows, strict=True)
            if row.reason == "selected" and row.pseudo_answer is not None
        ],
    )


def write_consensuses(path: Path, consensuses: Sequence[Consensus]) -> None:
    """One JSON line a row."""
    path.write_text("".join(json.dumps(asdict(c)) + "\n" for c in consensuses))


def read_consensuses(path: Path) -> list[Consensus]:
    """What :func:`write_consensuses` wrote."""
    return [_consensus(json.loads(line)) for line in path.read_text().splitlines()]


def write_trial(path: Path, trial: JudgeTrial | None) -> None:
    """The judge's trial as JSON, null for none."""
    path.write_text(json.dumps(asdict(trial) if trial else None))


def read_trial(path: Path) -> JudgeTrial | None:
    """What :func:`write_trial` wrote."""
    stored = json.loads(path.read_text())
    return JudgeTrial(**stored) if stored else None


def digest(consensuses: Sequence[Consensus]) -> str:
    """Hash of what the voters said."""
    text = json.dumps([asdict(c) for c in consensuses])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _consensus(stored: Mapping[str, Any]) -> Consensus:
    return Consensus(
        id=str(stored["id"]),
        candidates=tuple(stored["candidates"]),
        distribution=tuple(stored["distribution"]),
        ballots=tuple(stored["ballots"]),
        nll=float(stored["nll"]),
        judged=bool(stored["judged"]),
    )
