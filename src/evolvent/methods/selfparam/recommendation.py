"""Conversational recommendation: what a model recommends in a dialogue, against what the human recommender named.

The measures and the handling of candidates are those of He et al., "Large Language Models as Zero-Shot Conversational
Recommenders" (arXiv 2308.10053), which the SELF-PARAM paper takes over: every line of an answer is mapped to the
nearest known title, `filtered` drops what is more than two edits away, `exclude_seen` what was named before.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from evolvent.data.files import read_jsonl
from evolvent.errors import DataError
from evolvent.evaluation.significance import bootstrap_interval
from evolvent.methods.selfparam.titles import Match, TitleIndex
from evolvent.models.protocol import Message

Condition = Literal["recommendation", "discussion", "all"]

CUT_OFFS = (1, 5, 10, 20)
MOST_EDITS = 2  # a name further from every title is out of the catalogue
_PARENTHESES = re.compile(r"\([^()]*\)")
_NUMBERING = re.compile(r"^\d+[.)、]?\s*[-—–]?\s*")
INSTRUCTION = (
    "Pretend you are a movie recommender system. \n I will give you a conversation between a user and you (a "
    "recommender system). Based on the conversation, you reply me with 20 recommendations without extra sentences.\n "
    "Here is the conversation: {dialogue}"
)


@dataclass(frozen=True, slots=True)
class Turn:
    """A place in a dialogue where the human recommends.

    Attributes:
        dialogue: id.
        text: the dialogue before it, ending in an open "System: " line.
        gold: titles that the human names there.
        seen: titles that were named before.
    """

    dialogue: str
    text: str
    gold: tuple[str, ...]
    seen: frozenset[str]

    def messages(self) -> list[Message]:
        """The prompt of the published evaluation."""
        return [{"role": "user", "content": INSTRUCTION.format(dialogue=self.text)}]


@dataclass(frozen=True)
class Hits:
    """One value a gold title: its rank among the candidates (from 0; None when it is not there)."""

    ranks: list[int | None]
    discussed: list[bool]

    def values(self, measure: Literal["recall", "ndcg", "mrr"], k: int, condition: Condition = "all") -> list[float]:
        """The measure at k of every gold title under a condition."""
        wanted = {"recommendation": (False,), "discussion": (True,), "all": (False, True)}[condition]
        return [
            _gain(measure, rank) if rank is not None and rank < k else 0.0
            for rank, discussed in zip(self.ranks, self.discussed, strict=True)
            if discussed in wanted
        ]


def read_catalogue(path: str | Path) -> dict[int, str]:
    """Titles by id, out of `entity2id.json` (entity name or address -> id).

    Raises:
        DataError: no such file, or another form.
    """
    try:
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
        return {int(number): readable_title(name) for name, number in stored.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{path}: expected a JSON object of entity -> id ({error})") from error


def readable_title(entity: str) -> str:
    """The title in an entity's address: `<http://dbpedia.org/resource/Hoffa_(film)>` is "Hoffa"."""
    name = re.sub(r"[_\->]", " ", entity.rpartition("/")[2])
    return _squeezed(_PARENTHESES.sub("", name))


def read_turns(path: str | Path, catalogue: dict[int, str]) -> list[Turn]:
    """Turns of a test file with `input`, `rec` and `prev_entity`.

    Raises:
        DataError: no such file; a field is missing, or names an id that is not in the catalogue; names the line.
    """
    turns = []
    for line, row in _lines(path):
        try:
            if not isinstance(row["input"], str):
                raise KeyError("input")
            gold = tuple(catalogue[i] for i in row["rec"])
            seen = frozenset(catalogue[i] for i in row["prev_entity"])
            turns.append(Turn(str(row.get("dialog_id", line)), row["input"], gold, seen))
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{path}, line {line}: {error} is neither a field that is there nor an id of the catalogue; expected "
                "`input` as a text, `rec` and `prev_entity` as lists of ids of entity2id.json"
            ) from error
    return turns


def read_answers(path: str | Path) -> list[str]:
    """One `answer` a line.

    Raises:
        DataError: no such file, or a line without one.
    """
    answers = []
    for line, row in _lines(path):
        if not isinstance(row.get("answer"), str):
            raise DataError(f"{path}, line {line}, field 'answer': expected a text, got {row.get('answer')!r}")
        answers.append(row["answer"])
    return answers


def _lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file")
    return read_jsonl(path)


def recommended_names(answer: str) -> list[str]:
    """The names in an answer, one a line after its first "1."; without one, its parts between commas and line ends."""
    _, first, listed = answer.partition("1.")
    lines = (listed if first else answer.replace(",", "\n")).split("\n")
    return [_NUMBERING.sub("", _squeezed(_PARENTHESES.sub("", line.strip()))) for line in lines]


def evaluate_recommendations(
    answers: Sequence[str],
    turns: Sequence[Turn],
    titles: TitleIndex,
    *,
    filtered: bool = False,
    exclude_seen: bool = False,
) -> Hits:
    """Rank of every gold title among the candidates of its turn.

    Args:
        answers: one text a turn.
        turns: the same turns.
        titles: all known titles.
        filtered: drop candidates that are more than two edits from every title.
        exclude_seen: drop candidates that the dialogue has named before.
    """
    named = [recommended_names(answer) for answer in answers]
    matches = iter(titles.match([name for names in named for name in names]))
    ranks: list[int | None] = []
    discussed: list[bool] = []
    for names, turn in zip(named, turns, strict=True):
        found = [next(matches) for _ in names]
        candidates = [m.title for m in found if _allowed(m, turn, filtered, exclude_seen)]
        for gold in turn.gold:
            ranks.append(candidates.index(gold) if gold in candidates else None)
            discussed.append(gold in turn.seen)
    return Hits(ranks, discussed)


def recommendation_metrics(hits: Hits) -> dict[str, Any]:
    """Flat keys `measure@k/condition` with `/ci95` beside them."""
    metrics: dict[str, Any] = {}
    conditions: tuple[Condition, ...] = ("recommendation", "discussion", "all")
    measures: tuple[Literal["recall", "ndcg", "mrr"], ...] = ("recall", "ndcg", "mrr")
    for condition in conditions:
        for measure in measures:
            for k in CUT_OFFS:
                values = hits.values(measure, k, condition)
                if values:
                    interval = bootstrap_interval(values)
                    metrics[f"{measure}@{k}/{condition}"] = float(np.mean(values))
                    metrics[f"{measure}@{k}/{condition}/ci95"] = [interval.low, interval.high]
    return metrics


def _allowed(match: Match, turn: Turn, filtered: bool, exclude_seen: bool) -> bool:
    return not (filtered and match.distance > MOST_EDITS) and not (exclude_seen and match.title in turn.seen)


def _gain(measure: str, rank: int) -> float:
    return {"recall": 1.0, "ndcg": 1 / math.log2(rank + 2), "mrr": 1 / (rank + 1)}[measure]


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
