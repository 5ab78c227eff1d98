"""The teacher: the original model with the passage. Its prompts, the probe that picks one, its stored predictions.

Teacher and student read the same question and the same answer in token ids; only what stands before differs:

    teacher   [demonstrations] passage [hint] | question | answer
    student                                   | question | answer

Each part is tokenised on its own and the ids are joined, so that the answer's ids cannot differ between the two.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from evolvent.data.records import Passage
from evolvent.errors import DataError, ModelError
from evolvent.methods.selfparam.config import SelfParamConfig
from evolvent.methods.selfparam.pairs import QAPair
from evolvent.models.distributions import IMPOSSIBLE, TokenDistributions, token_distributions
from evolvent.models.local import LocalModel
from evolvent.models.protocol import Message, Prompt

logger = logging.getLogger(__name__)

Row = tuple[Sequence[int], Sequence[int]]  # ids before, ids that are predicted
Format = Literal["plain", "chat"]
Hint = Literal["off", "all", "wordings", "loo"]

READS_BELOW = -1.0  # nats per token of the given answer: a teacher under this cannot read the passage
READS_FIRST = 0.5  # share of answers whose first token it would choose
HINT_GAIN = 0.2  # nats per token that a hint must add to the given answers to be used without being asked for
PLAUSIBLE = 0.1  # times the best token's probability: what is less likely is left out of an amplified prediction
SHARD_ROWS = 64


@dataclass(frozen=True, slots=True)
class TeacherPrompt:
    """What the teacher sees besides passage and question.

    Attributes:
        format: "plain" ("Question: ...", "Answer:") or "chat" (the model's template).
        shots: solved pairs of another passage before it.
        hint: the passage's own pairs: none, one wording of each fact, all wordings, or one of each fact but the
            one that is asked.
    """

    format: Format = "plain"
    shots: int = 3
    hint: Hint = "off"

    def __str__(self) -> str:
        hint = {
            "off": "",
            "all": " + hint",
            "wordings": " + hint in all wordings",
            "loo": " + hint of the other facts",
        }[self.hint]
        return f"{self.format}{f' + {self.shots} shots' if self.shots else ''}{hint}"


@dataclass(frozen=True, slots=True)
class ProbeRow:
    """How well one teacher prompt reads: means over the probed pairs.

    Attributes:
        gold: log-probability of the given answers, nats per token.
        greedy: share of their tokens that the teacher would choose.
        first: share of their first tokens that it would choose.
        entropy: nats per token.
        tail: probability outside the stored tokens.
    """

    prompt: TeacherPrompt
    gold: float
    greedy: float
    first: float
    entropy: float
    tail: float

    @property
    def reads(self) -> bool:
        """Whether this teacher knows the answers."""
        return self.gold >= READS_BELOW and self.first >= READS_FIRST


class Teacher:
    """Builds the token ids of both sides, and computes the teacher's predictions.

    Args:
        model: the original model.
        passages: all passages.
        pairs: all training pairs; the hint and the demonstrations come from them.
    """

    def __init__(self, model: LocalModel, passages: Sequence[Passage], pairs: Sequence[QAPair]) -> None:
        self.model = model
        self.passages = {p.id: p for p in passages}
        self.wordings: dict[str, dict[str, QAPair]] = {p.id: {} for p in passages}  # passage -> fact -> first wording
        self.pairs = pairs
        for pair in pairs:
            if pair.kind != "split":
                self.wordings[pair.passage].setdefault(pair.fact, pair)

    def student(self, pair: QAPair, form: Format) -> tuple[list[int], list[int]]:
        """Token ids of the question as the student reads it, and of the answer with its end."""
        if pair.kind == "split":
            start = self.model.encode("")
            return start, self._ids(pair.answer)
        return self._start(form) + self._question(pair, form), self.answer(pair, form)

    def answer(self, pair: QAPair, form: Format) -> list[int]:
        """Token ids of the answer: " Paris" and a new line, or "Paris" and the end of the turn."""
        if form == "plain":
            return self._ids(f" {pair.answer}\n")
        return [*self._ids(pair.answer), int(self.model.tokenizer.eos_token_id)]

    def teacher(self, pair: QAPair, prompt: TeacherPrompt) -> tuple[list[int], list[int]]:
        """Token ids of what the teacher reads before the answer, and of the answer."""
        if pair.kind == "split":
            return self.model.encode("") + self._ids(f"{pair.begin} "), self._ids(pair.answer)
        read = self.reading(pair, prompt)
        if not isinstance(read, str):
            return self._ids(self.model.render(read)), self.answer(pair, "chat")
        before = read.removesuffix(_asked(pair))
        return self._start("plain") + self._ids(before) + self._question(pair, "plain"), self.answer(pair, "plain")

    def with_question(self, pair: QAPair, row: tuple[list[int], list[int]]) -> tuple[list[int], list[int]]:
        """A plain row of either side whose question is predicted too, all but its first token ("Question")."""
        before, answer = row
        asked = 0 if pair.kind == "split" else len(self._question(pair, "plain")) - 1
        return before[: len(before) - asked], before[len(before) - asked :] + answer

    def reading(self, pair: QAPair, prompt: TeacherPrompt, passage: Passage | None = None) -> Prompt:
        """The teacher's prompt as a text or as messages; with another passage in place of the pair's own if given."""
        passage = passage or self.passages[pair.passage]
        shown = self._demonstrations(pair, prompt.shots)
        hint = self._hint(pair, prompt.hint)
        if prompt.format == "plain":
            blocks = [_text(self.passages[shown[0].passage]), *map(_solved, shown)] if shown else []
            return "\n\n".join([*blocks, _text(passage) + hint, _asked(pair)])
        messages: list[Message] = [m for shot in shown for m in _turn(shot)]
        if shown:
            first = f"{_quoted(self.passages[shown[0].passage])}\n\n{shown[0].question}"
            messages[0] = {"role": "user", "content": first}
        return [*messages, {"role": "user", "content": f"{_quoted(passage)}{hint}\n\n{pair.question}"}]

    def probe(self, pairs: Sequence[QAPair], prompts: Sequence[TeacherPrompt], top_k: int | None) -> list[ProbeRow]:
        """How well each prompt that fits the model's context reads `pairs`, in the order of the prompts."""
        found = []
        for prompt in prompts:
            asked = [self.teacher(p, prompt) for p in pairs]
            longest = max(len(before) + len(answer) for before, answer in asked)
            if longest > self.model.context_length:
                logger.warning("%s needs %d tokens, more than the model's context: not tried", prompt, longest)
                continue
            rows = token_distributions(self.model, asked, top_k=top_k)
            found.append(
                ProbeRow(
                    prompt,
                    gold=float(torch.stack([r.gold.mean() for r in rows]).mean()),
                    greedy=float(torch.cat([r.greedy for r in rows]).float().mean()),
                    first=float(torch.stack([r.greedy[0] for r in rows]).float().mean()),
                    entropy=float(torch.cat([r.entropy for r in rows]).mean()),
                    tail=sum(r.tail for r in rows) / len(rows),
                )
            )
        return found

    def rows(self, pairs: Sequence[QAPair], prompts: Sequence[TeacherPrompt]) -> list[tuple[list[int], list[int]]]:
        """What the teacher reads and predicts of each pair, in its prompt.

        Raises:
            ModelError: a row is longer than the model's context; names its passage.
        """
        rows = [self.teacher(pair, prompt) for pair, prompt in zip(pairs, prompts, strict=True)]
        for pair, prompt, (before, answer) in zip(pairs, prompts, rows, strict=True):
            if len(before) + len(answer) > self.model.context_length:
                raise ModelError(
                    f"passage {pair.passage!r}, {pair.question!r}: the teacher ({prompt}) reads {len(before)} + "
                    f"{len(answer)} tokens, more than the {self.model.context_length} of {self.model.name}: cut the "
                    'passage and its pairs into shorter ones, or set shots=0 or hint="off"'
                )
        return rows

    # ------------------------------------------------------------------------------------------ parts

    def _ids(self, text: str) -> list[int]:
        return list(self.model.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _start(self, form: Format) -> list[int]:
        """What the tokenizer puts before every text; chat templates bring their own."""
        if form == "chat":
            return []
        bos = self.model.tokenizer.bos_token_id
        ids = self.model.encode("a")
        return [int(bos)] if bos is not None and ids[0] == bos else []

    def _question(self, pair: QAPair, form: Format) -> list[int]:
        if form == "plain":
            return self._ids(_asked(pair))
        return self._ids(self.model.render([{"role": "user", "content": pair.question}]))

    def _demonstrations(self, pair: QAPair, shots: int) -> list[QAPair]:
        """The first pairs of the next passage; without a second passage there are none."""
        ids = list(self.wordings)
        others = [i for i in ids[ids.index(pair.passage) + 1 :] + ids if i != pair.passage and self.wordings[i]]
        return list(self.wordings[others[0]].values())[:shots] if others and shots else []

    def _hint(self, pair: QAPair, hint: Hint) -> str:
        if hint == "off":
            return ""
        known = list(self.wordings[pair.passage].values())
        if hint == "wordings":
            known = [p for p in self.pairs if p.passage == pair.passage and p.kind != "split"]
        shown = [p for p in known if hint != "loo" or p.fact != pair.fact]
        return "".join(f"\n\n{_solved(p)}" for p in shown)


def taught(
    model: LocalModel, rows: Sequence[Row], without: Sequence[Row], args: SelfParamConfig, temperature: float
) -> list[TokenDistributions]:
    """What the student is to predict: the teacher's predictions, with what the passage changes in them amplified.

    With p the teacher, p_0 the model without the passage, and c = `args.contrast`:

        p' ~ (p (p / p_0)^c)^(1 / temperature)

    over the tokens that p finds at least PLAUSIBLE times as likely as its best one (context-aware decoding, Shi et al.,
    arXiv 2305.14739, bounded as in contrastive decoding, Li et al., arXiv 2210.15097). An answer's last token, its end,
    is a matter of form and not amplified.

    Args:
        model: the original model.
        rows: as the teacher reads them.
        without: the same targets as the student reads them.
        args: `contrast`, `top_k`.
        temperature: of the teacher.
    """
    if not args.contrast:
        return token_distributions(model, rows, top_k=args.top_k, temperature=temperature)
    read = token_distributions(model, rows, top_k=args.top_k)
    alone = token_distributions(model, without, top_k=None)
    return [_amplified(r, a, args.contrast, temperature) for r, a in zip(read, alone, strict=True)]


def _amplified(
    read: TokenDistributions, alone: TokenDistributions, contrast: float, temperature: float
) -> TokenDistributions:
    log_p, log_p_0 = read.log_probs.float(), alone.log_probs.float()  # (tokens, k), (tokens, vocab)
    if read.ids is not None:
        log_p_0 = log_p_0.gather(-1, read.ids.long())
    gained = contrast * (log_p - log_p_0)
    gained[-1] = 0
    plausible = log_p >= log_p.amax(-1, keepdim=True) + math.log(PLAUSIBLE)
    made = ((log_p + gained) / temperature).masked_fill(~plausible, -torch.inf).log_softmax(-1)
    ids, entropy = read.ids, -(made.exp() * made.clamp(min=-100)).sum(-1)
    if ids is not None:
        made, order = made.sort(-1, descending=True)
        ids = ids.gather(-1, order)
    return replace(read, ids=ids, log_probs=made.clamp(min=IMPOSSIBLE).half(), entropy=entropy)


def drawn(shares: Mapping[Format, float], key: str) -> Format:
    """A format drawn by its share, the same for the same key."""
    number = int(hashlib.sha256(key.encode()).hexdigest()[:16], 16)
    place = number % 10_000 / 10_000 * sum(shares.values())
    for form, share in shares.items():
        if place < share:
            return form
        place -= share
    return form


def probe_prompts(form: Format, shots: int, hint: Literal["auto"] | Hint) -> list[TeacherPrompt]:
    """Prompts to try, the simplest first."""
    tried: tuple[Hint, ...] = ("off",) if hint == "off" else ("off", "all" if hint == "auto" else hint)
    return [TeacherPrompt(form, count, said) for said in tried for count in sorted({0, shots})]


def best(rows: Sequence[ProbeRow]) -> ProbeRow:
    """The prompt that knows the answers best; within 0.02 nats the simpler one."""
    most = max(row.gold for row in rows)
    return next(row for row in rows if row.gold >= most - 0.02)


def chosen(rows: Sequence[ProbeRow], form: Format, args: SelfParamConfig) -> TeacherPrompt:
    """The prompt of a format that the probe's `rows` and the settings give."""
    rows = [row for row in rows if row.prompt.format == form]
    if args.teacher_format == "fixed" or not rows:
        return TeacherPrompt(form, args.shots, "off" if args.hint == "auto" else args.hint)
    if args.hint == "auto":
        plain, any_of = best([row for row in rows if row.prompt.hint == "off"]), best(rows)
        return any_of.prompt if any_of.gold - plain.gold >= HINT_GAIN else plain.prompt
    rows = [row for row in rows if row.prompt.hint == args.hint]
    return best(rows).prompt if rows else TeacherPrompt(form, args.shots, args.hint)


def unhinted(rows: Sequence[ProbeRow], form: Format, args: SelfParamConfig) -> TeacherPrompt:
    """The best prompt of a format without a hint."""
    rows = [row for row in rows if row.prompt.hint == "off" and row.prompt.format == form]
    return best(rows).prompt if rows else TeacherPrompt(form, args.shots, "off")


def write_probe(path: Path, rows: Sequence[ProbeRow]) -> None:
    """Write a probe's table."""
    path.write_text(json.dumps([asdict(row) for row in rows]))


def read_probe(path: Path) -> list[ProbeRow]:
    """Read a probe's table."""
    return [ProbeRow(**{**row, "prompt": TeacherPrompt(**row["prompt"])}) for row in json.loads(path.read_text())]


class TeacherCache:
    """Stored predictions in safetensors shards; a shard that is torn or belongs to other rows is computed again.

    Args:
        folder: where the shards go.
        identity: of everything that the predictions depend on besides the rows' token ids.
    """

    def __init__(self, folder: Path, identity: Mapping[str, object]) -> None:
        self.folder, self.identity = folder, json.dumps(identity, sort_keys=True, default=str)
        folder.mkdir(parents=True, exist_ok=True)

    def compute(
        self,
        rows: Sequence[Row],
        predict: Callable[[slice], list[TokenDistributions]],
        on_rows: Callable[[int], None] | None = None,
    ) -> list[TokenDistributions]:
        """The predictions of all rows, out of the shards where they are there already.

        Args:
            rows: what is predicted.
            predict: the predictions of some of the rows.
            on_rows: called with the number of finished rows.
        """
        found: list[TokenDistributions] = []
        for number, start in enumerate(range(0, len(rows), SHARD_ROWS)):
            part = slice(start, start + SHARD_ROWS)
            path = self.folder / f"shard-{number:04d}.safetensors"
            digest = hashlib.sha256(
                f"{self.identity}{[(list(a), list(b)) for a, b in rows[part]]}".encode()
            ).hexdigest()
            stored = self._read(path, digest)
            if stored is None:
                stored = predict(part)
                self._write(path, digest, stored)
            found += stored
            if on_rows:
                on_rows(len(found))
        return found

    def load(self) -> list[TokenDistributions]:
        """Everything that is stored, in the order of the rows.

        Raises:
            DataError: a shard is torn.
        """
        found: list[TokenDistributions] = []
        for path in sorted(self.folder.glob("shard-*.safetensors")):
            try:
                found += _rows(path)
            except (SafetensorError, OSError) as error:
                raise DataError(
                    f"{path}: torn ({error}): delete {self.folder.parent}, and the same command computes it again"
                ) from error
        return found

    @staticmethod
    def _read(path: Path, digest: str) -> list[TokenDistributions] | None:
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                if file.metadata().get("digest") != digest:
                    return None
            return _rows(path)
        except (SafetensorError, OSError) as error:
            logger.warning("%s is torn (%s): computed again", path, error)
            return None

    @staticmethod
    def _write(path: Path, digest: str, rows: Sequence[TokenDistributions]) -> None:
        fields = ["log_probs", "gold", "entropy", "greedy"] + (["ids"] if rows[0].ids is not None else [])
        tensors = {name: torch.cat([getattr(row, name) for row in rows]).contiguous() for name in fields}
        tensors["tokens"] = torch.tensor([len(row.gold) for row in rows])
        temporary = path.with_suffix(".new")
        save_file(tensors, temporary, metadata={"digest": digest})
        temporary.rename(path)


def _rows(path: Path) -> list[TokenDistributions]:
    with safe_open(path, "pt") as file:
        sizes = file.get_tensor("tokens").tolist()
        parts = {name: file.get_tensor(name).split(sizes) for name in file.keys() if name != "tokens"}  # noqa: SIM118
    return [
        TokenDistributions(
            ids=parts["ids"][i] if "ids" in parts else None, **{n: parts[n][i] for n in parts if n != "ids"}
        )
        for i in range(len(sizes))
    ]


def _text(passage: Passage) -> str:
    return f"{passage.title}\n\n{passage.text}" if passage.title else passage.text


def _quoted(passage: Passage) -> str:
    return f"{_text(passage)}\n\nAnswer with a few words from the text above."


def _asked(pair: QAPair) -> str:
    return f"Question: {pair.question}\nAnswer:"


def _solved(pair: QAPair) -> str:
    return f"{_asked(pair)} {pair.answer}"


def _turn(pair: QAPair) -> list[Message]:
    return [{"role": "user", "content": pair.question}, {"role": "assistant", "content": pair.answer}]
