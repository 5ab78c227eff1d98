"""Unit vectors of texts, for retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evolvent.errors import ModelError
from evolvent.models.batching import token_budget_batches
from evolvent.models.embedded import minilm_folder
from evolvent.models.quiet import quiet
from evolvent.models.resolve import expand


class TextEmbedder:
    """Mean-pooled token states of a BERT-like encoder, scaled to length 1.

    Args:
        folder: a Hugging Face encoder, or a reference such as atlas:scincl; default the embedded all-MiniLM-L6-v2
            (384 dimensions, 256 tokens), pooled as its sentence-transformers configuration says.
        max_tokens: longer texts are cut.

    Raises:
        ModelError: the folder holds no encoder.
    """

    @quiet()
    def __init__(self, folder: str | Path | None = None, *, max_tokens: int = 256) -> None:
        from transformers import AutoModel, AutoTokenizer

        source = expand(folder) if folder else str(minilm_folder())
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(source)
            self.module: Any = AutoModel.from_pretrained(source, dtype=torch.float32).eval()
        except (OSError, ValueError) as error:
            raise ModelError(f"{source}: cannot be loaded as an encoder: {str(error).splitlines()[0]}") from error
        self.max_tokens = max_tokens

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Unit vectors (texts, dimensions), in input order."""
        ids = [self.tokenizer(t, truncation=True, max_length=self.max_tokens)["input_ids"] for t in texts]
        vectors = torch.zeros(len(texts), int(self.module.config.hidden_size))
        for batch in token_budget_batches([len(i) for i in ids], 8192):
            inputs = self.tokenizer.pad({"input_ids": [ids[b] for b in batch]}, return_tensors="pt")
            states = self.module(**inputs).last_hidden_state  # (texts, tokens, dimensions)
            mask = inputs["attention_mask"][..., None]
            pooled = (states * mask).sum(1) / mask.sum(1)
            vectors[batch] = torch.nn.functional.normalize(pooled, dim=-1)
        return np.asarray(vectors.numpy())
