"""Dialogue guides with the embedded model: a probe that fails leads to typed acts, by name.

Answers are cut at 16 tokens, so this says nothing about how well it could listen.
"""

from __future__ import annotations

from evolvent import Strategist, StrategistConfig, make_game

GAME = make_game("avalon", num_players=5)
SMALL = {"skill_kind": "guide", "guide_role": "good", "evolutions": 1, "strategies_per_evolution": 1,
         "ideas_per_evolution": 1, "games_per_pair": 4, "racing": False, "final_games": 1, "search_budget": 8,
         "anchors": ("seed",), "feedback_states": 2, "repair_attempts": 0, "max_new_tokens": 16}  # fmt: skip


def test_the_embedded_model_fails_the_probe_and_falls_back_by_name(embedded_model, tmp_path):
    args = StrategistConfig(output_dir=tmp_path / "run", **SMALL)
    method = Strategist(embedded_model, GAME, args=args)
    result = method.run()
    assert not method.probe.talks
    assert result.proposer == "uniform (no LLM; typed acts)"
    assert result.metrics["skills/by-llm"] == 0
    assert method.probe.summary() in result.report_path.read_text()
