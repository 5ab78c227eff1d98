from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvent.models.distributions import token_distributions
from evolvent.training.config import FineTuneConfig
from evolvent.training.distillation import SoftTargets, divergence
from evolvent.training.examples import EncodedExample
from evolvent.training.finetune import fine_tune

VOCAB = 40


def full_kl(teacher_logits, student_logits):
    p, q = teacher_logits.log_softmax(-1), student_logits.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def kept(teacher_logits, k):
    values, ids = teacher_logits.log_softmax(-1).topk(k, dim=-1)
    return ids.int(), values


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 8.0))
def test_the_stored_divergence_never_exceeds_the_full_one_and_grows_with_k(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    teacher, student = scale * torch.randn(2, 5, VOCAB, generator=generator)
    whole = full_kl(teacher, student)
    found = [divergence(student, *kept(teacher, k)) for k in (1, 4, 16, VOCAB)]
    for smaller, larger in pairwise(found):
        assert (larger >= smaller - 1e-4).all()
    assert (found[-2] <= whole + 1e-4).all()
    torch.testing.assert_close(found[-1], whole, atol=2e-3, rtol=1e-3)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, VOCAB - 2))
def test_what_is_lost_is_the_divergence_within_the_tail_times_its_mass(seed, k):
    generator = torch.Generator().manual_seed(seed)
    teacher, student = torch.randn(2, 3, VOCAB, generator=generator, dtype=torch.float64)
    ids, values = kept(teacher, k)
    lost = full_kl(teacher, student) - divergence(student, ids, values)
    outside = torch.ones_like(teacher, dtype=torch.bool).scatter(-1, ids.long(), False)
    p, q = teacher.log_softmax(-1), student.log_softmax(-1)
    p_rest, q_rest = (x.masked_fill(~outside, -torch.inf).logsumexp(-1, keepdim=True) for x in (p, q))
    within = ((p - p_rest).exp() * ((p - p_rest) - (q - q_rest))).masked_fill(~outside, 0).sum(-1)
    torch.testing.assert_close(lost, p_rest.exp()[..., 0] * within, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_a_divergence_is_zero_at_the_teacher_and_its_gradient_is_finite_without_a_tail(kind):
    teacher = torch.randn(3, VOCAB)
    ids, values = kept(teacher, 8)
    torch.testing.assert_close(divergence(teacher, ids, values, kind), torch.zeros(3), atol=1e-5, rtol=0)
    sure = torch.zeros(1, VOCAB)
    sure[0, 3] = 60.0
    student = torch.randn(1, VOCAB, requires_grad=True)
    loss = divergence(student, *kept(sure, 4), kind).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_predictions_are_those_of_one_plain_forward_pass(tiny_model):
    prefix = list(range(5, 45))  # long enough to be shared between rows
    rows = [([*prefix, 50], [7, 8, 9]), ([*prefix, 51, 52], [10]), ([3], [4, 5])]
    found = token_distributions(tiny_model, rows, top_k=6, temperature=0.5)
    for (context, target), row in zip(rows, found, strict=True):
        with torch.no_grad():
            logits = tiny_model.module(torch.tensor([[*context, *target]])).logits[0]
        logits = logits[len(context) - 1 : -1].float()  # the predictions OF the target's tokens
        values, ids = (logits / 0.5).log_softmax(-1).topk(6)
        torch.testing.assert_close(row.log_probs.float(), values, atol=0.01, rtol=0.01)
        assert row.ids.tolist() == ids.tolist()
        gold = logits.log_softmax(-1).gather(-1, torch.tensor(target)[:, None])[:, 0]
        torch.testing.assert_close(row.gold, gold, atol=1e-3, rtol=1e-3)
        assert row.size == len(target) * 6 * 6  # 4 bytes for an id, 2 for its log-probability


def test_the_first_loss_is_the_mean_divergence_from_the_stored_predictions(tiny_folder, tiny_model, tmp_path):
    student = [([1, 2, 3, 4], [5, 6, 7]), ([9, 8], [11])]
    teacher = token_distributions(tiny_model, [([20, 21, *c], t) for c, t in student], top_k=12)
    rows = [
        EncodedExample((*c, *t), len(t), targets=SoftTargets.of(d)) for (c, t), d in zip(student, teacher, strict=True)
    ]
    args = FineTuneConfig(peft="full", steps=1, batch_size=2, label_smoothing=0, precision="float32", warmup_ratio=0)
    result = fine_tune(tiny_folder, rows, args, output_dir=tmp_path / "run", order=[1, 0])
    by_hand = []
    for (c, t), d in zip(student, teacher, strict=True):
        with torch.no_grad():
            logits = tiny_model.module(torch.tensor([[*c, *t]])).logits[0, len(c) - 1 : -1]
        by_hand.append(divergence(logits, d.ids, d.log_probs))
    assert result.losses[0][1] == pytest.approx(float(torch.cat(by_hand).mean()), rel=1e-3)
