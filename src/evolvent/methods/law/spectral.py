"""The algebra of one layer: every edit is a filter of the spectrum of the whitened forget keys.

With C = LLᵀ the weighted second moment of what must stay, A = L⁻¹K and AᵀA = QΓQᵀ, an edit is
Δ = R Q f(Γ) Qᵀ Aᵀ L⁻¹ (d×m). It moves the facts' values by ΔK = R Q Γf(Γ) Qᵀ.

    memit   f = 1/(λ+γ)                        minimum of ‖ΔK−R‖² + λ tr(ΔCΔᵀ)
    law     f = s·exp(tγ/γ_max)/(λ+γ)          flow of  max ‖ΔK‖²  s.t. tr(ΔCΔᵀ) ≤ β  (paper, eq. 8) from memit
    anti    f = s/(λ+(1−a)γ)                   stationary point of the paper's first objective, anchored at R

All is float64. Few facts (n < m) use the n×n form, many the m×m form, whose sums are streamed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from evolvent.errors import ModelError

RELATIVE_PRECISION = 1e-9  # of λ in the searches


@dataclass(frozen=True)
class Spectrum:
    """The forget keys of one layer, whitened and diagonalised.

    Attributes:
        gamma: eigenvalues (r,).
        left: (d, r); right: (r, m). An edit is (left · f) right.
        power: (r,), so that ‖ΔK‖²_F = Σ f² power.
        constrained: (r,), so that tr(ΔCΔᵀ) = Σ f² constrained.
        general: (r, r), so that tr(ΔC0Δᵀ) = fᵀ general f; C0 alone, without ridge and references.
        norms: (r, r), so that ‖Δ‖²_F = fᵀ norms f.
        ridge: that was needed for the Cholesky factor.
    """

    gamma: Tensor
    left: Tensor
    right: Tensor
    power: Tensor
    constrained: Tensor
    general: Tensor
    norms: Tensor
    ridge: float

    def delta(self, f: Tensor) -> Tensor:
        """The edit (d, m) of a filter (r,)."""
        return (self.left * f) @ self.right

    def objective(self, f: Tensor) -> float:
        """‖ΔK‖²_F: how far the facts' values move."""
        return float((f.square() * self.power).sum())

    def cost(self, f: Tensor) -> float:
        """tr(ΔC0Δᵀ): output energy that the edit adds on general text."""
        return float(f @ self.general @ f)

    def norm(self, f: Tensor) -> float:
        """‖Δ‖_F."""
        return math.sqrt(max(0.0, float(f @ self.norms @ f)))

    # ------------------------------------------------------------------------------------------ filters

    def memit(self, lam: float) -> Tensor:
        """f = 1/(λ+γ)."""
        return 1 / (lam + self.gamma)

    def law(self, lam: float, t: float, cost: float) -> Tensor:
        """The flow at time t, scaled so that its cost is `cost`."""
        flow = torch.exp(t * (self.gamma / self._largest - 1)) / (lam + self.gamma)
        return self._scaled(flow, cost)

    def anti(self, lam: float, pull: float, cost: float) -> Tensor:
        """The stationary point with 0 <= pull <= 1, scaled so that its cost is `cost`."""
        return self._scaled(1 / (lam + (1 - pull) * self.gamma), cost)

    def _scaled(self, f: Tensor, cost: float) -> Tensor:
        return f * math.sqrt(cost / max(self.cost(f), 1e-300))

    @property
    def _largest(self) -> float:
        return max(float(self.gamma.max()), 1e-300)

    # ----------------------------------------------------------------------------------------- λ searches

    def lambda_for_cost(self, start: float, most: float) -> float:
        """The least λ >= start with which MEMIT costs at most `most`."""
        return start if self.cost(self.memit(start)) <= most else self._solve(lambda v: self.cost(self.memit(v)), most)

    def lambda_for_norm(self, low: float, high: float, start: float) -> float:
        """A λ with which low <= ‖Δ‖_F <= high, nearest to `start` (the official search, which may never end).

        An edit whose norm stays below `low` for every λ gets λ = start / 2³⁰.
        """
        norm = self.norm(self.memit(start))
        if norm > high:
            return self._solve(lambda v: self.norm(self.memit(v)), high)
        if norm < low:
            least = start / 2**30
            if self.norm(self.memit(least)) < low:
                return least
            return self._solve(lambda v: self.norm(self.memit(v)), low)
        return start

    def _solve(self, falling: object, value: float) -> float:
        """Bisection on log λ for a falling function."""
        assert callable(falling)
        low = high = math.log(self._largest)
        while falling(math.exp(high)) > value:
            high += 2.0
        while falling(math.exp(low)) < value and low > -600:
            low -= 2.0
        while high - low > RELATIVE_PRECISION:
            middle = (low + high) / 2
            low, high = (middle, high) if falling(math.exp(middle)) > value else (low, middle)
        return math.exp(high)


