"""Distillation on stored predictions: a divergence between a teacher's top tokens and the student's vocabulary.

The teacher's distribution is kept as its k most probable tokens and one bucket for the rest. With p the teacher, q the
student, K the kept tokens, p_r = 1 - sum_K p and q_r = 1 - sum_K q:

    KL_k(p || q) = sum_{i in K} p_i log(p_i / q_i) + p_r log(p_r / q_r)

By the log-sum inequality KL_k <= KL, it grows with K, and what is lost is p_r times the divergence *within* the tail.
The support is the teacher's: what is to be learnt is mostly not among the student's own top tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from evolvent.models.distributions import TokenDistributions

Divergence = Literal["forward_kl", "reverse_kl", "jsd"]
SMALLEST_TAIL = 1e-6  # probability; below it the tail's logarithm has no meaning in float32


@dataclass(frozen=True, slots=True)
class SoftTargets:
    """A teacher's predictions of the scored tokens of one row: see :class:`TokenDistributions`."""

    ids: torch.Tensor | None
    log_probs: torch.Tensor

    @classmethod
    def of(cls, distributions: TokenDistributions) -> SoftTargets:
        """Without what is only looked at."""
        return cls(distributions.ids, distributions.log_probs)


def divergence(
    logits: torch.Tensor, ids: torch.Tensor | None, log_probs: torch.Tensor, kind: Divergence = "forward_kl"
) -> torch.Tensor:
    """Divergence of each position, in nats (...,), between a teacher and a student's logits.

    Args:
        logits: (..., vocab) of the student.
        ids: (..., k) the teacher's tokens; None when `log_probs` are of the whole vocabulary.
        log_probs: (..., k) natural log-probabilities of the teacher.
        kind: "forward_kl" KL(p || q), "reverse_kl" KL(q || p), or "jsd", their mean towards (p + q) / 2.
    """
    student = logits.float().log_softmax(-1)
    teacher = log_probs.float()
    if ids is None:
        return _divergence(teacher - teacher.logsumexp(-1, keepdim=True), student, kind)
    student = student.gather(-1, ids.long())
    return _divergence(_with_tail(teacher), _with_tail(student), kind)


def _with_tail(log_probs: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (..., k + 1) with the mass of all other tokens as the last one."""
    tail = (1 - log_probs.exp().sum(-1, keepdim=True)).clamp(min=SMALLEST_TAIL)
    return torch.cat([log_probs, tail.log()], dim=-1)


def _divergence(p: torch.Tensor, q: torch.Tensor, kind: Divergence) -> torch.Tensor:
    """Between log-probabilities p and q over the same outcomes."""
    if kind == "forward_kl":
        return (p.exp() * (p - q)).sum(-1)
    if kind == "reverse_kl":
        return (q.exp() * (q - p)).sum(-1)
    mixed = torch.logaddexp(p, q) - math.log(2)
    return ((p.exp() * (p - mixed)).sum(-1) + (q.exp() * (q - mixed)).sum(-1)) / 2
