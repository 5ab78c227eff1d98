"""Reading an answer out of what a model wrote."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence

# The last "answer is ..." or "answer: ..." counts: models think aloud before they commit.
_ANSWER = re.compile(r"answer\s*(?:is|:)\s*:?", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")
_WRAPPING = " \t\r\n*_`\"'“”‘’()[]{}<>$."
_PLAIN_SPACE = re.compile(r"\s+")


def parse_answer(text: str) -> str | None:
    """What follows the last "answer is" or "answer:" on its line, without Markdown, brackets or quotes."""
    found = list(_ANSWER.finditer(text))
    if not found:
        return None
    lines = text[found[-1].end() :].strip().splitlines()
    answer = lines[0] if lines else ""
    return _unwrap(answer) or None


def parse_choice(text: str, choices: Sequence[str]) -> int | None:
    """Index of the choice that a text names: by letter, else by its full text, else by a unique beginning.

    Without an "answer:" in it, the whole text must be the answer.
    """
    answer = parse_answer(text)
    if answer is None:
        answer = _unwrap(text)
    if not answer:
        return None
    letter = re.match(r"^(?:option\s+)?\(?([A-Za-z])\)?(?:$|[.):\s](?!\w*'))", answer)
    if letter and (len(answer) == 1 or not _names(answer, choices)):
        index = ord(letter.group(1).upper()) - ord("A")
        if index < len(choices) and (len(answer) <= 2 or letter.group(1).isupper()):
            return index
    return _names_index(answer, choices)


def parse_number(text: str) -> float | None:
    """The number that a text gives: thousands commas, currency, percent and scientific notation are read.

    After "answer:" the first number counts, otherwise the last one of the text.
    """
    answer = parse_answer(text)
    numbers = _NUMBER.findall((answer if answer is not None else text).replace("−", "-"))
    if not numbers:
        return None
    number = float(numbers[0 if answer is not None else -1].replace(",", ""))
    return number if math.isfinite(number) else None


def squash(text: str) -> str:
    """Casefolded text in NFKC with single spaces and no wrapping punctuation, for comparison."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _PLAIN_SPACE.sub(" ", folded).strip(_WRAPPING + ",;:!?")


def _unwrap(text: str) -> str:
    return text.strip().strip(_WRAPPING).strip()


def _names(answer: str, choices: Sequence[str]) -> bool:
    return _names_index(answer, choices) is not None


def _names_index(answer: str, choices: Sequence[str]) -> int | None:
    said = squash(answer)
    texts = [squash(c) for c in choices]
    if said in texts:
        return texts.index(said)
    begins = [i for i, t in enumerate(texts) if t and (said.startswith(t) or t.startswith(said))]
    return begins[0] if len(begins) == 1 and len(said) > 1 else None