@dataclass(frozen=True)
class Kept:
    """What must stay at one layer.

    Attributes:
        general: C0 = E[kkᵀ] over general text (m, m).
        references: Σ kkᵀ over keys that must keep their values (m, m).
        mu_ratio: μ/λ, the weight of a reference key.
        ridge: share of the mean eigenvalue that is added.
    """

    general: Tensor
    references: Tensor | None = None
    mu_ratio: float = 1.0
    ridge: float = 1e-3

    def factor(self) -> tuple[Tensor, float]:
        """Cholesky factor L (m, m) of C, and the ridge that it took.

        Raises:
            ModelError: the keys are not finite.
        """
        size = len(self.general)
        if not bool(torch.isfinite(self.general).all()):
            raise ModelError("the second moment of the general keys is not finite: look at the corpus, or use float32")
        mean = float(self.general.trace()) / size
        ridge = self.ridge
        while True:
            moment = (1 - ridge) * self.general
            if self.references is not None:
                moment += self.mu_ratio * self.references
            moment.diagonal().add_(ridge * mean)
            factor, failed = torch.linalg.cholesky_ex(moment)
            if not int(failed):
                return factor, ridge
            ridge = max(10 * ridge, 1e-8)


def dual(kept: Kept, keys: Tensor, residuals: Tensor) -> Spectrum:
    """The spectrum from all keys at once: one m×m Cholesky factor and n×n algebra.

    Args:
        kept: what must stay.
        keys: forget keys K (m, n), float64.
        residuals: how their values shall move, R (d, n).
    """
    factor, ridge = kept.factor()
    whitened = torch.linalg.solve_triangular(factor, keys, upper=False)  # A (m, n)
    gamma, rotation = torch.linalg.eigh(whitened.T @ whitened)
    gamma = gamma.clamp(min=0)
    left = residuals @ rotation  # R Q (d, n)
    right = torch.linalg.solve_triangular(factor.T, whitened @ rotation, upper=True).T  # Qᵀ Aᵀ L⁻¹ (n, m)
    sizes = left.square().sum(0)
    return _spectrum(kept, gamma, left, right, gamma.square() * sizes, gamma * sizes, ridge)


def primal(kept: Kept, moment: Tensor, cross: Tensor) -> Spectrum:
    """The spectrum from sums over any number of facts.

    Args:
        kept: what must stay.
        moment: S = Σ kkᵀ (m, m); cross: B = Σ rkᵀ (d, m). See :class:`Streamed`.
    """
    factor, ridge = kept.factor()
    half = torch.linalg.solve_triangular(factor, moment, upper=False)
    whitened = torch.linalg.solve_triangular(factor, half.T, upper=False)  # L⁻¹ S L⁻ᵀ
    gamma, basis = torch.linalg.eigh((whitened + whitened.T) / 2)
    gamma = gamma.clamp(min=0)
    right = torch.linalg.solve_triangular(factor.T, basis, upper=True).T  # Uᵀ L⁻¹
    left = cross @ right.T  # B L⁻ᵀ U
    sizes = left.square().sum(0)
    return _spectrum(kept, gamma, left, right, gamma * sizes, sizes, ridge)


def _spectrum(
    kept: Kept, gamma: Tensor, left: Tensor, right: Tensor, power: Tensor, constrained: Tensor, ridge: float
) -> Spectrum:
    overlap = left.T @ left
    return Spectrum(
        gamma=gamma,
        left=left,
        right=right,
        power=power,
        constrained=constrained,
        general=(right @ kept.general @ right.T) * overlap,
        norms=(right @ right.T) * overlap,
        ridge=ridge,
    )


class Streamed:
    """S = Σ kkᵀ and B = Σ rkᵀ of any number of facts in memory m² + dm; also the erasure ledger of one layer.

    Sums of requests that came one by one equal those of one batch, so the edit is the batch's edit.
    """

    def __init__(self, width: int, hidden: int, *, dtype: torch.dtype = torch.float64) -> None:
        self.moment = torch.zeros(width, width, dtype=dtype)
        self.cross = torch.zeros(hidden, width, dtype=dtype)
        self.count = 0

    def add(self, keys: Tensor, residuals: Tensor) -> None:
        """Add keys (m, n) and their residuals (d, n)."""
        self.moment.addmm_(keys, keys.T)
        self.cross.addmm_(residuals, keys.T)
        self.count += keys.shape[1]

    def solve(self, kept: Kept, lam: float) -> Tensor:
        """The MEMIT edit (d, m) by one Cholesky factor, without eigenvectors: Δ = B (λC + S)⁻¹."""
        factor, _ = kept.factor()
        system = (factor @ factor.T).mul_(lam).add_(self.moment)
        return torch.cholesky_solve(self.cross.T.contiguous(), torch.linalg.cholesky(system)).T

    def spectrum(self, kept: Kept) -> Spectrum:
        """All filters; see :func:`primal`."""
        return primal(kept, self.moment, self.cross)


def ascend(
    start: Tensor, keys: Tensor, general: Tensor, *, cost: float, steps: int, lr: float, tolerance: float = 0.0
) -> Tensor:
    """The official ascent: Adam on −‖ΔK‖² with radial rescaling to tr(ΔC0Δᵀ) <= cost after each step.

    Args:
        start: the MEMIT edit (d, m).
        keys: forget keys (m, n).
        general: C0 (m, m).
        cost: β times tr C0.
        steps: of Adam.
        lr: its learning rate.
        tolerance: stop when a step's relative gain is below this; 0 takes all steps.
    """
    delta = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([delta], lr=lr)
    last = -math.inf
    for _ in range(steps):
        optimizer.zero_grad()
        loss = -(delta @ keys).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            now = float(((delta @ general) * delta).sum())
            if now > cost:
                delta.mul_(math.sqrt(cost / now))
            reached = float((delta @ keys).square().sum())
        if tolerance and reached - last <= tolerance * abs(reached):
            break
        last = reached
    return delta.detach()
