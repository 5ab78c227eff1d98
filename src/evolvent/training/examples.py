"""What is learnt from: prompts with completions, in token ids, in a fixed order, in left-padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from evolvent.models.local import LocalModel
from evolvent.models.protocol import Prompt
from evolvent.training.distillation import SoftTargets

IGNORED = -100


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A completion to learn after a prompt.

    Attributes:
        prompt: a string, or chat messages that go through the model's template.
        completion: the text to predict; only its tokens carry loss.
        weight: factor on the loss of this row.
        name: how errors call the row.
    """

    prompt: Prompt
    completion: str
    weight: float = 1.0
    name: str = ""


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """Token ids of a row; the last `answer_tokens` of them carry loss.

    With `targets`, a teacher's predictions of those tokens, the row is distilled. All rows of a run have them or none.
    """

    tokens: tuple[int, ...]
    answer_tokens: int
    weight: float = 1.0
    name: str = ""
    targets: SoftTargets | None = None


def encode_examples(
    model: LocalModel, examples: Sequence[TrainingExample], *, max_length: int, end_token: bool
) -> list[EncodedExample]:
    """Tokenise; a prompt that is too long loses its middle, the completion stays whole."""
    encoded = []
    for number, example in enumerate(examples):
        context, answer = model.encode_pair(example.prompt, example.completion)
        if end_token:
            answer = [*answer, int(model.tokenizer.eos_token_id)]
        answer = answer[:max_length]
        room = max_length - len(answer)
        if len(context) > room:
            head = room // 2
            context = context[:head] + context[len(context) - (room - head) :]
        name = example.name or f"row {number}"
        encoded.append(EncodedExample((*context, *answer), len(answer), example.weight, name))
    return encoded


def training_order(
    rows: int, *, batch_size: int, steps: int, seed: int, labeled: int = 0, labeled_share: float = 0.0
) -> list[int]:
    """Row numbers of every batch of a run, one after the other: steps x batch_size of them.

    Each kind of row is shuffled anew whenever it is used up. With `labeled_share`, at least that share of each batch
    comes from the first `labeled` rows; otherwise all rows are drawn alike.
    """
    random = np.random.default_rng(seed)

    def endless(pool: Sequence[int]) -> Any:
        while True:
            yield from random.permutation(pool).tolist()

    others = rows - labeled
    if labeled == 0 or others == 0 or labeled / rows >= labeled_share:
        draw = endless(range(rows))
        return [next(draw) for _ in range(steps * batch_size)]
    count = min(batch_size, int(np.ceil(labeled_share * batch_size)))
    from_labeled, from_others = endless(range(labeled)), endless(range(labeled, rows))
    order: list[int] = []
    for _ in range(steps):
        batch = [next(from_labeled) for _ in range(count)]
        batch += [next(from_others) for _ in range(batch_size - count)]
        order += batch
    return order


@dataclass(frozen=True, slots=True)
class LeftPadded:
    """Collator: rows end together, so that the scored positions are the last ones of every row.

    Batch: input_ids, attention_mask, position_ids, labels (rows, tokens), weights (rows,), and the rows' names; with
    soft targets also teacher_ids and teacher_log_probs (rows, most answer tokens, k), aligned like the labels' end.
    """

    pad_token: int

    def __call__(self, rows: Sequence[EncodedExample]) -> dict[str, Any]:
        """One batch."""
        width = max(len(row.tokens) for row in rows)
        shape = (len(rows), width)
        ids = torch.full(shape, self.pad_token)
        mask = torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, IGNORED)
        for r, row in enumerate(rows):
            tokens = torch.tensor(row.tokens)
            ids[r, width - len(tokens) :] = tokens
            mask[r, width - len(tokens) :] = 1
            labels[r, width - row.answer_tokens :] = tokens[len(tokens) - row.answer_tokens :]
        targets = [row.targets for row in rows if row.targets is not None]
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
            "labels": labels,
            "weights": torch.tensor([row.weight for row in rows]),
            "names": [row.name for row in rows],
            **(_padded_targets(targets) if targets else {}),
        }


def _padded_targets(targets: Sequence[SoftTargets]) -> dict[str, torch.Tensor]:
    longest = max(len(t.log_probs) for t in targets)
    shape = (len(targets), longest, targets[0].log_probs.shape[-1])
    log_probs = torch.zeros(shape)
    ids = None if targets[0].ids is None else torch.zeros(shape, dtype=torch.int32)
    for r, target in enumerate(targets):
        log_probs[r, longest - len(target.log_probs) :] = target.log_probs.float()
        if ids is not None and target.ids is not None:
            ids[r, longest - len(target.ids) :] = target.ids
    return {"teacher_log_probs": log_probs} | ({} if ids is None else {"teacher_ids": ids})
