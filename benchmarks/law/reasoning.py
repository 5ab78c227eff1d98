"""Does a washed model reason as before? Science questions, physical common sense, and last words of paragraphs.

python -m benchmarks.law.reasoning run runs/law-0 runs/law-1 runs/law-2 --out runs/law-reasoning [--limit 200]
python -m benchmarks.law.reasoning record runs/law-reasoning

The arguments of `run` are folders of `benchmarks.law.acceptance run`. Every set is written when measured, so a run
that was killed goes on. Last words are those of LAMBADA in kind: the word must stand in the paragraph before, and the
paragraphs are none that statistics or perplexity were read from.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.law.protocol import DATA, protocol
from benchmarks.results_file import record
from evolvent.data.records import Question
from evolvent.data.tasks import ChoiceTask
from evolvent.evaluation.evaluate import Evaluation, Prediction, evaluate, measure
from evolvent.evaluation.significance import paired_bootstrap
from evolvent.models.local import LocalModel
from evolvent.models.resolve import load_local

USED_TEXTS = 256  # of the corpus: statistics read half as many, gradient methods with retained text all of them
WORDS = (30, 90)  # of a paragraph before its last word
SETS = {"arc": "ARC-Challenge", "piqa": "PIQA", "last-word": "last words"}


def run(folders: list[Path], out: Path, limit: int) -> None:
    """The original once, and the checkpoint of each run."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    seeds = {}
    for name, place in {"base": "embedded", **{f.name: str(f / "checkpoint") for f in folders}}.items():
        if name != "base":
            seeds[name] = json.loads((Path(place) / "evolvent.json").read_text())["seed"]
        model: LocalModel | None = None
        for kind, asked in _measures(limit).items():
            path = out / f"{name}.{kind}.json"
            if not path.is_file():
                model = model or load_local(place, dtype="float32")
                asked(model).save(path.with_suffix(".new"))
                path.with_suffix(".new").replace(path)
            print(name, kind, f"{Evaluation.load(path).metrics['accuracy']:.4f}", flush=True)
    (out / "seeds.json").write_text(json.dumps(seeds))


def collect(out: Path) -> list[dict[str, Any]]:
    """A row for each set, seeds pooled."""
    seeds = json.loads((out / "seeds.json").read_text())
    rows = []
    for kind, name in SETS.items():
        base = Evaluation.load(out / f"base.{kind}.json").correct
        after = np.stack([Evaluation.load(out / f"{run}.{kind}.json").correct for run in seeds])
        test = paired_bootstrap(np.tile(base, (len(after), 1)), after)
        rows.append(
            {
                "claim": f"reasoning: {name}, LAW minus before",
                "value": 100 * test.difference,
                "unit": "points",
                "comparator": "before",
                "comparator_value": 100 * float(base.mean()),
                "after": 100 * float(after.mean()),
                "ci95": [100 * test.low, 100 * test.high],
                "p_value": test.p_value,
                "n": len(base),
                "seeds": list(seeds.values()),
            }
        )
    return rows


def _measures(limit: int) -> dict[str, Callable[[LocalModel], Evaluation]]:
    task = ChoiceTask(style="words")

    def choices(path: str) -> Callable[[LocalModel], Evaluation]:
        rows = json.loads((DATA.parent / path).read_text())
        questions = [
            Question(id=str(r["id"]), question=r["question"], choices=tuple(r["choices"]), answer=r["answer"])
            for r in rows
        ]
        return lambda model: evaluate(model, _some(questions, limit), task, normalization="character")

    return {
        "arc": choices("tinyllm/arc/arc_test.json"),
        "piqa": choices("tinyllm/piqa/piqa_test.json"),
        "last-word": lambda model: last_words(model, _some(_paragraphs(), limit)),
    }


def last_words(model: LocalModel, rows: list[tuple[str, str]]) -> Evaluation:
    """Whether greedy decoding says each paragraph's last word, all of its tokens."""
    scores = model.loglikelihood([(text, f" {word}") for text, word in rows])
    predictions = [
        Prediction(str(i), word if s.greedy else None, word, s.greedy, float(np.exp(s.log_prob)))
        for i, ((_, word), s) in enumerate(zip(rows, scores, strict=True))
    ]
    return Evaluation(tuple(predictions), measure(predictions))


def _paragraphs() -> list[tuple[str, str]]:
    """Text and last word of each paragraph: the last word within bounds that ends a sentence and occurred before."""
    found = []
    for text in protocol(0).corpus[USED_TEXTS:]:
        words = text.split()
        for end in range(min(len(words), WORDS[1]) - 1, WORDS[0], -1):
            said = re.fullmatch(r"([A-Za-z]{4,})[.;]", words[end])
            before = " ".join(words[:end])
            if said and re.search(rf"\b{said[1]}\b", before):
                found.append((before, said[1]))
                break
    return found


def _some(rows: list[Any], limit: int) -> list[Any]:
    """The same random rows every time, in their order."""
    order = np.random.default_rng(0).permutation(len(rows))[:limit]
    return [rows[i] for i in sorted(order)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    running = verbs.add_parser("run")
    running.add_argument("folders", type=Path, nargs="+")
    running.add_argument("--out", type=Path, required=True)
    running.add_argument("--limit", type=int, default=200, help="questions of each set")
    recording = verbs.add_parser("record")
    recording.add_argument("out", type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "run":
        run(arguments.folders, arguments.out, arguments.limit)
    else:
        record("law", collect(arguments.out), "python -m benchmarks.law.reasoning run FOLDERS --out FOLDER")


if __name__ == "__main__":
    main()
