"""The algebra against independent slow forms: LU solves, integrated flows, autograd, sums over many facts."""

from __future__ import annotations

import math

import pytest
import torch

from evolvent.errors import ModelError
from evolvent.methods.law.spectral import Kept, Streamed, ascend, dual, primal

M, D, N = 40, 12, 9


def problem(n: int = N, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(M, 400, generator=generator, dtype=torch.float64) * torch.linspace(0.2, 3, M)[:, None]
    keys = torch.randn(M, n, generator=generator, dtype=torch.float64)
    residuals = torch.randn(D, n, generator=generator, dtype=torch.float64)
    some = torch.randn(M, 5, generator=generator, dtype=torch.float64)
    references = some @ some.T
    return text @ text.T / 400, keys, residuals, references


@pytest.mark.parametrize("n", [1, N, M - 1])
def test_dual_primal_and_plain_solve_give_one_edit(n):
    general, keys, residuals, references = problem(n)
    kept = Kept(general, references, mu_ratio=0.7, ridge=1e-3)
    lam = 0.8
    moment = (1 - 1e-3) * general + 1e-3 * general.trace() / M * torch.eye(M) + 0.7 * references
    plain = torch.linalg.solve(lam * moment + keys @ keys.T, keys @ residuals.T).T
    for spectrum in (dual(kept, keys, residuals), primal(kept, keys @ keys.T, residuals @ keys.T)):
        edit = spectrum.delta(spectrum.memit(lam))
        assert (edit - plain).norm() <= 1e-8 * plain.norm()


def test_cost_objective_and_norm_are_those_of_the_edit_in_both_forms():
    general, keys, residuals, references = problem()
    kept = Kept(general, references)
    factor, _ = kept.factor()
    for spectrum in (dual(kept, keys, residuals), primal(kept, keys @ keys.T, residuals @ keys.T)):
        f = torch.rand(len(spectrum.gamma), dtype=torch.float64)
        edit = spectrum.delta(f)
        assert spectrum.cost(f) == pytest.approx(float((edit @ general @ edit.T).trace()))
        assert spectrum.objective(f) == pytest.approx(float((edit @ keys).square().sum()))
        assert spectrum.norm(f) == pytest.approx(float(edit.norm()))
        constrained = float((f.square() * spectrum.constrained).sum())
        assert constrained == pytest.approx(float((edit @ factor).square().sum()))


def test_law_is_the_integrated_flow_of_the_constrained_objective():
    """dX/dt ∝ XAAᵀ from the MEMIT start, radially back to the budget: fourth-order Runge-Kutta with small steps."""
    general, keys, residuals, _ = problem()
    kept = Kept(general, ridge=0.0)
    factor, _ = kept.factor()
    spectrum = dual(kept, keys, residuals)
    lam, t, steps = 0.5, 1.7, 400
    whitened = torch.linalg.solve_triangular(factor, keys, upper=False)
    pull = whitened @ whitened.T / spectrum.gamma.max()
    x = spectrum.delta(spectrum.memit(lam)) @ factor
    size = x.norm()
    for _ in range(steps):
        h = t / steps
        a = x @ pull
        b = (x + h / 2 * a) @ pull
        c = (x + h / 2 * b) @ pull
        d = (x + h * c) @ pull
        x = x + h / 6 * (a + 2 * b + 2 * c + d)
        x = x * (size / x.norm())
    found = spectrum.delta(spectrum.law(lam, t, cost=float(size**2)))
    assert (found @ factor - x).norm() <= 1e-6 * size
    start, end = (spectrum.objective(spectrum.law(lam, v, cost=1.0)) for v in (0.0, t))
    assert end > start


def test_time_without_end_is_the_rank_one_optimum_and_time_zero_is_memit():
    general, keys, residuals, _ = problem()
    spectrum = dual(Kept(general, ridge=0.0), keys, residuals)
    late = spectrum.delta(spectrum.law(0.5, 1e5, cost=2.0))
    values = torch.linalg.svdvals(late)
    assert values[1] < 1e-6 * values[0]
    assert spectrum.objective(spectrum.law(0.5, 1e5, cost=2.0)) == pytest.approx(2.0 * float(spectrum.gamma.max()))
    memit = spectrum.memit(0.5)
    assert torch.allclose(spectrum.law(0.5, 0.0, cost=spectrum.cost(memit)), memit)
    assert torch.allclose(spectrum.anti(0.5, 0.0, cost=spectrum.cost(memit)), memit)


def test_hebbian_rule_is_the_end_of_anti():
    general, keys, residuals, _ = problem()
    spectrum = dual(Kept(general, ridge=0.0), keys, residuals)
    hebbian = residuals @ torch.linalg.solve(general, keys).T
    found = spectrum.delta(spectrum.anti(0.5, 1.0, cost=1.0))
    cosine = (found * hebbian).sum() / found.norm() / hebbian.norm()
    assert float(cosine) == pytest.approx(1.0)


def test_lambda_meets_the_budget_and_the_norm_window():
    general, keys, residuals, _ = problem()
    spectrum = dual(Kept(general), keys, residuals)
    most = spectrum.cost(spectrum.memit(1e-3)) / 7
    lam = spectrum.lambda_for_cost(1e-3, most)
    assert spectrum.cost(spectrum.memit(lam)) == pytest.approx(most, rel=1e-6)
    assert spectrum.lambda_for_cost(lam * 2, most) == lam * 2  # cheap enough already
    largest = spectrum.norm(spectrum.memit(1e-6))
    for start in (1e-6, 1e6):
        norm = spectrum.norm(spectrum.memit(spectrum.lambda_for_norm(largest / 4, largest / 2, start)))
        assert largest / 4 * (1 - 1e-6) <= norm <= largest / 2 * (1 + 1e-6)
    assert spectrum.lambda_for_norm(1e9, 2e9, 1.0) < 1e-6  # out of reach: ends all the same


def test_ascent_climbs_within_its_budget_and_the_flow_climbs_no_less():
    general, keys, residuals, _ = problem()
    spectrum = dual(Kept(general, ridge=0.0), keys, residuals)
    start = spectrum.memit(0.5)
    cost = 1.1 * spectrum.cost(start)
    climbed = ascend(spectrum.delta(start), keys, general, cost=cost, steps=50, lr=1e-3)
    assert float((climbed @ general @ climbed.T).trace()) <= cost * (1 + 1e-9)
    reached = float((climbed @ keys).square().sum())
    assert reached > spectrum.objective(start)
    assert spectrum.objective(spectrum.law(0.5, 2.0, cost)) >= reached


def test_the_ridge_grows_until_dead_units_do_no_harm_and_nan_is_named():
    general, keys, residuals, _ = problem()
    general[:5] = 0
    general[:, :5] = 0
    spectrum = dual(Kept(general, ridge=0.0), keys, residuals)
    assert spectrum.ridge > 0
    assert torch.isfinite(spectrum.delta(spectrum.memit(1.0))).all()
    general[0, 0] = math.nan
    with pytest.raises(ModelError, match="not finite"):
        dual(Kept(general), keys, residuals)


def test_requests_one_by_one_give_the_edit_of_the_batch():
    general, keys, residuals, _ = problem(3 * N)
    kept = Kept(general)
    ledger = Streamed(M, D)
    for start in range(0, 3 * N, 4):
        ledger.add(keys[:, start : start + 4], residuals[:, start : start + 4])
    assert ledger.count == 3 * N
    batch = dual(kept, keys, residuals)
    expected = batch.delta(batch.memit(0.8))
    assert (ledger.solve(kept, 0.8) - expected).norm() <= 1e-9 * expected.norm()
    spectrum = ledger.spectrum(kept)
    assert (spectrum.delta(spectrum.law(0.8, 1.0, 1.0)) - batch.delta(batch.law(0.8, 1.0, 1.0))).norm() < 1e-8


def test_sums_over_a_wide_model_need_no_memory_for_the_keys():
    """m = 8192: after the sums are there, more facts take no more memory than one block of their keys."""
    import resource

    width, hidden, block = 8192, 8, 128
    sums = Streamed(width, hidden, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    expected = torch.zeros(3, width)
    peaks = []
    for _ in range(4):
        keys = torch.randn(width, block, generator=generator)
        sums.add(keys, torch.ones(hidden, block))
        expected += keys[:3] @ keys.T
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    assert torch.allclose(sums.moment[:3], expected, rtol=1e-4, atol=1e-2)
    assert sums.count == 4 * block
    assert peaks[-1] - peaks[0] < 4 * block * width * 4 / 2**20  # MB: less than all the keys
