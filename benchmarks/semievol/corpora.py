"""The two corpora on which SemiEvol's quality is measured, as splits that a seed decides."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evolvent.data.readers import read_questions
from evolvent.data.records import Question
from evolvent.data.samples import Splits, bbc_news
from evolvent.data.tasks import ChoiceTask

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "semievol"
FPB_INSTRUCTION = "Please jusitfy the sentiment of the following sentence:"  # as it is misspelt in the file


def bbc(seed: int) -> Splits:
    """BBC news, 5 topics: 4 labelled rows a topic, 800 raw rows, 400 test rows."""
    return bbc_news(labeled=20, unlabeled=800, test=400, seed=seed)


def bbc600(seed: int) -> Splits:
    """The demo's rows: 600 raw ones."""
    return bbc_news(labeled=20, unlabeled=600, test=400, seed=seed)


def fpb(seed: int, labels: int = 32) -> Splits:
    """Financial PhraseBank: `labels` rows of the labelled file, drawn with its class shares; all raw and test rows."""
    task = ChoiceTask(style="words", template="Sentence: {{ question }}\nSentiment:", strip_prefix=FPB_INSTRUCTION)
    files = {
        name: list(read_questions(SHARED / "fpb" / f"{name}.csv", labeled=name != "unlabeled"))
        for name in ("labeled", "unlabeled", "test")
    }
    return Splits(stratified(files["labeled"], labels, seed), files["unlabeled"], files["test"], task)


def stratified(rows: list[Question], count: int, seed: int) -> list[Question]:
    """`count` rows with the answers' shares of `rows`, by largest remainder."""
    random = np.random.default_rng(seed)
    groups: dict[str, list[Question]] = {}
    for i in random.permutation(len(rows)).tolist():
        groups.setdefault(str(rows[i].answer), []).append(rows[i])
    exact = {a: count * len(g) / len(rows) for a, g in groups.items()}
    take = {a: int(x) for a, x in exact.items()}
    for a in sorted(exact, key=lambda a: take[a] - exact[a])[: count - sum(take.values())]:
        take[a] += 1
    return [q for a in sorted(groups) for q in groups[a][: take[a]]]


CORPORA = {"bbc": bbc, "bbc600": bbc600, "fpb": fpb}
