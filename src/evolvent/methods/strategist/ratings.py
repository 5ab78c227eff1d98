"""Ratings from all games ever played, in closed form, so that scores of different rounds are comparable.

    θ = argmin Σ_ij (g_ij / s²) (m_ij − θ_i + θ_j)² + λ‖θ‖²  =  (L + λI)⁻¹ b

with g_ij game pairs of mean margin m_ij between i and j, s the spread of a margin, and L the weighted Laplacian.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z95 = 1.96
LEAST_SPREAD = 1e-3  # a tournament of draws has no spread


@dataclass(frozen=True)
class Match:
    """Margins of `first` over `second`, mean of both seats of each game pair, (pairs,)."""

    first: str
    second: str
    margins: NDArray[np.float64]
    # margins by column: `first` as team 0, as team 1; (pairs, 2)
    by_side: NDArray[np.float64]


@dataclass(frozen=True)
class Ratings:
    """θ of each player, in units of returns, with their covariance.

    Attributes:
        players: ids.
        theta: (players,).
        covariance: (players, players).
        spread: s, standard deviation of a game pair's margin.
    """

    players: tuple[str, ...]
    theta: NDArray[np.float64]
    covariance: NDArray[np.float64]
    spread: float

    def __getitem__(self, player: str) -> float:
        return float(self.theta[self.players.index(player)])

    def error(self, player: str) -> float:
        """Standard error of θ against the mean of all, which is what a plot of ratings shows."""
        i, n = self.players.index(player), len(self.players)
        away = np.full(n, -1.0 / n)
        away[i] += 1.0
        return float(np.sqrt(max(float(away @ self.covariance @ away), 0.0)))

    def absolute_error(self, player: str) -> float:
        """Standard error of θ itself; the ridge alone holds the mean of all in place, so it is larger."""
        i = self.players.index(player)
        return float(np.sqrt(self.covariance[i, i]))

    def behind(self, player: str, leader: str) -> bool:
        """Whether the 95 % interval of the difference to the leader lies below 0."""
        i, j = self.players.index(player), self.players.index(leader)
        variance = self.covariance[i, i] + self.covariance[j, j] - 2 * self.covariance[i, j]
        return bool(self.theta[j] - self.theta[i] > Z95 * np.sqrt(max(variance, 0.0)))


def margin_ratings(matches: Sequence[Match], players: Sequence[str], *, l2: float = 1.0) -> Ratings:
    """Solve for θ.

    Args:
        matches: any number between the same two.
        players: who is rated.
        l2: λ, in units of game pairs.
    """
    place = {player: i for i, player in enumerate(players)}
    deviations = [m.margins - m.margins.mean() for m in matches if len(m.margins) > 1]
    freedom = sum(len(d) - 1 for d in deviations)
    spread = float(np.sqrt(sum(float((d**2).sum()) for d in deviations) / freedom)) if freedom else 1.0
    spread = max(spread, LEAST_SPREAD)
    laplacian, b = np.zeros((len(players), len(players))), np.zeros(len(players))
    for match in matches:
        i, j, games = place[match.first], place[match.second], len(match.margins)
        laplacian[[i, j, i, j], [i, j, j, i]] += np.array([1, 1, -1, -1]) * games / spread**2
        b[[i, j]] += np.array([1, -1]) * match.margins.sum() / spread**2
    # λ counts game pairs, so it is divided by s² as they are.
    inverse = np.linalg.inv(laplacian + l2 / spread**2 * np.eye(len(players))).astype(np.float64)
    return Ratings(tuple(players), inverse @ b, inverse, spread)


def side_ratings(
    matches: Sequence[Match], players: Sequence[str], *, l2: float = 1.0
) -> Mapping[str, tuple[float, float]]:
    """Effects as team 0 and as team 1 in log-odds of winning, by logistic ridge: player -> (as team 0, as team 1).

    logit P(team 0 wins) = c + α_i − β_j,   i plays team 0, j plays team 1
    """
    place = {player: i for i, player in enumerate(players)}
    n = len(players)
    rows, won = [], []
    for match in matches:
        i, j = place[match.first], place[match.second]
        for column, (zero, one) in enumerate(((i, j), (j, i))):
            row = np.zeros(2 * n + 1)
            row[[zero, n + one, 2 * n]] = (1.0, -1.0, 1.0)
            result = match.by_side[:, column] * (1 if column == 0 else -1)
            rows.append(row)
            won.append(((result > 0).mean() + (result == 0).mean() / 2, len(result)))
    x, y, games = np.array(rows), np.array([w for w, _ in won]), np.array([g for _, g in won], float)
    penalty = l2 * np.eye(2 * n + 1)
    penalty[-1, -1] = 1e-6
    effects = np.zeros(2 * n + 1)
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ effects))
        step = np.linalg.solve(
            x.T @ ((games * p * (1 - p))[:, None] * x) + penalty, x.T @ (games * (y - p)) - penalty @ effects
        )
        effects += step
        if np.abs(step).max() < 1e-9:
            break
    return {player: (float(effects[i]), float(effects[n + i])) for player, i in place.items()}
