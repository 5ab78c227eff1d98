"""Search: quality on the 62 queries, hostile queries, encoders; filters against brute force."""

from __future__ import annotations

import math
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evolvent.errors import ConfigError, ModelError
from evolvent.methods.atlas import vectors, where
from evolvent.methods.atlas.cards import card, card_synonyms, facets, texts_of
from evolvent.methods.atlas.lexical import LexicalIndex, query_words

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def atlas(shared_atlas):
    """These tests only look; those that write make an Atlas of their own."""
    return shared_atlas


@pytest.fixture(scope="module")
def queries():
    sys.path.insert(0, str(ROOT))
    from benchmarks.atlas.queries import SHARED, read_queries

    if not (SHARED / "search_queries.jsonl").is_file():
        pytest.skip("the 62 search queries (../shared/data/atlas) are not beside this checkout")
    return read_queries()


def mean_ndcg(rank, queries, kind):
    """nDCG@10 with binary gains, written down again."""
    found = []
    for q in (q for q in queries if q.kind == kind):
        gains = [1 / math.log2(i + 2) for i, name in enumerate(rank(q.query)) if name in q.relevant]
        found.append(sum(gains) / sum(1 / math.log2(i + 2) for i in range(min(10, len(q.relevant)))))
    return sum(found) / len(found)


@pytest.mark.parametrize(("mode", "paraphrase", "keyword"), [("lexical", 0.38, 0.88), ("hybrid", 0.60, 0.90)])
@pytest.mark.real
def test_search_reaches_its_quality_on_the_queries(atlas, queries, mode, paraphrase, keyword):
    """Acceptance 2."""

    def rank(query):
        return [h.entry.id for h in atlas.search(query, 10, mode)]

    assert mean_ndcg(rank, queries, "paraphrase") >= paraphrase
    assert mean_ndcg(rank, queries, "keyword") >= keyword


@pytest.mark.real
def test_a_hit_says_which_task_matched(atlas):
    hit = atlas.search("which residues touch each other in the folded chain", 1)[0]
    assert hit.why == "matched task: contact prediction"
    assert set(hit.parts) >= {"d", "m"}


