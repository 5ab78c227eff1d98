"""The radix tree of shared prefixes: complete, worth its passes, and without effect on any result."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolvent.models.prefixes import by_depth, in_chunks, length_of, share_prefixes
from evolvent.models.protocol import Sampling

contexts = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple), max_size=12)


@given(contexts, st.integers(1, 4))
def test_a_context_is_its_prefixes_and_at_least_one_token_more(rows, at_least):
    prefixes, deepest = share_prefixes(rows, at_least=at_least)
    for row, last in zip(rows, deepest, strict=True):
        path = last.path() if last else []
        joined = tuple(token for prefix in path for token in prefix.tokens)
        assert row[: length_of(last)] == joined
        assert length_of(last) < len(row)
    for prefix in prefixes:
        assert len(prefix.tokens) >= at_least
        assert sum(prefix in (last.path() if last else []) for last in deepest) >= 2


@given(contexts)
def test_no_token_that_contexts_share_is_computed_twice(rows):
    prefixes, deepest = share_prefixes(rows, at_least=1)
    computed = sum(len(p.tokens) for p in prefixes)
    computed += sum(len(row) - length_of(last) for row, last in zip(rows, deepest, strict=True))
    trie = {row[: i + 1] for row in rows for i in range(len(row))}
    ends = len(rows)  # the last token of every context is its own, even if another context has it too
    assert len(trie) <= computed <= len(trie) + ends


@given(contexts)
def test_parents_are_computed_before_their_children(rows):
    prefixes, _ = share_prefixes(rows, at_least=1)
    seen = set()
    for level in by_depth(prefixes):
        assert all(p.parent is None or p.parent in seen for p in level)
        seen.update(level)
    assert seen == set(prefixes)


@given(contexts, st.integers(1, 30))
def test_chunks_hold_every_context_once(rows, limit):
    chunks = list(in_chunks(rows, limit))
    assert sorted(c for chunk in chunks for c in chunk) == sorted(rows)
    assert all(len(set(chunk)) == 1 or sum(map(len, set(chunk[:1]))) <= max(limit, len(chunk[0])) for chunk in chunks)


@pytest.fixture
def branching():
    """Prompts that share an instruction, then in groups a first and a second demonstration."""
    instruction = "name the topic of the news below in one word please " * 2
    demonstrations = ["the team won again in the final " * 3, "shares fell after the report today " * 3]
    return [
        instruction + "".join(demonstrations[i] for i in shown) + question
        for shown in [(), (0,), (1,), (0, 1), (1, 0)]
        for question in ("a late goal", "profit rose", "a late goal again")
    ]


def test_scores_behind_a_tree_of_prefixes_are_those_of_each_prompt_alone(tiny_model, branching):
    options = [[" sport", " business news", " tech"]] * len(branching)
    together = tiny_model.choose(branching, options)
    for prompt, choice in zip(branching, together, strict=True):
        alone = tiny_model.choose([prompt], options[:1])[0]
        assert choice.log_probs == pytest.approx(alone.log_probs, abs=1e-4)
    pairs = [(prompt, " and so on until the end") for prompt in branching]
    for pair, score in zip(pairs, tiny_model.loglikelihood(pairs), strict=True):
        assert score.log_prob == pytest.approx(tiny_model.loglikelihood([pair])[0].log_prob, abs=1e-4)


def test_text_behind_a_tree_of_prefixes_is_that_of_each_prompt_alone(tiny_model, branching):
    sampling = Sampling(max_tokens=6, temperature=0)
    together = tiny_model.generate(branching, sampling)
    assert [c[0].text for c in together] == [tiny_model.generate([p], sampling)[0][0].text for p in branching]


def test_the_tree_saves_forward_tokens(tiny_model, branching, monkeypatch):
    computed = []
    forward = tiny_model.forward

    def counting(sequences, *args, **kwargs):
        computed.append(sum(map(len, sequences)))
        return forward(sequences, *args, **kwargs)

    monkeypatch.setattr(tiny_model, "forward", counting)
    tiny_model.choose(branching, [[" a", " b"]] * len(branching))
    assert sum(computed) < sum(len(tiny_model.encode(p)) for p in branching) / 3
