"""`evolvent strategist` as in a shell."""

from __future__ import annotations

import io
import json

import pytest

QUICK = ["evolutions=1", "games_per_pair=8", "search_budget=4", "final_games=10", "feedback_games=16"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("strategist") / "run"


def started(evolvent, folder):
    settings = [part for pair in QUICK for part in ("--set", pair)]
    return evolvent("strategist", "run", "--game-set", "num_cards=4", "--out", folder, *settings)


def test_a_run_then_show_ideas_replay_export_arena_and_exploit(evolvent, run_folder, tmp_path):
    done = started(evolvent, run_folder)
    assert done.code == 0, done.err
    assert "residual (no LLM)" in done.out
    shown = evolvent("strategist", "show", run_folder)
    assert "score_difference" in shown.out
    assert "simulations of tree search" in shown.out
    assert "proposer: seed" in evolvent("strategist", "show", run_folder, "s0").out
    assert "d0" in evolvent("strategist", "ideas", run_folder).out
    assert "as recorded" in evolvent("strategist", "replay", run_folder).out
    target = tmp_path / "skill.json"
    assert evolvent("strategist", "export", run_folder, "--out", target).code == 0
    assert json.loads(target.read_text())["game"] == "gops"
    refused = evolvent("strategist", "export", run_folder, "--out", tmp_path / "skill.py")
    assert refused.code == 2
    assert "this skill is a program" in " ".join(refused.err.split())
    arena = evolvent("strategist", "arena", run_folder, "random", "--pairs", 10, "--budget", 4)
    assert arena.code == 0
    assert "margin" in arena.out
    exploited = evolvent("strategist", "exploit", run_folder, "--game-set", "num_cards=3", "--budget", 10)
    assert "a perfect opponent wins" in exploited.out


def test_a_guide_is_shown_as_what_it_is(evolvent, tmp_path):
    settings = [part for pair in [*QUICK, "skill_kind=guide"] for part in ("--set", pair)]
    assert evolvent("strategist", "run", "--game", "avalon", "--out", tmp_path / "run", *settings).code == 0
    shown = evolvent("strategist", "show", tmp_path / "run")
    assert "says how to talk" in shown.out
    assert "every leaf" not in shown.out
    assert "skills that move" in evolvent("strategist", "replay", tmp_path / "run").err
    assert "learnt avalon" in evolvent("strategist", "exploit", tmp_path / "run").err


def test_replay_notices_figures_that_are_not_true(evolvent, run_folder):
    started(evolvent, run_folder)
    path = next((run_folder / "stages").glob("*-final")) / "margins.json"
    kept = path.read_text()
    found = json.loads(kept)
    name = next(iter(found))
    found[name][0][0] += 1
    path.write_text(json.dumps(found))
    done = evolvent("strategist", "replay", run_folder)
    path.write_text(kept)
    assert done.code == 2
    assert "differ" in done.err


def test_a_game_in_the_terminal_through_the_command(evolvent, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.stdin", io.StringIO("1\n1\n1\n"))
    done = evolvent("strategist", "play", "random", "--game", "gops", "--game-set", "num_cards=3")
    assert done.code == 0
    assert "result: player 0" in done.out
    monkeypatch.setattr("sys.stdin", io.StringIO("1\n"))
    left = evolvent("strategist", "play", "random", "--game-set", "num_cards=3", "--save", tmp_path / "g.json")
    assert left.code == 0
    assert (tmp_path / "g.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--game", "chess", "--out", "x"], "unknown game"),
        (["run", "--game-set", "num_cards=99", "--out", "x"], "2 to 16"),
        (["run", "--set", "proposer=llm", "--out", "x"], "needs a model"),
        (["arena", "rollout"], "at least two"),
        (["arena", "rollout", "random"], "--game"),
        (["show", "nowhere"], "strategist.json"),
        (["play", "rollout", "--seat", "9"], "seats 0 to 1"),
        (["arena", "rollout", "random", "--game", "gops", "--pairs", "0"], "equal to"),
        (["arena", "rollout", "random", "--game", "gops", "--budget", "0"], "equal to"),
        (["rl", "ridge", "--episodes", "0"], "equal to"),
        (["exploit", "rollout", "--game", "avalon"], "GOPS only"),
        (["fit-beliefs", "none.jsonl", "--out", "t.json"], "none.jsonl: there is no such file"),
    ],
)
def test_bad_input_is_one_sentence(evolvent, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    done = evolvent("strategist", *arguments)
    assert done.code == 2
    assert said in done.err


def test_the_rl_baseline_prints_its_margin(evolvent):
    done = evolvent(
        "strategist", "rl", "ridge", "--game-set", "num_cards=4", "--episodes", 20, "--pairs", 10, "--budget", 4
    )
    assert "against one playout a leaf" in done.out