@pytest.mark.real
def test_shipped_vectors_are_those_of_the_encoder_and_cover_the_table(atlas):
    store = vectors.VectorStore.shipped()
    texts = texts_of(atlas.entries)
    assert store.missing(texts) == []
    some = texts[:: len(texts) // 5]
    fresh = vectors.Encoder("auto")(some)
    assert (store.of(some) * fresh).sum(axis=1).min() > 0.999


@pytest.mark.real
def test_only_the_texts_of_a_new_row_are_embedded(make_atlas, new_row, monkeypatch):
    atlas = make_atlas()
    atlas.add({**new_row, "title": "Fermentation of cabbage", "evaluation_tasks": ["sauerkraut grading"]})
    embedded = []
    original = vectors.Encoder.__call__
    monkeypatch.setattr(
        vectors.Encoder, "__call__", lambda self, texts: embedded.append(list(texts)) or original(self, texts)
    )
    assert atlas.search("how sour is the cabbage", 1)[0].entry.id == "my-smol"
    wanted = {card(atlas["my-smol"]), *(f.text for f in facets(atlas["my-smol"]))}
    assert {t for call in embedded for t in call} == {*wanted, "how sour is the cabbage"}


def test_the_default_language_model_is_refused_as_an_encoder(make_atlas, tiny_folder):
    for setting in ("embedded", str(tiny_folder)):
        with pytest.raises(ModelError, match="a causal language model is no sentence encoder"):
            _ = make_atlas(encoder=setting).engine


def test_without_an_encoder_words_are_matched_and_that_is_said_once(make_atlas, caplog):
    atlas = make_atlas(encoder="none")
    hits = [atlas.search("retrosynthesis", 3) for _ in range(2)]
    assert {h.mode for h in hits} == {"lexical"}
    assert caplog.text.count("words are matched, not meanings") == 1
    assert all("words are matched" in h.notices[0] for h in hits)
    with pytest.raises(ConfigError, match="there is no sentence encoder"):
        atlas.search("x", mode="hybrid")


def test_an_encoder_that_cannot_be_loaded_falls_back_to_words(make_atlas, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    hits = make_atlas(encoder=str(tmp_path / "broken")).search("retrosynthesis", 3)
    assert hits.mode == "lexical"
    assert "cannot be loaded" in hits.notices[0]
    assert len(hits) == 3


@pytest.fixture
def tiny_bert(tmp_path):
    """A random BERT encoder with 32 dimensions, whose vocabulary is letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    letters = {c: i for i, c in enumerate(["[PAD]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz"])}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(tmp_path / "bert")
    config = BertConfig(
        vocab_size=len(letters), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def test_another_encoder_makes_and_keeps_its_own_vectors(make_atlas, empty_atlas, tiny_bert, new_row, tmp_path, caplog):
    settings = {"encoder": str(tiny_bert), "data_dir": tmp_path / "empty"}
    empty_atlas.add(new_row)
    atlas = make_atlas(**settings)
    assert atlas.search("small model", 1)[0].parts.keys() >= {"d", "m"}
    (path,) = (tmp_path / "overlay").glob("facets.*.npz")
    kept = vectors.VectorStore.load(path)
    assert kept.codes.shape[1] == 32
    wrong = vectors.VectorStore(kept.encoder)
    wrong.add(texts_of(atlas.entries), np.eye(8, dtype=np.float32)[: len(texts_of(atlas.entries))])
    wrong.save(path)
    again = make_atlas(**settings)
    assert again.search("small model", 1, "hybrid")[0].parts["d"] > 0
    assert "the stored vectors have 8 dimensions" in caplog.text
    assert vectors.VectorStore.load(path).codes.shape[1] == 32
    path.write_bytes(b"damaged")
    assert make_atlas(**settings).search("small model", 1, "hybrid")
    assert "is damaged and made again" in caplog.text


HOSTILE = [
    "a",
    '"unbalanced',
    "NEAR(protein dna)",
    "protein* AND NOT -dna",
    "card : protein",
    "'; DROP TABLE cards; --",
    "🧬🔬",
    "蛋白质结构预测",
    "ПРОТЕИН",
    "\x00protein",
    "\ud800",
    "x" * 100_000,
    "the of and",
]


@pytest.mark.parametrize("query", HOSTILE)
def test_hostile_queries_do_no_harm(atlas, query):
    hits = atlas.search(query, 5, "lexical")
    assert len(hits) <= 5
    assert all(0 < h.score <= 1 for h in hits)
    if len(query) > 4000:
        assert "only the first 4,000 characters" in hits.notices[0]


@pytest.mark.real
@pytest.mark.parametrize("query", ["🧬🔬", "蛋白质结构预测", "\ud800 protein", "x" * 100_000])
def test_hostile_queries_do_no_harm_to_the_encoder(atlas, query):
    assert len(atlas.search(query, 3)) == 3


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text())
def test_any_text_can_be_searched_for(atlas, query):
    assert atlas.search(query, 3, "lexical").mode == "lexical"


def test_an_empty_query_finds_nothing_and_says_why(atlas):
    assert atlas.search("  ").notices == ["an empty query finds nothing; use a filter to list rows"]


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_lexical_scores_are_those_of_sqlite(atlas, weight):
    """Against SQLite's own bm25() over the same two columns."""
    database = sqlite3.connect(":memory:")
    database.execute("CREATE VIRTUAL TABLE cards USING fts5(card, synonyms, tokenize='porter unicode61')")
    rows = ((i, card(e), card_synonyms(e) if weight else "") for i, e in enumerate(atlas))
    database.executemany("INSERT INTO cards(rowid, card, synonyms) VALUES (?, ?, ?)", rows)
    index = LexicalIndex(atlas.entries, weight)
    for query in ("retrosynthesis of molecules", "predicting proteins' foldings", "classification", "BERT résumé"):
        match = " OR ".join(f'"{word}"' for word in query_words(query))
        found = database.execute(
            "SELECT rowid, -bm25(cards, 1.0, ?) FROM cards WHERE cards MATCH ?", (weight, match)
        ).fetchall()
        best = max(score for _, score in found)
        want = {atlas.entries[i].id: score / best for i, score in found}
        assert index.scores(query) == pytest.approx(want, rel=1e-6)


def test_stop_words_go_unless_they_are_all_there_is():
    assert query_words("What is the melting point?") == ["melting", "point"]
    assert query_words("the of") == ["the", "of"]


def test_search_inside_a_filter(atlas):
    hits = atlas.search("classification", 50, "lexical", where="field:physics")
    assert hits
    assert all("physics" in h.entry.fields for h in hits)


# ------------------------------------------------------------------------------------------------ filters


def known(value):
    """A cell that is not null."""
    if not value:
        raise LookupError
    return value


@pytest.mark.parametrize(
    ("line", "brute"),
    [
        ("field:chemistry", [lambda e: "chemistry_materials" in e.fields]),
        ("modality:text modality:image", [lambda e: {"language", "vision"} <= {*e.modalities, *e.modalities_ext}]),
        ("params:<=8B weights:hub", [lambda e: min(known(e.n_params)) <= 8e9, lambda e: e.weights == "hub"]),
        ("params:>70B", [lambda e: max(known(e.n_params)) > 70e9]),
        ("year:>=2023 year:<2024", [lambda e: e.year == 2023]),
        ("type:2.A,2.D", [lambda e: bool({"2.A", "2.D"} & set(known(e.survey_type)))]),
        ("-type:2.A", [lambda e: "2.A" not in known(e.survey_type)]),
        (
            'backbone:LLaMA-2 task:"molecule captioning"',
            [
                lambda e: "LLaMA-2" in " + ".join(known(e.backbone)).replace("~", "").split(" + "),
                lambda e: "molecule captioning" in known(e.evaluation_tasks),
            ],
        ),
        ("backbone:vit", [lambda e: "ViT" in " + ".join(known(e.backbone)).replace("~", "").split(" + ")]),
        ("has:code_url,languages", [lambda e: bool(e.code_url and e.languages)]),
        ("code:no weights:none", [lambda e: not e.code_url, lambda e: e.weights == "none"]),
        ("venue:nature", [lambda e: e.venue_name == "Nature"]),
        ("id:scibert,k2", [lambda e: e.id in ("scibert", "k2")]),
    ],
)
def test_filters_are_what_brute_force_finds(atlas, line, brute):
    def answer(entry, predicate):
        try:
            return predicate(entry)
        except LookupError:
            return None

    answers = {e.id: [answer(e, p) for p in brute] for e in atlas}
    found = atlas.filter(line)
    assert [e.id for e in found.rows] == [n for n, a in answers.items() if all(a)] != []
    assert [e.id for e, _ in found.unknown] == [n for n, a in answers.items() if False not in a and None in a]


def test_rows_with_null_are_excluded_listed_or_included(atlas):
    rows = {u: atlas.filter("type:2.A", unknown=u) for u in ("exclude", "list", "include")}
    assert len(rows["list"].rows) == len(rows["exclude"].rows) == 64
    assert len(rows["include"].rows) == 64 + 59
    assert {reason for _, (reason,) in rows["list"].unknown} == {"type is unknown"}


def test_keywords_say_the_same_as_the_line(atlas):
    by_line = atlas.filter(
        "field:chemistry modality:text modality:molecule architecture:decoder-only params:<=8B year:>=2023"
    )
    by_word = atlas.filter(
        field="chemistry_materials",
        modality=["language", "molecule"],
        architecture="decoder-only",
        max_params="8B",
        year=(2023, None),
    )
    assert by_line.rows == by_word.rows != []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("colour:red", "no key 'colour'"),
        ("field:alchemy", "'alchemy' is not in the vocabulary; nearest"),
        ("params:<=7 billion", "'billion' is no condition"),
        ("params:<=7x", "'7x' is no size"),
        ("field:>physics", "only params, year can be compared"),
        ("has:colour", "has:colour: no column"),
        ("weights:maybe", "give hub, link, none or any"),
        ("protein", "is no condition"),
    ],
)
def test_a_bad_filter_says_what_is_wrong(atlas, line, said):
    with pytest.raises(ConfigError) as caught:
        atlas.filter(line)
    assert said in str(caught.value)


def test_every_key_of_the_grammar_filters_something(atlas):
    values = {"field": "physics", "modality": "dna", "architecture": "decoder-only", "strategy": "masked"}
    values |= {"type": "1.A", "backbone": "BERT", "task": "QA", "objective": "MLM", "data": "PubMed", "language": "zh"}
    values |= {"venue": "ACL", "weights": "hub", "code": "yes", "status": "active", "id": "k2", "params": "7B"}
    values |= {"year": "2023", "has": "doi", "license": "mit"}
    assert set(values) == set(where.KEYS)
    for key, value in values.items():
        assert bool(atlas.filter(f"{key}:{value}").rows) == (key != "license"), key
