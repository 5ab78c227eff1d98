"""The data gate: duplicates, conflicting answers, and rows that leak from the test set into training."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from evolvent.data.records import HIDDEN_ANSWER, Question

NEAR_DUPLICATE = 0.9
SHINGLE_WORDS = 3
_NOT_A_WORD = re.compile(r"[\W_]+")


def normalize_text(text: str) -> str:
    """Casefolded words in NFKC, everything else a single space."""
    return _NOT_A_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def text_key(text: str) -> str:
    """SHA-256 of the normalised text (of the text itself when nothing is left of it)."""
    return hashlib.sha256((normalize_text(text) or text).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass
class GateReport:
    """What the data gate found.

    Attributes:
        labeled: usable labelled rows; unlabeled, test: likewise.
        duplicates: set -> rows that repeat an earlier one, dropped.
        conflicts: labelled rows with the same question and another answer; the first one counts.
        overlap_labeled_test: labelled rows that are also test rows.
        overlap_unlabeled_test: unlabelled rows that are also test rows.
        overlap_labeled_unlabeled: unlabelled rows that are also labelled; the label counts.
        kept_overlap: whether the overlap with the test rows was left in.
        near_duplicates: pairs (training row, test row) whose words are almost the same (Jaccard >= 0.9).
        class_histogram: answer -> labelled rows.
        missing_classes: labels without any labelled row: they are never predicted with confidence.
        warnings: all of that in sentences.
    """

    labeled: int = 0
    unlabeled: int = 0
    test: int = 0
    duplicates: dict[str, int] = field(default_factory=dict)
    conflicts: int = 0
    overlap_labeled_test: int = 0
    overlap_unlabeled_test: int = 0
    overlap_labeled_unlabeled: int = 0
    kept_overlap: bool = False
    near_duplicates: list[tuple[str, str]] = field(default_factory=list)
    class_histogram: dict[str, int] = field(default_factory=dict)
    missing_classes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def data_gate(
    labeled: Sequence[Question],
    unlabeled: Sequence[Question],
    test: Sequence[Question] | None = None,
    *,
    keep_overlap: bool = False,
    labels: Sequence[str] | None = None,
) -> tuple[list[Question], list[Question], list[Question], GateReport]:
    """Make the three sets disjoint: (labelled, unlabelled, test, report).

    Args:
        labeled: rows with answers.
        unlabeled: rows without.
        test: rows that nothing may be learnt from.
        keep_overlap: count the overlap with the test rows, but leave it in.
        labels: answers that must occur; default those of the choices.
    """
    report = GateReport(kept_overlap=keep_overlap)
    kept_labeled, report.conflicts = _without_duplicates(labeled, "labeled", report)
    kept_unlabeled, _ = _without_duplicates(unlabeled, "unlabeled", report)
    tested = list(test or ())
    test_keys = {_key(q) for q in tested}
    report.overlap_labeled_test = sum(_key(q) in test_keys for q in kept_labeled)
    report.overlap_unlabeled_test = sum(_key(q) in test_keys for q in kept_unlabeled)
    if not keep_overlap:
        kept_labeled = [q for q in kept_labeled if _key(q) not in test_keys]
        kept_unlabeled = [q for q in kept_unlabeled if _key(q) not in test_keys]
    labeled_keys = {_key(q) for q in kept_labeled}
    report.overlap_labeled_unlabeled = sum(_key(q) in labeled_keys for q in kept_unlabeled)
    kept_unlabeled = [q for q in kept_unlabeled if _key(q) not in labeled_keys]
    report.labeled, report.unlabeled, report.test = len(kept_labeled), len(kept_unlabeled), len(tested)
    report.class_histogram = dict(Counter(q.answer or "" for q in kept_labeled).most_common())
    known = labels or sorted({c for q in kept_labeled for c in q.choices or ()} if _shared_choices(labeled) else ())
    report.missing_classes = [c for c in known if c not in report.class_histogram]
    report.near_duplicates = _near_duplicates([*kept_labeled, *kept_unlabeled], tested) if tested else []
    report.warnings = _warnings(report)
    return kept_labeled, kept_unlabeled, tested, report


def _without_duplicates(rows: Sequence[Question], name: str, report: GateReport) -> tuple[list[Question], int]:
    first: dict[str, Question] = {}
    conflicts = 0
    for row in rows:
        earlier = first.setdefault(_key(row), row)
        answers = [q.answer or q.meta.get(HIDDEN_ANSWER) for q in (earlier, row)]
        conflicts += earlier is not row and answers[0] != answers[1]
    report.duplicates[name] = len(rows) - len(first)
    return list(first.values()), conflicts


def _key(question: Question) -> str:
    return text_key("\n".join([question.context or "", question.question]))


def _shared_choices(rows: Sequence[Question]) -> bool:
    return len({q.choices for q in rows}) == 1


def _near_duplicates(rows: Sequence[Question], test: Sequence[Question]) -> list[tuple[str, str]]:
    """Pairs of different rows with almost the same words, by MinHash LSH and then exactly."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=NEAR_DUPLICATE, num_perm=64)
    shingles = {}
    for number, question in enumerate(test):
        shingles[number] = _shingles(question)
        if len(shingles[number]) > 3:
            index.insert(number, _minhash(MinHash, shingles[number]))
    pairs = []
    for question in rows:
        mine = _shingles(question)
        if len(mine) <= 3:
            continue
        for number in index.query(_minhash(MinHash, mine)):
            theirs = shingles[number]
            alike = len(mine & theirs) / len(mine | theirs)
            if alike >= NEAR_DUPLICATE and _key(question) != _key(test[number]):
                pairs.append((question.id, test[number].id))
    return pairs


def _shingles(question: Question) -> set[str]:
    words = normalize_text(question.question).split()
    return {" ".join(words[i : i + SHINGLE_WORDS]) for i in range(max(1, len(words) - SHINGLE_WORDS + 1))}


def _minhash(factory: Any, shingles: set[str]) -> Any:
    sketch = factory(num_perm=64, seed=1)
    sketch.update_batch([s.encode("utf-8", "surrogatepass") for s in sorted(shingles)])
    return sketch


def _warnings(report: GateReport) -> list[str]:
    said = []
    for name, count in report.duplicates.items():
        if count:
            spelt = {"labeled": "labelled", "unlabeled": "unlabelled"}[name]
            said.append(f"{count} {spelt} rows repeat an earlier one and were dropped")
    if report.conflicts:
        said.append(f"{report.conflicts} labelled rows repeat a question with another answer; the first one counts")
    fate = "left in (keep_overlap)" if report.kept_overlap else "removed"
    for name, count in (
        ("labelled", report.overlap_labeled_test),
        ("unlabelled", report.overlap_unlabeled_test),
    ):
        if count:
            said.append(f"{count} {name} rows are test rows: {fate}")
    if report.overlap_labeled_unlabeled:
        said.append(f"{report.overlap_labeled_unlabeled} unlabelled rows have a label already: the label counts")
    if report.near_duplicates:
        shown = ", ".join(f"{a} ~ {b}" for a, b in report.near_duplicates[:3])
        said.append(f"{len(report.near_duplicates)} rows are almost test rows ({shown}); look at them")
    if report.missing_classes:
        said.append(f"no labelled row for {', '.join(report.missing_classes)}: such rows cannot be recognised")
    return said
