"""How fast are LAW's parts? Every figure is a ratio of two measurements of one process.

python -m benchmarks.law.speed ascent      the closed form against 1000 Adam steps of the official ascent
python -m benchmarks.law.speed targets     suffixes of many facts against whole rows, one fact after the other
python -m benchmarks.law.speed stream      10,000 facts at m = 8192 in the memory of one matrix
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.law.protocol import protocol
from benchmarks.results_file import record
from evolvent import LawConfig
from evolvent.methods.law.decoder import Decoder
from evolvent.methods.law.spectral import Kept, Streamed, ascend, dual
from evolvent.methods.law.statistics import fingerprint, statistics
from evolvent.methods.law.targets import learn_targets
from evolvent.methods.law.wordings import rows_for, wordings_for
from evolvent.models.attention import plain_attention
from evolvent.models.resolve import load_local

LAYER, LAST = 4, 8
LAM = 1000.0
STEPS, RATE = 1000, 1e-5  # a hundred times the official travel, so that the ascent gets somewhere
SCALED = 10  # steps are measured in a tenth of their number at ten times the rate: the same travel


def cpu_seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of one thread: other processes of the machine do not count."""
    started = time.process_time()
    result = run()
    return time.process_time() - started, result


def ascent() -> list[dict[str, Any]]:
    """Real keys of 96 facts at block 4, residuals towards random targets: only their size matters for the time."""
    facts = protocol(0)
    decoder = Decoder(load_local("embedded", dtype="float32"))
    args = LawConfig(output_dir=Path("unused"))
    rows = rows_for(decoder.model, facts.forget, wordings_for(decoder.model, args)[:1])
    rows = [own for own in rows if own]
    keys = decoder.read([own[0].tokens[: own[0].edit + 1] for own in rows], keys=[LAYER])[0][LAYER].double().T
    texts = [*facts.held_out, *facts.corpus][16:]
    general = statistics(decoder, texts, [LAYER], model_fingerprint=fingerprint(decoder.model))[LAYER].moment
    generator = torch.Generator().manual_seed(0)
    residuals = torch.randn(decoder.hidden, keys.shape[1], generator=generator, dtype=torch.float64)
    kept = Kept(general)
    shared = dual(kept, keys, residuals)
    start = shared.memit(LAM)
    cost = 1.1 * shared.cost(start)

    def closed() -> torch.Tensor:
        spectrum = dual(kept, keys, residuals)
        return spectrum.delta(spectrum.law(LAM, 0.5, cost))

    seconds, edit = cpu_seconds(closed)
    reached = float((edit @ keys).square().sum())
    given = [x.float() for x in (shared.delta(start), keys, general)]
    theirs, climbed = cpu_seconds(lambda: ascend(*given, cost=cost, steps=STEPS // SCALED, lr=SCALED * RATE))
    objective = float((climbed.double() @ keys).square().sum())
    return [
        {
            "claim": "speed: closed form with its eigendecomposition",
            "value": seconds,
            "unit": "CPU s",
            "comparator": f"{STEPS} Adam steps, float32 ({STEPS // SCALED} measured, of {SCALED} times the rate)",
            "comparator_value": SCALED * theirs,
            "ratio": SCALED * theirs / seconds,
            "objective": reached / shared.objective(start),
            "comparator_objective": objective / shared.objective(start),
            "n": keys.shape[1],
        }
    ]


def targets() -> list[dict[str, Any]]:
    """All Adam steps for 16 facts in four wordings, float32 both ways; what is computed once is part of both."""
    facts = protocol(0).forget[:8] + protocol(0).forget[46:54]
    decoder = Decoder(load_local("embedded", dtype="float32"))
    args = LawConfig(output_dir=Path("unused"), target_loss=0.0)  # no fact stops early
    rows = rows_for(decoder.model, facts, wordings_for(decoder.model, args))

    def one_by_one() -> torch.Tensor:
        found = [
            learn_targets(decoder, [f], [r], LAST, args, whole=True).deltas for f, r in zip(facts, rows, strict=True)
        ]
        return torch.cat(found)

    with plain_attention(decoder.model.module, decoder.model.device):
        ours, batched = cpu_seconds(lambda: learn_targets(decoder, facts, rows, LAST, args).deltas)
        theirs, sequential = cpu_seconds(one_by_one)
    difference = float((batched - sequential).norm() / sequential.norm())
    return [
        {
            "claim": "speed: batched suffix targets",
            "value": ours,
            "unit": "CPU s",
            "comparator": "whole rows, one fact after the other",
            "comparator_value": theirs,
            "ratio": theirs / ours,
            "relative_difference": difference,
            "n": len(facts),
        }
    ]


def stream(width: int = 8192, hidden: int = 64, facts: int = 10240, block: int = 1024) -> list[dict[str, Any]]:
    """Sums over synthetic keys, and both edits out of them: by one Cholesky factor, and through the whole spectrum.

    The comparator of memory is what all keys would take; what an edit is held to are the equations it solves,
    (B - Delta S) / lambda = Delta C, and the spectrum's edit with the filter of MEMIT to the direct one.
    """
    generator = torch.Generator().manual_seed(0)

    def drawn(rows: int) -> torch.Tensor:
        return torch.randn(rows, block, generator=generator, dtype=torch.float64)

    general = torch.eye(width, dtype=torch.float64)
    for _ in range(2):
        general.addmm_(keys := drawn(width), keys.T)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sums = Streamed(width, hidden)
    for _ in range(facts // block):
        sums.add(drawn(width), drawn(hidden))
    after_sums = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    kept, lam = Kept(general), 1.0
    started = time.process_time()
    direct = sums.solve(kept, lam)
    solving = time.process_time() - started
    factor, _ = kept.factor()
    missed = sums.cross - direct @ sums.moment - lam * (direct @ factor) @ factor.T
    del factor
    started = time.process_time()
    spectrum = sums.spectrum(kept)
    deciding = time.process_time() - started
    apart = spectrum.delta(spectrum.memit(lam)) - direct
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    size = f"{facts} facts at m = {width}"
    return [
        {
            "claim": f"memory: sums over {size}",
            "value": after_sums,
            "unit": "MB",
            "comparator": "all keys, six wordings, float64",
            "comparator_value": facts * 6 * width * 8 / 2**20,
            "ratio": facts * 6 * width * 8 / 2**20 / after_sums,
            "n": sums.count,
        },
        {
            "claim": f"speed: edit out of the sums over {size}, one Cholesky factor",
            "value": solving,
            "unit": "CPU s",
            "comparator": "whole spectrum, for every filter",
            "comparator_value": deciding,
            "ratio": deciding / solving,
            "equations_missed_by": float(missed.norm() / sums.cross.norm()),
            "spectrum_differs_by": float(apart.norm() / direct.norm()),
            "peak_megabytes": peak,
            "n": sums.count,
        },
    ]


PARTS = {"ascent": ascent, "targets": targets, "stream": stream}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    part = parser.parse_args().part
    torch.set_num_threads(1)
    record("law", PARTS[part](), f"python -m benchmarks.law.speed {part}")


if __name__ == "__main__":
    main()
