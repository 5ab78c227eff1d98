"""Question-answer pairs about passages: records, reading, and the filters that generated ones must pass."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from evolvent.data.files import read_jsonl, write_jsonl
from evolvent.data.overlap import text_key
from evolvent.data.parsing import squash
from evolvent.data.passages import split_passages
from evolvent.data.records import Passage
from evolvent.errors import DataError

Pairs = str | Path | Iterable["QAPair | Mapping[str, Any]"]  # what the method takes

MAX_SHARED_TRIGRAMS = 0.8  # of two questions that count as one
_REFERS = re.compile(r"\b(?:the|this|that) (?:passage|text|article|document|author|context|paragraph)\b", re.IGNORECASE)


class QAPair(BaseModel):
    """A question whose answer a passage gives.

    Attributes:
        id: unique in a run.
        passage: id of the passage.
        question: its text; empty for `kind="split"`, whose answer is the rest of a text after its beginning.
        answer: the short answer.
        fact: what all wordings of one question have in common; default the passage and the answer.
        kind: "fact", "cloze" (complete a sentence) or "split".
        source: who made it: "given", "rules", "split", or a model's name.
        begin: `kind="split"`: the beginning of the text, which only the teacher sees.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    passage: str
    question: str
    answer: str
    fact: str = ""
    kind: Literal["fact", "cloze", "split"] = "fact"
    source: str = "given"
    begin: str = ""

    @classmethod
    def of(cls, passage: str, question: str, answer: str, **more: Any) -> QAPair:
        """A pair with its id and fact filled in."""
        question, answer = question.strip(), answer.strip()
        fact = more.pop("fact", "") or f"{passage}:{squash(answer)}"
        name = text_key(f"{passage}\x00{question}\x00{answer}")[:12]
        return cls(id=name, passage=passage, question=question, answer=answer, fact=fact, **more)


def read_pairs(source: Pairs, passages: Sequence[Passage], *, max_answer_words: int = 40) -> list[QAPair]:
    """Read pairs.

    Args:
        source: a .jsonl file or rows with `passage` (or `context_id`; may be left out when there is one passage),
            `question`, `answer`, and optionally `fact`. This is also what `pairs.jsonl` of a run holds.
        passages: those that pairs may belong to.
        max_answer_words: longer answers are an error.

    Raises:
        DataError: file, line, field and what was expected.
    """
    known = {p.id for p in passages}
    pairs: dict[str, QAPair] = {}
    for place, row in _rows(source):
        pair = row if isinstance(row, QAPair) else _pair(row, place, next(iter(known)) if len(known) == 1 else None)
        if not pair.fact:
            pair = pair.model_copy(update={"fact": f"{pair.passage}:{squash(pair.answer)}"})
        if pair.passage not in known:
            shown = ", ".join(sorted(known)[:5])
            raise DataError(f"{place}, field 'passage': expected the id of a passage ({shown}), got {pair.passage!r}")
        if pair.kind != "split" and len(pair.answer.split()) > max_answer_words:
            raise DataError(
                f"{place}, field 'answer': expected at most {max_answer_words} words, got {pair.answer!r}: "
                "shorten it, or raise max_answer_tokens"
            )
        if contains(pair.question, pair.answer):
            raise DataError(
                f"{place}, field 'question': it already holds its answer {pair.answer!r}: ask in other words"
            )
        pairs[pair.id] = pair
    if not pairs:
        raise DataError(f"{source if isinstance(source, (str, Path)) else 'pairs'}: no pairs")
    return list(pairs.values())


def pieces(passages: Sequence[Passage], max_words: int) -> list[Passage]:
    """What :func:`split_passages` makes of each passage that it can cut; the others as they are."""
    found: list[Passage] = []
    for passage in passages:
        try:
            found += split_passages([passage], max_words)
        except DataError:
            found.append(passage)
    return found


def as_named(whole: Sequence[Passage], cut: Sequence[Passage], pairs: Sequence[QAPair]) -> list[Passage]:
    """Passages as pairs name them: whole, or in the pieces that an earlier run's `pairs.jsonl` is about."""
    named = {pair.passage for pair in pairs}
    found: list[Passage] = []
    for passage in whole:
        own = [p for p in cut if p.id.startswith(f"{passage.id}#") and p not in whole]
        in_pieces = any(p.id in named for p in own)
        found += [passage] if passage.id in named or not in_pieces else []
        found += own if in_pieces else []
    return found


def placed(pair: QAPair, passages: Sequence[Passage]) -> QAPair:
    """A pair about a text, moved to the piece of it that holds the answer and most of the question's words."""
    if pair.passage in {p.id for p in passages}:
        return pair
    text = (
        pair.passage if any(p.id.startswith(f"{pair.passage}#") for p in passages) else pair.passage.rpartition("#")[0]
    )
    words = set(squash(pair.question).split())
    own = [p for p in passages if p.id == text or p.id.startswith(f"{text}#")]
    best = max(own, key=lambda p: (contains(p.text, pair.answer), len(words & set(squash(p.text).split()))))
    return pair.model_copy(update={"passage": best.id})


def write_pairs(path: Path, pairs: Iterable[QAPair]) -> None:
    """Write pairs as :func:`read_pairs` reads them."""
    write_jsonl(path, (pair.model_dump(exclude_defaults=True) for pair in pairs))


