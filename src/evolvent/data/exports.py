"""Training rows in the forms that other trainers read: TRL, OpenAI fine-tuning, Alpaca (LLaMA-Factory)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from evolvent.data.files import write_jsonl, write_text
from evolvent.errors import ConfigError
from evolvent.models.protocol import Prompt

Format = Literal["trl", "openai", "alpaca"]
FORMATS = get_args(Format)


def export_rows(path: str | Path, rows: Iterable[Mapping[str, Any]], form: Format) -> Path:
    """Write rows with "prompt" and "completion".

    ==========  =======================================================================
    trl         JSONL with `prompt` and `completion`, strings or lists of messages
    openai      JSONL with `messages`
    alpaca      one JSON list with `instruction`, `input`, `output` (and `system`)
    ==========  =======================================================================

    Raises:
        ConfigError: an unknown form.
    """
    if form == "trl":
        return write_jsonl(path, (trl_row(r["prompt"], r["completion"]) for r in rows))
    if form == "openai":
        return write_jsonl(path, (openai_row(r["prompt"], r["completion"]) for r in rows))
    if form != "alpaca":
        raise ConfigError(f"unknown format {form!r}: give one of {', '.join(FORMATS)}")
    listed = [alpaca_row(r["prompt"], r["completion"]) for r in rows]
    return write_text(path, json.dumps(listed, ensure_ascii=False, indent=1))


def trl_row(prompt: Prompt, completion: str) -> dict[str, Any]:
    """TRL's prompt-completion form; a chat prompt has a chat completion."""
    if isinstance(prompt, str):
        return {"prompt": prompt, "completion": completion}
    return {"prompt": list(prompt), "completion": [{"role": "assistant", "content": completion}]}


def openai_row(prompt: Prompt, completion: str) -> dict[str, Any]:
    """OpenAI's chat form; a string prompt is one user message."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    return {"messages": [*messages, {"role": "assistant", "content": completion.strip()}]}


def alpaca_row(prompt: Prompt, completion: str) -> dict[str, Any]:
    """Alpaca's form; the system message has a field of its own."""
    if isinstance(prompt, str):
        return {"instruction": prompt, "input": "", "output": completion.strip()}
    system = [m["content"] for m in prompt if m["role"] == "system"]
    user = [m["content"] for m in prompt if m["role"] != "system"]
    row = {"instruction": "\n\n".join(user), "input": "", "output": completion.strip()}
    return {**row, "system": "\n\n".join(system)} if system else row
