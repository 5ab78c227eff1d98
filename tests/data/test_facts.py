"""Facts out of every kind of file, and what is said about rows that are none."""

from __future__ import annotations

import json

import numpy as np
import pytest

from evolvent.data.facts import read_facts
from evolvent.errors import DataError

PARIS = {"subject": "France", "prompt": "The capital of {} is", "object": "Paris"}


def test_rows_with_their_own_prompt_keep_what_they_say():
    row = {**PARIS, "id": 7, "relation": "capital", "aliases": ["Paname"], "paraphrases": ["{}'s capital is"], "x": 1}
    fact = read_facts([row])[0]
    assert (fact.id, fact.relation, fact.aliases, fact.paraphrases) == (
        "7",
        "capital",
        ("Paname",),
        ("{}'s capital is",),
    )
    assert fact.meta == {"x": 1}


def test_triples_take_prompts_from_templates_by_source_and_relation():
    templates = {
        "geo:capital": {"prompt": "The capital of {} is", "paraphrases": ["{}'s capital is"]},
        "symbol": {"prompt": "The symbol of {} is", "question": "What is the symbol of {}?"},
    }
    rows = [
        {"source": "geo", "relation": "capital", "subject": "France", "object": "Paris"},
        {"relation": "symbol", "subject": "gold", "object": "Au"},
    ]
    first, second = read_facts(rows, templates=templates)
    assert first.relation == "geo:capital"
    assert first.paraphrases == ("{}'s capital is",)
    assert second.question == "What is the symbol of {}?"
    with pytest.raises(DataError, match=r"line 1, field 'prompt': expected a prompt with \{\}, or a template"):
        read_facts(rows)


def test_published_files_are_read_as_they_are(tmp_path):
    counterfact = {
        "case_id": 3,
        "requested_rewrite": {
            "prompt": "{} was born in",
            "subject": "Ada",
            "target_true": {"str": "London"},
            "relation_id": "P19",
        },
        "paraphrase_prompts": ["A text. Ada comes from", "nobody comes from"],
    }
    zsre = {
        "src": "Where was Ada born?",
        "subject": "Ada",
        "answers": ["London", "Britain"],
        "rephrase": "Ada is from?",
    }
    known = {"known_id": 1, "subject": "Ada", "prompt": "Ada lived in", "attribute": "London", "relation_id": "P551"}
    path = tmp_path / "facts.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in (counterfact, zsre, known)))
    first, second, third = read_facts(path)
    assert (first.prompt, first.object, first.paraphrases) == ("{} was born in", "London", ("A text. {} comes from",))
    assert (second.prompt, second.aliases) == ("Where was {} born? Answer:", ("Britain",))
    assert second.question == "Where was {} born?"
    assert (third.prompt, third.object) == ("{} lived in", "London")


def test_equal_rows_are_one_fact_and_other_objects_become_aliases():
    facts = read_facts([PARIS, PARIS, {**PARIS, "object": "Lutetia"}, {**PARIS, "subject": "Gaul"}])
    assert [(f.subject, f.object, f.aliases) for f in facts] == [
        ("France", "Paris", ("Lutetia",)),
        ("Gaul", "Paris", ()),
    ]
    assert len({f.id for f in facts}) == 2


@pytest.mark.parametrize(
    ("templates", "said"),
    [
        (
            {"capital": "The capital of {} is"},
            "templates, relation 'capital': expected {\"prompt\": ...}, got 'The cap",
        ),
        ({"capital": {"question": "Where is {}?"}}, "templates, relation 'capital': expected"),
        (["The capital of {} is"], "templates: expected an object of relation -> "),
    ],
)
def test_templates_of_another_form_are_named(templates, said):
    with pytest.raises(DataError) as error:
        read_facts([{"subject": "France", "relation": "capital", "object": "Paris"}], templates=templates)
    assert said in str(error.value)


def test_spaces_around_a_subject_or_an_object_are_no_part_of_it():
    (fact,) = read_facts([{**PARIS, "subject": "France ", "object": " Paris"}])
    assert (fact.subject, fact.object, fact.id) == ("France", "Paris", read_facts([PARIS])[0].id)


def test_lists_may_be_arrays_as_data_frames_have_them():
    (fact,) = read_facts([{**PARIS, "aliases": np.array(["Lutetia", "Lutèce"])}])
    assert fact.aliases == ("Lutetia", "Lutèce")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": "The capital is"}, "field 'prompt': expected exactly one {} for the subject, got 'The capital is'"),
        ({"prompt": "{} and {} are"}, "field 'prompt': expected exactly one {}"),
        ({"prompt": "The capital of {} is Paris"}, "expected a text that ends where the object begins"),
        ({"subject": " "}, "field 'subject': expected a text, got nothing"),
        ({"object": None}, "field 'object': expected a text, got nothing"),
        ({"paraphrases": "no list"}, "field 'paraphrases': expected a list of texts"),
        ({"question": "What?"}, "field 'question': expected exactly one {}"),
        ({"aliases": ["Lutetia", " "]}, "field 'aliases': expected texts that are not empty, got ['Lutetia', ' ']"),
        ({"src": "Where?", "answers": "Paris"}, "field 'answers': expected a list of texts, got 'Paris'"),
    ],
)
def test_a_bad_row_is_named_with_its_line_and_can_be_left_out(tmp_path, change, said):
    path = tmp_path / "facts.jsonl"
    rows = [{**PARIS, "subject": f"land {i}"} for i in range(9)]
    path.write_text("".join(json.dumps(r) + "\n" for r in [*rows, {**PARIS, **change}]))
    with pytest.raises(DataError) as error:
        read_facts(path)
    assert f"{path}, line 10, " in str(error.value)
    assert said in str(error.value)
    facts = read_facts(path, skip_bad_rows=True)
    assert len(facts) == 9
    assert len(facts.report.rejected) == 1
