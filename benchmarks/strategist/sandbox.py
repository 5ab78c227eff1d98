"""Does anything get out of the sandbox, and what does it cost? Acceptance A6 and the sandboxed speed of section 8.

python -m benchmarks.strategist.sandbox
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.results_file import record
from evolvent import make_game
from evolvent.methods.strategist.sandbox.language import CheckedSource, SkillError, check_source
from evolvent.methods.strategist.sandbox.workers import Limits, SecurityError, Worker
from evolvent.methods.strategist.skills.code import CodeSkill, check_code, reachable_states

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "methods" / "strategist"))
from attacks import HARMLESS, KERNEL, LANGUAGE

GAME = make_game("gops", num_cards=6)
ROUNDS, STATES = 15, 4096


def attacks() -> list[dict[str, Any]]:
    views = [GAME.view(row) for row in reachable_states(GAME, 4)]
    refused, ended, killed, escaped = 0, 0, 0, []
    limits = Limits(timeout_seconds=1.0)
    for name, source in LANGUAGE.items():
        try:
            checked = check_source(source)
        except SkillError:
            refused += 1
            continue
        try:
            with Worker(checked, limits) as worker:
                worker.evaluate(views, 2)
            escaped.append(name)
        except SkillError:
            ended += 1
    for name, source in KERNEL.items():
        try:
            with Worker(CheckedSource("", source, "", False), limits) as worker:
                worker.evaluate(views[:1], 2)
            escaped.append(name)
        except SecurityError:
            killed += 1
        except SkillError:
            ended += 1
    accepted = 0
    for source in HARMLESS.values():
        check_code(GAME, CodeSkill(source), Limits(), set())
        accepted += 1
    return [
        {
            "claim": "A6: attacks that succeed", "value": len(escaped), "unit": f"of {len(LANGUAGE) + len(KERNEL)}",
            "n": len(LANGUAGE) + len(KERNEL), "refused_by_language": refused, "ended_by_limits": ended,
            "killed_by_kernel": killed, "comparator": "gate", "comparator_value": 0,
        },
        {
            "claim": "A6: harmless skills accepted", "value": accepted / len(HARMLESS), "unit": "share",
            "n": len(HARMLESS), "comparator": "gate", "comparator_value": 0.98,
        },
    ]  # fmt: skip


def speed() -> list[dict[str, Any]]:
    """Evaluations a second of one worker, beside the same function by plain `exec` in this process, taken in turns.

    In processor time of parent and worker together: on a busy machine two processes that wait for each other measure
    the scheduler.
    """
    source = HARMLESS["sorted match"]
    views = [GAME.view(row) for row in reachable_states(GAME, STATES)]
    space: dict[str, Any] = {}
    exec(source, space)
    plain = boxed = 0.0
    with Worker(check_source(source), Limits()) as worker:
        theirs_before = _processor_seconds(worker)
        for _ in range(ROUNDS):
            started = time.process_time()
            for view in views:
                space["evaluate_state"](view)
            between = time.process_time()
            worker.evaluate(views, 2)
            plain += between - started
            boxed += time.process_time() - between
        boxed += _processor_seconds(worker) - theirs_before
    ours, theirs = (ROUNDS * STATES / seconds for seconds in (boxed, plain))
    return [
        {
            "claim": "speed: sandboxed evaluations of a code skill, one worker", "value": ours,
            "unit": "states/s of processor time", "comparator": "plain exec in this process, no protection",
            "comparator_value": theirs, "ratio": ours / theirs, "n": ROUNDS * STATES,
        }
    ]  # fmt: skip


def _processor_seconds(worker: Worker) -> float:
    fields = Path(f"/proc/{worker._process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    record("strategist", [*attacks(), *speed()], "python -m benchmarks.strategist.sandbox")


if __name__ == "__main__":
    main()
