"""The exact belief: against an independent calculation, with contradictions, and its tables against counts by hand."""

from __future__ import annotations

import gzip
import json
import math
from itertools import combinations

import numpy as np
import pytest

from evolvent.errors import ConfigError, DataError
from evolvent.methods.strategist.belief import Belief, ContradictionError
from evolvent.methods.strategist.belief_scores import score_belief
from evolvent.methods.strategist.belief_tables import (
    BeliefTables,
    GameRecord,
    fit_tables,
    log_line,
    read_logs,
    record_of,
)
from evolvent.methods.strategist.games.avalon import Avalon, Ballot, Proposal, QuestResult, Speech
from evolvent.methods.strategist.games.avalon_rules import ROLES, RoleSet
from evolvent.methods.strategist.games.rng import Stream
from evolvent.methods.strategist.matches import Seat, pair_seeds, play

GAME = Avalon(5)
FIRST = (Proposal(0, 0b00011), Ballot(0b00111), QuestResult(0b00011, 1))
SECOND = (Proposal(1, 0b01110), Ballot(0b10001), Proposal(2, 0b01101), Ballot(0b11110), QuestResult(0b01101, 1))


@pytest.fixture(scope="module")
def tables():
    finals = play(GAME, [Seat(None)], np.zeros((60, 5), int), pair_seeds(1, 60)).finals
    return fit_tables(map(record_of, finals), by="role")


def test_hard_logic_alone_leaves_the_sets_that_can_have_played_the_fails():
    belief = Belief(GAME.role_set)
    belief.observe((*FIRST, *SECOND))
    allowed = {
        sum(1 << seat for seat in pair)
        for pair in combinations(range(5), 2)
        if {0, 1} & set(pair) and {0, 2, 3} & set(pair)
    }
    found = belief.evil_sets()
    assert {mask for mask, p in found.items() if p > 0} == allowed
    assert found[0b00011] == pytest.approx(1 / len(allowed))


def test_the_posterior_is_bayes_rule_written_out(tables):
    belief = Belief(GAME.role_set, tables)
    belief.observe(FIRST)
    belief.observe((*FIRST, *SECOND))
    state = GAME.initial(4)
    info = GAME.info(state, 2)
    # team, ayes, proposal, quest
    votes = [
        (0b00011, 0b00111, 0, 0),
        (0b01110, 0b10001, 0, 1),
        (0b01101, 0b11110, 1, 1),
    ]
    weights = []
    for deal in GAME.role_set.assignments.tolist():
        evil = {p for p in range(5) if deal[p] >= 3}
        weight = float(tuple(deal) in GAME.assignments(info))
        for quest, team in ((0, {0, 1}), (1, {0, 2, 3})):
            weight *= tables.fails[quest, len(evil & team), 1] if evil & team else 0
        for team, ayes, proposal, quest in votes:
            members = {p for p in range(5) if team >> p & 1}
            for p in range(5):
                chance = tables.approve[deal[p], int(bool(evil & members)), int(p in members), proposal, quest]
                weight *= chance if ayes >> p & 1 else 1 - chance
        weights.append(weight)
    np.testing.assert_allclose(belief.posterior(info), np.array(weights) / sum(weights), rtol=1e-9)
    chances = belief.evil_probability(info)
    assert chances.sum() == pytest.approx(2)
    assert belief.role_probability("merlin", info).sum() == pytest.approx(1)


def test_talk_moves_the_odds_by_kappa():
    belief = Belief(GAME.role_set, kappa=0.5)
    before = belief.evil_sets()
    belief.talk({0: 2, 3: -9, 7: 2})  # clamped to -2; player 7 does not exist
    after = belief.evil_sets()

    def odds(sets):
        return sets[0b00011] / sets[0b01010]

    assert odds(after) / odds(before) == pytest.approx(math.exp(0.5 * 2) / math.exp(0.5 * -2))


def test_an_impossible_event_is_named():
    belief = Belief(GAME.role_set)
    with pytest.raises(ContradictionError, match="quest 1: 3 fails"):
        belief.observe((QuestResult(0b00111, 3),))


def test_private_knowledge_that_contradicts_the_quests_is_an_error():
    game = Avalon(5)
    state = game.initial(0)
    merlin = state.roles.index(ROLES.index("merlin"))
    info = game.info(state, merlin)
    clean = sum(1 << p for p in range(5) if not info.seen >> p & 1)
    belief = Belief(game.role_set)
    belief.observe((QuestResult(clean, 1),))
    with pytest.raises(ContradictionError):
        belief.posterior(info)


