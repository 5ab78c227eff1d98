"""A value network, as AlphaGo-like baselines have it: D → 64 → 64 → 1 (Avalon 128), trained on outcomes of self-play.

paper    SGD, learning rate 8e-4 (Avalon 5e-4), raw numbers in, one pass over each iteration's outcomes
strong   Adam 1e-3 with weight decay 1e-4, cards as bits, all states so far, 20 epochs an iteration, learns what the
         score so far does not say, and every state also with the seats swapped
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from evolvent.methods.strategist.baselines.learning import learn
from evolvent.methods.strategist.games.protocol import Encoded, Game, Values
from evolvent.methods.strategist.search.evaluators import Evaluator
from evolvent.methods.strategist.search.settings import SearchSettings

Setting = Literal["paper", "strong"]
EPOCHS, BATCH = 20, 64


@dataclass(frozen=True, eq=False)
class NetEvaluator:
    """Values (states, players) of a network for team 0, in units of returns."""

    game: Game
    net: torch.nn.Module
    scale: float
    strong: bool

    def __call__(self, encoded: Encoded) -> Values:
        """Evaluate a batch."""
        with torch.inference_mode():
            found = self.net(torch.from_numpy(_inputs(self.game, encoded, self.strong)))[:, 0].numpy() * self.scale
            if self.strong and self.game.antisymmetric:  # odd by construction: half the difference to the swapped view
                swapped = torch.from_numpy(_inputs(self.game, _swapped(encoded), True))
                found = (found - self.net(swapped)[:, 0].numpy() * self.scale) / 2
        value = found.astype(float) + (_score(self.game, encoded) if self.strong else 0.0)
        result: Values = value[:, None] * self.game.sides(encoded)
        return result


def value_net(
    game: Game, search: SearchSettings, *, setting: Setting = "strong", episodes: int = 320, iterations: int = 10,
    seed: int = 0,
) -> Evaluator:  # fmt: skip
    """Train a network by self-play.

    Args:
        game: the rules.
        search: of self-play.
        setting: "paper" or "strong".
        episodes: games in all.
        iterations: of playing and learning.
        seed: of weights, deals and searches.
    """
    strong, avalon = setting == "strong", game.name == "avalon"
    width = 128 if avalon else 64
    scale = 1.0 if avalon or game.settings.get("win_loss") else float(game.settings.get("num_cards", 6)) * 2
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inputs = _inputs(game, game.encode([game.initial(0)]), strong).shape[1]
        net = torch.nn.Sequential(
            torch.nn.Linear(inputs, width), torch.nn.ReLU(), torch.nn.Linear(width, width), torch.nn.ReLU(),
            torch.nn.Linear(width, 1),
        )  # fmt: skip
    optimizer: torch.optim.Optimizer
    if strong:
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-4)
    else:
        optimizer = torch.optim.SGD(net.parameters(), lr=5e-4 if avalon else 8e-4)
    random = np.random.default_rng(seed)

    def fit(states: Encoded, outcomes: NDArray[np.float64], start: int) -> Evaluator:
        rows, target = (states, outcomes - _score(game, states)) if strong else (states[start:], outcomes[start:])
        if strong and game.antisymmetric:
            rows, target = np.concatenate([rows, _swapped(rows)]), np.concatenate([target, -target])
        x, y = torch.from_numpy(_inputs(game, rows, strong)), torch.from_numpy((target / scale).astype(np.float32))
        for _ in range(EPOCHS if strong else 1):
            for batch in np.array_split(random.permutation(len(x)), max(1, len(x) // (BATCH if strong else 1))):
                optimizer.zero_grad()
                loss: torch.Tensor = torch.nn.functional.mse_loss(net(x[batch])[:, 0], y[batch])
                loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
                optimizer.step()
        return NetEvaluator(game, net, scale, strong)

    return learn(game, search, fit, episodes=episodes, iterations=iterations, seed=seed)


def _inputs(game: Game, encoded: Encoded, strong: bool) -> NDArray[np.float32]:
    """Raw columns, or for the strong net of GOPS bits of hands and deck and scaled numbers, (states, inputs)."""
    if not (strong and game.name == "gops"):
        plain: NDArray[np.float32] = encoded.astype(np.float32)
        return plain
    cards = int(game.settings["num_cards"])
    bits = (encoded[:, :3].astype(np.uint16)[:, :, None] >> np.arange(cards, dtype=np.uint16)) & 1
    prize = encoded[:, 3:4] == np.arange(1, cards + 1)
    numbers = encoded[:, 4:7] / (cards * 2)
    joined: NDArray[np.float32] = np.concatenate([bits.reshape(len(encoded), -1), prize, numbers], 1).astype(np.float32)
    return joined


def _swapped(encoded: Encoded) -> Encoded:
    """GOPS with the seats exchanged."""
    return encoded[:, [1, 0, 2, 3, 4, 6, 5, 7]]


def _score(game: Game, encoded: Encoded) -> NDArray[np.float64]:
    """The score so far, which the outcome of GOPS contains."""
    if game.name != "gops":
        return np.zeros(len(encoded))
    lead: NDArray[np.float64] = (encoded[:, 5] - encoded[:, 6]).astype(float)
    return lead
