"""Learn a value heuristic for GOPS from self-play alone, read it, and play a game with it: about a minute.

python examples/strategist.py        (killed, it goes on where it stopped)
"""

from __future__ import annotations

from evolvent import Strategist, StrategistConfig, make_game


def main() -> None:
    """Evolve, show, play."""
    game = make_game("gops", num_cards=6)
    args = StrategistConfig(output_dir="runs/gops", evolutions=4, games_per_pair=16, final_games=200)
    # The first argument is the model that writes skills and ideas, such as "endpoint:qwen3@http://localhost:8000/v1".
    # None: ideas come from regression, and everything says so.
    result = Strategist(None, game, args=args).run()
    print(f"{result.node.id}, ideas by {result.proposer}:\n{result.best}")
    print(f"against the seed on fresh deals: {result.metrics['margin/final/best-vs-seed']:+.2f} points a game")

    agent = result.load(budget=100)
    state = game.step(game.initial(seed=0), {-1: 6})  # chance draws the prize of 6 points
    found = agent.search(state, player=0)
    for card, share in zip(found.actions[0], found.policy[0], strict=True):
        print(f"card {card}: {share:.0%}")
    print(f"the report: {result.report_path}\nplay against it: evolvent strategist play runs/gops --seat 0")


if __name__ == "__main__":
    main()
