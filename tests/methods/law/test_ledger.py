"""The erasure ledger: pieces equal the batch to the bit, kills leave it as it was, receipts prove what they should."""

from __future__ import annotations

import json
import re

import pytest
import torch
from decoders import TEXTS, decoder_of, known_facts
from safetensors.torch import load_file

from evolvent import LawConfig
from evolvent.errors import ConfigError, DataError, NothingSelectedError
from evolvent.methods.law.decoder import Decoder, states_of
from evolvent.methods.law.ledger import Ledger, columns, ledger, release, verify
from evolvent.methods.law.ledger.columns import Units, add_fact, displacements
from evolvent.methods.law.ledger.receipts import OwnReceipt
from evolvent.methods.law.ledger.releasing import reference_moments
from evolvent.methods.law.measurement import Questionnaire
from evolvent.methods.law.spectral import Streamed
from evolvent.methods.law.targets import learn_targets
from evolvent.methods.law.wordings import rows_for, wordings_for
from evolvent.models.resolve import load_local

LAYERS = (1, 2)


@pytest.fixture(scope="module")
def place(tiny_tokenizer, tmp_path_factory):
    """A saved tiny Llama."""
    folder = tmp_path_factory.mktemp("ledger") / "model"
    decoder_of("llama", len(tiny_tokenizer)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVOLVENT_CACHE", str(folder.parent / "cache"))
        yield folder


@pytest.fixture(scope="module")
def facts(place):
    return known_facts(load_local(place, dtype="float32"), 9)


def begun(place, folder, facts, **changes) -> Ledger:
    values = {"layers": LAYERS, "target_steps": 3, "target_lr": 0.5, "clamp": 3.0, "stats_tokens": 300}
    values |= {
        "beta_rel": 50.0,
        "max_ppl_ratio": 50.0,
        "max_new_tokens": 3,
        "target_loss": 1e-9,
        "target_dtype": "float32",
        "output_dir": folder,
        **changes,
    }
    args = LawConfig.model_validate(values)
    return Ledger.begin(folder, model=str(place), args=args, references=facts[6:], corpus=TEXTS)


@pytest.fixture(scope="module")
def batch(place, facts, tmp_path_factory):
    """A ledger that got six facts at once, and its release."""
    folder = tmp_path_factory.mktemp("batch")
    book = begun(place, folder / "ledger", facts)
    book.add(facts[:6], receipt=folder / "receipt.json", request="all")
    return book, release(book, folder / "release")


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_requests_in_pieces_and_in_another_order_are_released_as_the_batch_to_the_bit(place, facts, batch, tmp_path):
    book, whole = batch
    pieces = begun(place, tmp_path / "ledger", facts)
    for number, part in enumerate((facts[4:6], facts[:1], facts[1:4])):
        pieces.add(part, receipt=tmp_path / f"{number}.json")
    assert pieces.receipts()[-1].sums == book.receipts()[-1].sums
    assert pieces.receipts()[0].sums != book.receipts()[-1].sums
    released = release(pieces, tmp_path / "release")
    first, second = ((r.model / "model.safetensors").read_bytes() for r in (whole, released))
    assert first == second
    changed = {n for n, w in weights(place).items() if not torch.equal(w, weights(released.model)[n])}
    assert changed == {f"model.layers.{n}.mlp.down_proj.weight" for n in LAYERS}


def test_columns_are_read_behind_the_facts_own_displacements_and_their_least_squares_solved(place, facts, batch):
    """Against whole forward passes with plain hooks, and an LU solve over all keys."""
    book, released = batch
    model, args = book.model, book.args
    decoder = Decoder(model)
    rows = rows_for(model, facts[:6], wordings_for(model, args))
    keys: dict[int, list[torch.Tensor]] = {n: [] for n in LAYERS}
    moves: dict[int, list[torch.Tensor]] = {n: [] for n in LAYERS}
    for fact, own in zip(facts[:6], rows, strict=True):
        target = learn_targets(decoder, [fact], [own], LAYERS[-1], args).deltas[0]
        moved: dict[int, torch.Tensor] = {}
        goals = [state + target for _, state in (hooked(decoder, row, LAYERS[0], {}) for row in own)]
        for number, layer in enumerate(LAYERS):
            seen = [hooked(decoder, row, layer, moved) for row in own]
            keys[layer].append(torch.stack([k for k, _ in seen]).mean(0).double())
            left = torch.stack([g - s for g, (_, s) in zip(goals, seen, strict=True)]).mean(0)
            moved[layer] = left / (len(LAYERS) - number)
            moves[layer].append(moved[layer].double())
        found = displacements(decoder, own, target, LAYERS)
        assert float(target.norm()) > 0.1
        for layer in LAYERS:
            assert torch.allclose(found[layer][0], keys[layer][-1], atol=1e-4)
            assert torch.allclose(found[layer][1], moves[layer][-1], atol=1e-3)
    references = reference_moments(book, decoder)
    for edit in released.edits:
        general = book.statistics()[edit.layer]
        k, r = torch.stack(keys[edit.layer]).T, torch.stack(moves[edit.layer]).T
        ridge = edit.ridge * general.moment.trace() / len(general.moment) * torch.eye(len(general.moment))
        kept = (1 - edit.ridge) * general.moment + ridge + book.args.mu_ratio * references[edit.layer]
        expected = torch.linalg.solve(edit.lam * kept + k @ k.T, k @ r.T).T
        name = decoder.projections[edit.layer].name
        made = (weights(released.model)[name] - weights(place)[name]).double()
        assert (made - expected).norm() < 2e-3 * expected.norm()


def hooked(decoder: Decoder, row, layer: int, moved: dict[int, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Key of `layer` and state behind the last block at the edit position, from one pass over the whole row."""
    caught: dict[str, torch.Tensor] = {}

    def displacing(added: torch.Tensor):
        def hook(_, __, out):
            states_of(out)[:, row.edit] += added.float()

        return hook

    handles = [decoder.blocks[n].register_forward_hook(displacing(added)) for n, added in moved.items()]
    handles += [
        decoder.projections[layer].module.register_forward_pre_hook(
            lambda _, given: caught.update(key=given[0][0, row.edit])
        ),
        decoder.blocks[LAYERS[-1]].register_forward_hook(
            lambda _, __, out: caught.update(state=states_of(out)[0, row.edit].clone())
        ),
    ]
    with torch.inference_mode():
        decoder.model.module(input_ids=torch.tensor([row.tokens]))
    for handle in handles:
        handle.remove()
    return caught["key"], caught["state"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("instant", ["column", "receipt", "commit"])
def test_a_killed_request_leaves_the_ledger_as_it_was_and_goes_on(place, facts, batch, tmp_path, monkeypatch, instant):
    book = begun(place, tmp_path / "ledger", facts)
    book.add(facts[:2], receipt=tmp_path / "first.json")
    head, chain = book.head, book.receipts()
    owner, name, fatal = {
        "column": (ledger, "add_fact", 4),
        "receipt": (ledger, "write_text", 1),
        "commit": (ledger, "write_text", 3),  # the requester's receipt, the ledger's, and then the head
    }[instant]
    original, calls = getattr(owner, name), []

    def dies(*args, **kwargs):
        calls.append(args)
        if len(calls) == fatal:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(ledger, "SAVED_EVERY", 1)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dies)
        with pytest.raises(Killed):
            book.add(facts[2:6], receipt=tmp_path / "second.json", request="second")
    again = Ledger(tmp_path / "ledger")
    assert (again.head, again.receipts()) == (head, chain)
    added = []
    monkeypatch.setattr(ledger, "add_fact", lambda *a, **k: (added.append(a), add_fact(*a, **k)))
    again.add(facts[2:6], receipt=tmp_path / "second.json", request="second")
    assert len(added) == (1 if instant == "column" else 0)
    assert again.receipts()[-1].sums == batch[0].receipts()[-1].sums
    assert not list(again.folder.glob("adding*"))
    assert len(list(again.folder.glob("sums-*"))) == 1


def test_a_ledger_keeps_no_fact_and_does_not_grow_with_them(place, facts, batch, tmp_path):
    book, _ = batch
    for path in (p for p in book.folder.rglob("*") if p.is_file()):
        held = path.read_bytes()
        assert not any(re.search(rf"{f.subject}(?!\d)".encode(), held) for f in facts[:6]), path
    one = begun(place, tmp_path / "ledger", facts)
    one.add(facts[:1], receipt=tmp_path / "one.json")
    sizes = [sum(p.stat().st_size for p in b.folder.glob("sums-*")) for b in (one, book)]
    assert sizes[0] == sizes[1]


def test_a_request_about_a_reference_takes_it_out(place, facts, tmp_path):
    book = begun(place, tmp_path / "ledger", facts)
    assert [f.subject for f in book.references()] == [f.subject for f in facts[6:]]
    book.add([facts[0], facts[7]], receipt=tmp_path / "r.json")
    assert [f.subject for f in book.references()] == [facts[6].subject, facts[8].subject]


def test_a_fact_that_only_a_paraphrase_brings_is_washed(place, facts, tmp_path):
    book = begun(place, tmp_path / "ledger", facts)
    reworded = facts[0].model_copy(update={"prompt": "The shares of {} were", "paraphrases": (facts[0].prompt,)})
    assert book.add([reworded, facts[1]], receipt=tmp_path / "receipt.json").washed == 2


def test_receipts_open_for_their_facts_only_and_the_chain_shows_every_change(place, facts, tmp_path):
    book = begun(place, tmp_path / "ledger", facts, layers=(1,), target_steps=1)
    wrong = facts[3].model_copy(update={"object": "zzz"})
    book.add([*facts[:2], wrong], receipt=tmp_path / "a.json", request="a")
    book.add(facts[:1], receipt=tmp_path / "b.json")
    first, second = book.receipts()
    assert (first.facts, first.washed, second.before) == (3, 2, first.sha256)
    assert not set(first.commitments) & set(second.commitments)  # another nonce, though the fact is the same
    own = OwnReceipt.load(tmp_path / "a.json")
    assert [(f.id, o.washed) for f, o in own.opened([wrong, facts[0]])] == [(wrong.id, False), (facts[0].id, True)]
    with pytest.raises(DataError, match="does not open"):
        own.opened([facts[0].model_copy(update={"object": "Rome"})])
    with pytest.raises(DataError, match="does not open"):
        own.opened(facts[4:5])
    with pytest.raises(ConfigError, match="request a is in this ledger already"):
        book.add(facts[4:5], receipt=tmp_path / "c.json", request="a")
    with pytest.raises(ConfigError, match="the only receipt of another request"):
        book.add(facts[4:5], receipt=tmp_path / "a.json")
    with pytest.raises(NothingSelectedError, match="knows none of the 1 facts"):
        book.add([wrong], receipt=tmp_path / "c.json")
    path = book.folder / "receipts" / "1.json"
    stored = path.read_text()
    path.write_text(stored.replace('"facts": 3', '"facts": 2'))
    with pytest.raises(DataError, match=r"receipt 1 \(a\) was changed"):
        book.receipts()
    path.write_text((book.folder / "receipts" / "2.json").read_text())
    with pytest.raises(DataError, match="one is missing"):
        book.receipts()
    path.write_text("{}")
    with pytest.raises(DataError, match="none any more"):
        book.receipts()
    path.unlink()
    with pytest.raises(DataError, match="this receipt is missing"):
        book.receipts()


def test_verification_asks_the_released_weights_and_refuses_others(place, facts, batch, tmp_path):
    book, released = batch
    receipt = book.folder.parent / "receipt.json"
    found = verify(book, receipt, facts[:6], released.model)
    assert (found.facts, found.washed) == (6, 6)
    model = load_local(released.model, dtype="float32")
    from evolvent.methods.law.probe import probe

    known = {k.id for k in probe(model, facts[:6], chat=False) if k.known}
    assert {i for i, back in found.audit.recovered["prompt"].items() if back} == known
    assert known <= set(found.recovered)
    assert len(known) < 6
    assert set(found.certificate["evidence"]["attacks"]) == {"prompt", "paraphrase", "chat", "4bit"}
    with pytest.raises(ConfigError, match="attacks=guess"):
        verify(book, receipt, facts[:6], released.model, attacks=["guess"])
    with pytest.raises(DataError, match="not released from a ledger"):
        verify(book, receipt, facts[:6], place)
    early = begun(place, tmp_path / "ledger", facts, layers=(1,), target_steps=1)
    early.add(facts[:1], receipt=tmp_path / "a.json")
    before = release(early, tmp_path / "before").model
    early.add(facts[1:2], receipt=tmp_path / "b.json")
    with pytest.raises(DataError, match="released before request"):
        verify(early, tmp_path / "b.json", facts[1:2], before)
    with pytest.raises(DataError, match="is not in"):
        verify(early, receipt, facts[:6], before)
    file = before / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(DataError, match="changed since"):
        verify(early, tmp_path / "a.json", facts[:1], before)


def test_settings_that_tie_facts_together_and_releases_over_budget_are_refused(
    place, facts, batch, tmp_path, monkeypatch
):
    for changes in ({"method": "ascent"}, {"target": "mean"}, {"key_contexts": "each"}):
        with pytest.raises(ConfigError, match=f"a ledger cannot hold {next(iter(changes))}"):
            begun(place, tmp_path / "bad", facts, **changes)
    with pytest.raises(ConfigError, match="'anti': a ledger is released by least squares"):
        begun(place, tmp_path / "bad", facts, method="anti")
    book, _ = batch
    with pytest.raises(ConfigError, match="target: fixed when the ledger began"):
        release(book, tmp_path / "out", changes={"target": "eos"})
    monkeypatch.setattr(Questionnaire, "perplexity", lambda *_, values=iter((20.0, 23.0)): next(values))
    with pytest.raises(NothingSelectedError, match=r"x1\.150, over max_ppl_ratio=1\.1"):
        release(book, tmp_path / "out", changes={"max_ppl_ratio": 1.1})
    assert not (tmp_path / "out").exists()
    assert torch.equal(Decoder(book.model).projections[1].weight, weights(place)["model.layers.1.mlp.down_proj.weight"])


def test_a_release_replaces_no_other_checkpoint_and_names_a_bad_value(place, facts, batch, tmp_path):
    book, done = batch
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(ConfigError, match="checkpoint is no release of a ledger"):
        release(book, tmp_path)
    with pytest.raises(ConfigError, match="beta_rel: Input should be greater than 0"):
        release(book, tmp_path / "out", changes={"beta_rel": -1})
    before = weights(done.model)
    again = weights(release(book, done.model.parent).model)
    assert all(torch.equal(before[n], again[n]) for n in before)


def test_sums_that_would_be_rounded_are_refused(place, facts, batch, monkeypatch):
    book, _ = batch
    model, decoder = book.model, Decoder(book.model)
    rows = rows_for(model, facts[:1], wordings_for(model, book.args))[0]
    general = book.statistics()
    sums = {n: Streamed(decoder.width, decoder.hidden) for n in LAYERS}
    monkeypatch.setattr(columns, "UNIT_BITS", 30)
    units = {n: Units.of(general[n]) for n in LAYERS}
    with pytest.raises(DataError, match="as long as any of general text"):
        add_fact(sums, units, decoder, facts[0], rows, torch.ones(decoder.hidden))
    assert all(s.count == 0 and not s.moment.any() for s in sums.values())


def test_damaged_files_of_a_ledger_are_named(place, facts, tmp_path):
    book = begun(place, tmp_path / "ledger", facts)
    book.add(facts[:1], receipt=tmp_path / "receipt.json")
    sums = tmp_path / "ledger" / book.head.sums
    sums.write_bytes(sums.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"sums-1\.safetensors: not the sums"):
        book.sums()
    (tmp_path / "ledger" / "ledger.json").write_text("{")
    with pytest.raises(DataError, match=r"ledger\.json: not the head"):
        _ = Ledger(tmp_path / "ledger").head
    (tmp_path / "ledger" / "config.yaml").write_text("method: [")
    with pytest.raises(DataError, match=r"config\.yaml: not the settings"):
        Ledger(tmp_path / "ledger")


def test_the_receipt_of_the_requester_is_one(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        OwnReceipt.load(tmp_path / "none.json")
    (tmp_path / "other.json").write_text(json.dumps({"receipt": 1}))
    with pytest.raises(DataError, match="not the receipt"):
        OwnReceipt.load(tmp_path / "other.json")
