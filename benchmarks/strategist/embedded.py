"""The whole run with the embedded model: probe, fall back by name, no skill by a model that wrote none. Acceptance A7.

python -m benchmarks.strategist.embedded
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.results_file import record
from evolvent import Strategist, StrategistConfig, make_game


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        args = StrategistConfig(
            output_dir=Path(folder), evolutions=2, games_per_pair=16, final_games=200, max_new_tokens=300
        )
        method = Strategist("embedded", make_game("gops", num_cards=6), args=args)
        result = method.run()
        probe = method.probe
    assert probe is not None
    margin, (low, high) = (result.metrics[f"margin/final/best-vs-seed{end}"] for end in ("", "/ci95"))
    rows = [
        {"claim": "A7: valid code skills of the embedded model", "value": probe.code, "unit": "of 8",
         "comparator": "gate", "comparator_value": 4, "n": 8, "reasons": list(probe.code_errors)},
        {"claim": "A7: readable idea lists of the embedded model", "value": probe.ideas, "unit": "share",
         "comparator": "gate", "comparator_value": 0.8, "n": 5},
        {"claim": "A7: embedded model's ranking of edits against their true gain", "value": probe.choice,
         "unit": "Spearman", "comparator": "gate", "comparator_value": 0.4, "n": 24},
        {"claim": "A7: skills attributed to the embedded model", "value": result.metrics["skills/by-llm"],
         "unit": f"of {result.metrics['skills']}", "comparator": "gate", "comparator_value": 0,
         "proposer": result.proposer},
        {"claim": "A7: evolved against seed after two rounds", "value": margin, "unit": "points a game",
         "comparator": "even play", "comparator_value": 0.0, "ci95": [low, high], "n": 200},
    ]  # fmt: skip
    record("strategist", rows, "python -m benchmarks.strategist.embedded")


if __name__ == "__main__":
    main()
