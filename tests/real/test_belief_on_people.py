"""The belief about roles on human games of Avalon (acceptance A4); they are not part of this project."""

from __future__ import annotations

import pytest

from evolvent.methods.strategist.belief_scores import score_belief
from evolvent.methods.strategist.belief_tables import fit_tables, read_logs

pytestmark = pytest.mark.real


def test_fitted_on_earlier_games_it_names_evil_and_merlin_in_later_ones(shared_data):
    log = shared_data / "strategist" / "avalon_human_games.jsonl.gz"
    if not log.is_file():
        pytest.skip("the human games (../shared/data/strategist) are not beside this checkout")
    games = list(read_logs(log))
    assert len(games) == 11_412
    split = int(0.7 * len(games))
    later = games[split : split + 1500]
    fitted, logic = score_belief(later, fit_tables(games[:split])), score_belief(later, None)
    found = fitted.metrics()
    assert found["log_loss/evil_set"] <= 1.50 < logic.metrics()["log_loss/evil_set"]
    assert found["accuracy/evil_set"] >= 0.55
    assert found["accuracy/merlin"] >= found["accuracy/assassins"] - 0.02
    assert max(error for name, error in found.items() if name.startswith("calibration_error")) < 0.05
