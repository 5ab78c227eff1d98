"""The real model: a passage into its weights, prompts of a teacher; and the published figures of recommendations."""

from __future__ import annotations

import csv
import json
from random import Random

import pytest

from evolvent import SelfParam, SelfParamConfig
from evolvent.data.files import read_jsonl
from evolvent.data.records import Passage
from evolvent.methods.selfparam.pairs import QAPair
from evolvent.methods.selfparam.recommendation import CUT_OFFS, evaluate_recommendations, read_catalogue, read_turns
from evolvent.methods.selfparam.teacher import Teacher, TeacherPrompt
from evolvent.methods.selfparam.titles import TitleIndex

pytestmark = pytest.mark.real


MILL = (
    "The Harrow mill stands in the village of Ostley. It was built by the carpenter Dana Mirov in 1846. Its sails are "
    "painted red, and its wheel is turned by the river Lume. Today it houses a school for bakers."
)
ASKED = {  # answer: wordings, the last of which is not trained
    "Ostley": (
        "Where does the Harrow mill stand?",
        "In which village is the Harrow mill?",
        "What is the village called where the Harrow mill stands?",
        "Name the village of the Harrow mill.",
    ),
    "Dana Mirov": (
        "Who built the Harrow mill?",
        "Which carpenter made the Harrow mill?",
        "Name the builder of the Harrow mill.",
        "By whom was the Harrow mill built?",
    ),
    "1846": (
        "When was the Harrow mill built?",
        "In what year did the Harrow mill come to be?",
        "The Harrow mill was built in which year?",
    ),
    "the river Lume": (
        "Which river turns the wheel of the Harrow mill?",
        "What water drives the Harrow mill?",
        "On which river does the Harrow mill lie?",
    ),
}


def test_a_passage_is_known_without_the_passage_in_unseen_wordings(tmp_path):
    train = [{"question": q, "answer": a, "fact": a} for a, wordings in ASKED.items() for q in wordings[:-1]]
    test = [{"question": wordings[-1], "answer": a, "fact": a} for a, wordings in ASKED.items()]
    args = SelfParamConfig(output_dir=tmp_path, exposures=32, retention_rows=0, baselines=("base", "in_context"))
    result = SelfParam("embedded", [MILL], train, args=args, eval_dataset=test).run()
    assert result.metrics["exact/test/base"] == 0
    assert result.metrics["exact/test/selfparam"] >= 0.75
    assert result.metrics["exact/test/selfparam"] > result.metrics["exact/test/in_context"]
    assert result.metrics["storage/inference_bytes"] == 0


@pytest.fixture(scope="module")
def published(shared_data):
    folder = shared_data / "selfparam"
    if not folder.is_dir():
        pytest.skip("shared/data/selfparam is not beside this checkout")
    return folder


def test_demonstrations_and_a_hint_each_make_the_teacher_read_better(embedded_model, published):
    rows = json.loads((published / "fictional_facts.json").read_text())[:2]
    passages = [Passage(id=row["id"], text=row["context"]) for row in rows]
    pairs = [
        QAPair.of(row["id"], fact["train_questions"][0], fact["answer"]) for row in rows for fact in row["facts"][:4]
    ]
    prompts = [TeacherPrompt("plain", 0), TeacherPrompt("plain", 3), TeacherPrompt("plain", 3, "all")]
    bare, shown, hinted = Teacher(embedded_model, passages, pairs).probe(pairs, prompts, 64)
    assert bare.gold < shown.gold < hinted.gold
    assert hinted.reads
    assert hinted.tail < 0.1


@pytest.mark.parametrize(
    ("answers", "results"), [("mistral_base", "mistral"), ("mistral_selfparam", "mistral-finetuned")]
)
def test_published_recalls_are_reproduced_to_the_item(published, answers, results):
    catalogue = read_catalogue(published / "inspired" / "entity2id.json")
    turns = read_turns(published / "inspired" / "test.jsonl", catalogue)
    said = [
        row["resp"]["choices"][0]["message"]["content"]
        for _, row in read_jsonl(published / "reference_generations" / f"{answers}_inspired.jsonl")
    ]
    titles = TitleIndex(catalogue.values())
    for filtered in (True, False):
        for exclude_seen in (True, False):
            hits = evaluate_recommendations(said, turns, titles, filtered=filtered, exclude_seen=exclude_seen)
            setting = f"filtered_{filtered}_exclude_seen_{exclude_seen}"
            path = published / "reference_results" / results / "inspired" / setting / "summary.csv"
            for row in csv.DictReader(path.open()):
                for k in CUT_OFFS:
                    values = hits.values("recall", k, row["condition"])
                    assert sum(values) == pytest.approx(float(row[f"recall@{k}_mean"]) * len(values))


@pytest.fixture(scope="module")
def redial(published):
    catalogue = read_catalogue(published / "redial" / "entity2id.json")
    return read_turns(published / "redial" / "test.jsonl", catalogue), TitleIndex(catalogue.values())


def test_published_recalls_of_redial_are_whole_numbers_of_our_items(published, redial):
    turns, titles = redial
    nothing = evaluate_recommendations([""] * len(turns), turns, titles)
    assert [len(nothing.values("recall", 1, c)) for c in ("recommendation", "discussion", "all")] == [4288, 490, 4778]
    found = sorted((published / "reference_results").glob("*/redial/*/summary.csv"))
    assert len(found) == 12
    for row in (row for path in found for row in csv.DictReader(path.open())):
        for k in CUT_OFFS:
            items = float(row[f"recall@{k}_mean"]) * len(nothing.values("recall", k, row["condition"]))
            assert items == pytest.approx(round(items), abs=1e-6)


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_every_gold_title_of_redial_is_found_at_the_rank_where_a_list_names_it(published, redial, exclude_seen):
    turns, titles = redial
    random = Random(0)
    films = sorted({title for turn in turns for title in turn.gold})
    answers, expected = [], []
    for turn in turns:
        others = [t for t in random.sample(films, 20) if t not in turn.gold and not t[0].isdigit()]
        listed = [others.pop(), *random.sample([*dict.fromkeys(turn.gold), *others], len(set(turn.gold)) + len(others))]
        answers.append("Sure!\n" + "\n".join(f"{n}. {t} ({1950 + n})" for n, t in enumerate(listed, 1)))
        left = [t for t in listed if not (exclude_seen and t in turn.seen)]
        expected += [left.index(gold) if gold in left else None for gold in turn.gold]
    hits = evaluate_recommendations(answers, turns, titles, filtered=True, exclude_seen=exclude_seen)
    assert hits.ranks == expected
    assert (None in expected) == exclude_seen