def settle_conflicts(
    pairs: Sequence[QAPair], passages: Sequence[Passage], on_conflict: Literal["newest", "keep", "error"]
) -> tuple[list[QAPair], list[str]]:
    """Same question, different answers: keep the newest passage's, all, or refuse; and one line for each conflict.

    Raises:
        DataError: `on_conflict="error"` and there are some.
    """
    order = {p.id: i for i, p in enumerate(passages)}
    asked: dict[str, list[QAPair]] = {}
    for pair in pairs:
        if pair.kind != "split":
            asked.setdefault(squash(pair.question), []).append(pair)
    dropped: set[str] = set()
    said = []
    for group in asked.values():
        if len({squash(pair.answer) for pair in group}) == 1:
            continue
        newest = max(reversed(group), key=lambda pair: order[pair.passage])  # within a passage the last one
        answers = ", ".join(f"{pair.answer!r} ({pair.passage})" for pair in group)
        said.append(f"{newest.question!r} has several answers: {answers}")
        if on_conflict == "newest":
            dropped |= {pair.id for pair in group if squash(pair.answer) != squash(newest.answer)}
    if said and on_conflict == "error":
        raise DataError("\n".join([*said, 'Correct the passages, or choose on_conflict="newest" or "keep".']))
    return [pair for pair in pairs if pair.id not in dropped], said


def acceptable(
    passage: Passage,
    candidates: Sequence[QAPair],
    earlier: Sequence[QAPair],
    rejected: Counter[str],
    *,
    max_words: int = 40,
) -> list[QAPair]:
    """Generated pairs that are well-formed and new; every reason for a rejection is counted."""
    kept: list[QAPair] = []
    for pair in candidates:
        long = len(pair.answer.split()) > max_words
        reason = "answer too long" if long else _why_not(passage, pair, [*earlier, *kept])
        if reason:
            rejected[reason] += 1
        else:
            kept.append(pair)
    return kept


def round_trip(pairs: Sequence[QAPair], answer: Callable[[Sequence[QAPair]], Sequence[str]]) -> list[QAPair]:
    """Pairs whose answer a reader of the passage gives, too (its answer contains it or is contained)."""
    said = answer(pairs)
    return [pair for pair, text in zip(pairs, said, strict=True) if contains(text, pair.answer)]


def _why_not(passage: Passage, pair: QAPair, others: Sequence[QAPair]) -> str | None:
    if not pair.question or not pair.answer:
        return "empty"
    if pair.kind == "fact" and "?" not in pair.question:
        return "no question mark"
    if _REFERS.search(pair.question):
        return "refers to the passage"
    if not contains(passage.text, pair.answer):
        return "answer not in the passage"
    if contains(pair.question, pair.answer):
        return "holds its answer"
    mine = _trigrams(pair.question)
    for other in others:
        theirs = _trigrams(other.question)
        if len(mine & theirs) > MAX_SHARED_TRIGRAMS * len(mine | theirs):
            return "repeated"
    return None


def _trigrams(text: str) -> set[str]:
    said = squash(text)
    return {said[i : i + 3] for i in range(max(1, len(said) - 2))}


def contains(text: str, part: str) -> bool:
    """Whether whole words of `text` are `part`."""
    wanted = squash(part)
    return bool(wanted) and re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", squash(text)) is not None


def _rows(source: Pairs) -> Iterator[tuple[str, QAPair | Mapping[str, Any]]]:
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not path.is_file() or path.suffix != ".jsonl":
            raise DataError(f"{source}: no such file, or not .jsonl")
        yield from ((f"{path}, line {line}", row) for line, row in read_jsonl(path))
    elif isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise DataError(f"pairs: expected a .jsonl file or a list of rows, got {type(source).__name__}")
    else:
        yield from ((f"pairs, row {number}", row) for number, row in enumerate(source, start=1))


def _pair(row: Mapping[str, Any], place: str, only: str | None) -> QAPair:
    """A row as a pair; `only` is the passage of rows that name none."""
    if not isinstance(row, Mapping):
        raise DataError(f"{place}: expected an object with question and answer, got {type(row).__name__}")
    passage = row.get("passage", row.get("context_id", only))
    if passage is None:
        raise DataError(f"{place}, field 'passage': missing; with several passages each pair names the id of its own")
    texts = [_text(row, name, place) for name in ("question", "answer")]
    kept = {k: row[k] for k in ("fact", "kind", "source", "begin") if row.get(k)}
    try:
        return QAPair.of(str(passage), *texts, **kept)
    except ValidationError as error:
        wrong = error.errors()[0]
        said = f"{wrong['msg'][:1].lower()}{wrong['msg'][1:]}"
        raise DataError(f"{place}, field {wrong['loc'][0]!r}: {said}, got {wrong['input']!r}") from error


def _text(row: Mapping[str, Any], name: str, place: str) -> str:
    value = row.get(name, "" if row.get("kind") == "split" and name == "question" else None)
    if not isinstance(value, str) or (not value.strip() and row.get("kind") != "split"):
        raise DataError(f"{place}, field {name!r}: expected a text, got {value!r}")
    return value