def test_soft_evidence_that_excludes_everything_is_dropped_with_a_warning(tables, caplog):
    never = BeliefTables("role", tables.fails, np.zeros_like(tables.approve), 1)
    belief, logic = Belief(GAME.role_set, never), Belief(GAME.role_set)
    for b in (belief, logic):
        b.observe(FIRST)
    np.testing.assert_allclose(belief.posterior(), logic.posterior())
    assert "ignored" in caplog.text


def test_a_history_that_does_not_continue_is_refused():
    belief = Belief(GAME.role_set)
    belief.observe(FIRST)
    with pytest.raises(ValueError, match="continue"):
        belief.observe(SECOND)


def test_speech_is_no_evidence_by_itself():
    quiet, loud = Belief(GAME.role_set), Belief(GAME.role_set)
    quiet.observe(FIRST)
    loud.observe((Speech(0, "I am Merlin"), *FIRST))
    np.testing.assert_array_equal(quiet.posterior(), loud.posterior())


def test_roles_are_drawn_from_the_posterior():
    belief, stream = Belief(GAME.role_set), Stream(1)
    belief.observe(FIRST)
    drawn = np.array([belief.sample(stream) for _ in range(2000)]) >= 3
    chances = belief.evil_probability()
    np.testing.assert_allclose(drawn.mean(0), chances, atol=4 * np.sqrt(0.25 / 2000))


def test_merlin_is_found_by_the_role_table():
    approve = np.full((8, 2, 2, 5, 5), 0.5)
    approve[ROLES.index("merlin"), 1] = 0.1  # rejects teams with evil on them
    tables = BeliefTables("role", fit_tables([GameRecord((1, 0, 0, 3, 4), FIRST)]).fails, approve, 1)
    belief = Belief(GAME.role_set, tables)
    belief.observe((Proposal(3, 0b11000), Ballot(0b11101)))
    chances = belief.merlin_given_evil(0b11000)
    assert chances[3:].tolist() == [0, 0]
    np.testing.assert_allclose(chances[:3] * 1.9 / np.array([0.1, 0.9, 0.1]), chances[0] * 19)


# -------------------------------------------------------------------------------------------- tables, logs

RECORD = GameRecord((4, 1, 0, 0, 3), (*FIRST, *SECOND), target=-1)


def test_tables_are_smoothed_counts():
    game = GameRecord((1, 0, 0, 4, 3), (Proposal(0, 0b01001), Ballot(0b01011), QuestResult(0b01001, 1)))
    tables = fit_tables([game], by="side", alpha=1.0)
    assert tables.fails[0, 1, :3].tolist() == [1 / 3, 2 / 3, 0]  # one evil on the team: 0 or 1 fail, seen 1
    assert tables.fails[0, 0, 0] == 1.0
    approve = tables.approve[:, 1, :, 0, 0]  # evil on the team; rows good, evil; columns off, on it
    np.testing.assert_allclose(approve, [[2 / 4, 2 / 3], [1 / 3, 2 / 3]])


def test_a_role_that_the_games_do_not_have_votes_like_its_side():
    game = GameRecord((1, 0, 0, 6, 3), (Proposal(0, 0b01001), Ballot(0b01011), QuestResult(0b01001, 1)))
    by_role, by_side = fit_tables([game], by="role"), fit_tables([game], by="side")
    np.testing.assert_allclose(by_role.approve[ROLES.index("assassin")], by_side.approve[1])
    np.testing.assert_allclose(by_role.approve[ROLES.index("percival")], by_side.approve[0])
    # the minion (off the team, against): no approval of his own, two counted votes like his side's third
    assert by_role.approve[ROLES.index("minion"), 1, 0, 0, 0] == pytest.approx((0 + 2 * (1 / 3)) / (1 + 2))


def test_tables_survive_a_file(tmp_path, tables):
    again = BeliefTables.load(tables.save(tmp_path / "tables.json"))
    np.testing.assert_array_equal(again.approve, tables.approve)
    np.testing.assert_array_equal(again.fails, tables.fails)
    assert (again.by, again.games) == ("role", 60)


