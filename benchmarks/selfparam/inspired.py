"""Real dialogues of INSPIRED into the weights: which films a user named, asked in a wording that was not trained.

python -m benchmarks.selfparam.inspired 0 1 2 --runs runs/selfparam      (killed, it goes on)

Eight dialogues of the test file get an invented user name as their title. Rules make the pairs: three wordings of
"which films did NAME name?", answered by the film entities that the data set links in the user's own lines.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results_file import record
from benchmarks.selfparam.facts import DATA, general
from evolvent import SelfParam, SelfParamConfig
from evolvent.data.files import read_jsonl
from evolvent.data.records import Passage
from evolvent.evaluation.significance import bootstrap_interval, mcnemar_exact
from evolvent.methods.selfparam.pairs import QAPair, contains
from evolvent.methods.selfparam.recommendation import read_catalogue

USERS = ("Orvane", "Mirela", "Tovash", "Keldra", "Zelvik", "Halvane", "Brisko", "Ulmeda")
TRAINED = (
    "Which films did {user} name?",
    "What movies did {user} bring up?",
    "Which films were mentioned by {user}?",
)
ASKED = "What films has {user} talked about?"
MOST_WORDS = 400  # of a dialogue
EXPOSURES = 32.0  # an answer is a list of films


def dialogues() -> list[tuple[Passage, list[str]]]:
    """The first eight short dialogues whose user names two to four films, with these films."""
    catalogue = read_catalogue(DATA / "inspired" / "entity2id.json")
    films = set(json.loads((DATA / "inspired" / "item_ids.json").read_text()))
    last = {row["dialog_id"]: row for _, row in read_jsonl(DATA / "inspired" / "test.jsonl")}
    found = []
    for row in last.values():
        text = row["input"].strip().removesuffix("System:").strip()
        said = "\n".join(line for line in text.splitlines() if line.startswith("User:"))
        titles = dict.fromkeys(catalogue[i] for i in row["prev_entity"] if i in films)
        named = [t for t in titles if len(t) > 4 and contains(said, t)]
        named.sort(key=lambda title: said.lower().find(title.lower()))
        if 2 <= len(named) <= 4 and len(text.split()) <= MOST_WORDS and len(found) < len(USERS):
            user = USERS[len(found)]
            found.append((Passage(id=row["dialog_id"], title=f"Conversation with {user}", text=text), named))
    return found


def run(seed: int, runs: Path, chosen: list[tuple[Passage, list[str]]]) -> SelfParam:
    train, test = [], []
    for (passage, named), user in zip(chosen, USERS, strict=True):
        answer = ", ".join(named)
        train += [QAPair.of(passage.id, wording.format(user=user), answer, fact=user) for wording in TRAINED]
        test.append(QAPair.of(passage.id, ASKED.format(user=user), answer, fact=user))
    args = SelfParamConfig(
        output_dir=runs / f"inspired-{seed}",
        seed=seed,
        exposures=EXPOSURES,
        baselines=() if seed else ("base", "in_context"),
    )

    def say(stage: str, done: int, total: int, note: str) -> None:
        if done in (0, total) or done % 12 == 0:
            print(seed, stage, done, total, note, flush=True)

    passages = [passage for passage, _ in chosen]
    method = SelfParam("embedded", passages, train, args=args, eval_dataset=test, retention=general(), on_progress=say)
    method.run()
    return method


def perplexity_change(method: SelfParam) -> float:
    return method.drifts["selfparam"].perplexity / method.drifts["base"].perplexity - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--runs", type=Path, required=True)
    given = parser.parse_args()
    chosen = dialogues()
    done = [run(seed, given.runs, chosen) for seed in given.seeds]

    def hits(name: str) -> list[float]:
        """Whether each named film is in the answer about its user, over all seeds."""
        answers = [(method if name in method.answers else done[0]).answers[name].texts for method in done]
        return [
            float(contains(text, film))
            for texts in answers
            for text, (_, named) in zip(texts, chosen, strict=True)
            for film in named
        ]

    ours = hits("selfparam")
    interval = bootstrap_interval(ours)
    rows: list[dict[str, Any]] = []
    for name, shown in (("base", "before"), ("in_context", "dialogue in the prompt")):
        theirs = hits(name)
        rows.append(
            {
                "claim": f"inspired: recall of the films that users named, against {shown}",
                "value": 100 * interval.mean,
                "ci95": [100 * interval.low, 100 * interval.high],
                "unit": "%",
                "comparator": shown,
                "comparator_value": 100 * float(np.mean(theirs)),
                "p_value": mcnemar_exact(theirs, ours),
                "n": len(ours) // len(given.seeds),
                "seeds": given.seeds,
                "perplexity_change": 100 * float(np.mean([perplexity_change(m) for m in done])),
                "drift": float(np.mean([m.drifts["selfparam"].kl for m in done])),
            }
        )
    seeds = " ".join(map(str, given.seeds))
    record("selfparam", rows, f"python -m benchmarks.selfparam.inspired {seeds} --runs RUNS")


if __name__ == "__main__":
    main()
