"""The teacher's prompts on the real model, and the published figures of the recommendation evaluation."""

from __future__ import annotations

import csv
import json

import pytest

from evolvent.data.files import read_jsonl
from evolvent.data.records import Passage
from evolvent.methods.selfparam.pairs import QAPair
from evolvent.methods.selfparam.recommendation import CUT_OFFS, evaluate_recommendations, read_catalogue, read_turns
from evolvent.methods.selfparam.teacher import Teacher, TeacherPrompt
from evolvent.methods.selfparam.titles import TitleIndex

pytestmark = pytest.mark.real


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