@pytest.mark.parametrize("text", ["{}", "nonsense", '{"by": "side", "games": 1, "fails": [1], "approve": [2]}'])
def test_a_file_that_is_no_table_is_refused(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(DataError, match=r"t\.json"):
        BeliefTables.load(tmp_path / "t.json")


def test_games_of_self_play_survive_a_log(tmp_path):
    finals = play(GAME, [Seat(None)], np.zeros((10, 5), int), pair_seeds(1, 10)).finals
    records = [record_of(final) for final in finals]
    text = "".join(json.dumps(log_line(record)) + "\n" for record in records)
    plain, packed, wrong = (tmp_path / name for name in ("games.jsonl", "games.jsonl.gz", "wrong.gz"))
    plain.write_text(text)
    packed.write_bytes(gzip.compress(text.encode()))
    wrong.write_text(text)
    assert list(read_logs(plain)) == list(read_logs(packed)) == records
    with pytest.raises(DataError, match="not a gzipped file"):
        list(read_logs(wrong))


def test_a_log_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl: there is no such file"):
        list(read_logs(tmp_path / "none.jsonl"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"n": 4}, "5 to 10 players"),
        ({"roles": ["merlin"]}, "'roles'"),
        ({"quests": [{"p": [[0, [9], []]], "team": None, "fails": 0}]}, "'team': expected seats 0 to 4"),
        ({"quests": [{"p": [], "team": [0, 1], "fails": 3}]}, "'fails'"),
        ({"quests": [{"team": [0]}]}, "'p' is missing"),
        ({"quests": None}, "'quests': expected a list"),
        ({"quests": [{"p": [], "team": None, "fails": 0}] * 6}, "'quests': .* 6 of them"),
        ({"quests": [{"p": [[0, [0], []]] * 6, "team": None, "fails": 0}]}, "'p': .* 6 of them"),
        ({"quests": [{"p": [[0, [0]]], "team": None, "fails": 0}]}, "'p': expected .leader"),
        ({"quests": [{"p": [["x", [0], []]], "team": None, "fails": 0}]}, "'leader'"),
        ({"quests": [{"p": [], "team": [0, 1, 2, 3, 4], "fails": 3}]}, "'fails': got 3, with 2 evil"),
        ({"quests": [{"p": [], "team": [0, 1], "fails": 0.5}]}, "'fails': got 0.5"),
        ({"target": 99}, "'target'"),
        ({"roles": ["minion"] * 5}, "'roles': at most 4 evil"),
    ],
)
def test_a_bad_line_of_a_log_names_file_line_and_field(tmp_path, change, told):
    path = tmp_path / "games.jsonl"
    path.write_text(json.dumps(log_line(RECORD)) + "\n" + json.dumps({**log_line(RECORD), **change}) + "\n")
    with pytest.raises(DataError, match=rf"games\.jsonl, line 2: .*{told}"):
        list(read_logs(path))


def test_nothing_to_fit_is_said():
    with pytest.raises(ConfigError, match="no game"):
        fit_tables([])
    with pytest.raises(ConfigError, match="alpha"):
        fit_tables([RECORD], alpha=0)


def test_a_deal_without_an_assassin_has_a_belief_too():
    roles = [ROLES.index(r) for r in ("merlin", "percival", "servant", "morgana", "mordred")]
    belief = Belief(RoleSet.dealt(roles))
    assert len(belief.posterior()) == 120
    assert belief.evil_probability().tolist() == pytest.approx([0.4] * 5)


def test_a_belief_is_scored_on_finished_games(tables):
    finals = play(GAME, [Seat(None)], np.zeros((40, 5), int), pair_seeds(8, 40)).finals
    games = [record_of(final) for final in finals]
    # Random votes say nothing; what is left to learn is that evil fails half of the time.
    fails = BeliefTables("side", tables.fails, np.full((2, 2, 2, 5, 5), 0.5), 60)
    logic, fitted = score_belief(games, None), score_belief(games, fails)
    by_hand = []
    for game in games:
        quests = [e for e in game.events if isinstance(e, QuestResult)]
        sets = [set(pair) for pair in combinations(range(5), 2)]
        left = [s for s in sets if all(sum(q.team >> p & 1 for p in s) >= q.fails for q in quests)]
        by_hand.append(math.log(len(left)))
    np.testing.assert_allclose(logic.loss, by_hand, atol=1e-9)
    assert fitted.metrics()["log_loss/evil_set"] < logic.metrics()["log_loss/evil_set"]
    first = fitted.calibration()["quest 1"]
    assert sum(n for *_, n in first) == 5 * sum(any(isinstance(e, QuestResult) for e in g.events) for g in games)
    with pytest.raises(ConfigError, match="no game"):
        score_belief([], tables)
