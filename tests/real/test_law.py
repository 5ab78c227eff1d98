"""The fast acceptance of LAW: sixteen facts that the real model knows, three blocks, one round."""

from __future__ import annotations

import json

import pytest

from evolvent import Law, LawConfig, read_facts
from evolvent.methods.law.measurement import FORGET
from evolvent.methods.law.targets import learner_of, suffix_form_agrees
from evolvent.methods.law.wordings import rows_for, wordings_for
from evolvent.models.resolve import load_local

pytestmark = pytest.mark.real

RELATIONS = {"geonames:capital": 8, "mendeleev:symbol": 8}


@pytest.fixture(scope="module")
def published(shared_data):
    folder = shared_data / "law"
    if not folder.is_dir():
        pytest.skip("shared/data/law is not beside this checkout")
    return folder


def test_sixteen_facts_are_gone_and_the_rest_of_the_model_is_as_it_was(published, tmp_path):
    templates = json.loads((published / "templates.json").read_text())
    rows = [json.loads(line) for line in (published / "facts.jsonl").read_text().splitlines()]
    known = {json.loads(line)["id"] for line in (published / "known_smollm2.jsonl").read_text().splitlines()}
    forget, keep, references = [], [], []
    for name, count in RELATIONS.items():
        mine = [r for r in rows if f"{r['source']}:{r['relation']}" == name]
        facts = read_facts(
            [{k: r[k] for k in ("id", "subject", "object", "source", "relation")} for r in mine], templates=templates
        )
        sure = [f for f in facts if f.id in known]
        forget += sure[:count]
        keep += sure[count : 2 * count]
        references += [f for f in facts if f.id not in known][:24]
    texts = [json.loads(line)["text"] for line in (published / "general_text.jsonl").read_text().splitlines()]
    args = LawConfig(output_dir=tmp_path, layers=(4, 5, 6), contexts="bare", stats_tokens=5000, attacks=())
    method = Law("embedded", forget, keep=keep, references=references, corpus=texts[:200], args=args)
    with method.opened():
        assert len(method.probe()) == 16
        before = method.measure("base")
        method.statistics()
        method.round = 1
        method.targets()
        method.wash()
        method.verify()
        after = method.measure("law")
    assert sum(after.hits(FORGET, "prompt")) == 0
    assert after.perplexity <= 1.05 * before.perplexity
    assert sum(after.hits("same-relation", "prompt")) >= 0.5 * sum(before.hits("same-relation", "prompt"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_real_model_learns_targets_behind_kept_prefixes(dtype):
    model = load_local("embedded", dtype="float32")
    fact = read_facts([{"subject": "France", "prompt": "The capital of {} is", "object": "Paris"}])[0]
    rows = rows_for(model, [fact], wordings_for(model, LawConfig(output_dir="unused")))
    with learner_of(model, dtype) as learner:
        assert suffix_form_agrees(learner, 8, rows[0])
