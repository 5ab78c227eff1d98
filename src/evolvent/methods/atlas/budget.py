"""What fits into a machine: bytes for each parameter by what one wants to do with the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from evolvent.errors import ConfigError

Use = Literal["inference", "4bit", "lora", "qlora", "full"]
BYTES_PER_PARAMETER: dict[str, float] = {
    "inference": 2.0,  # bf16 weights
    "4bit": 0.55,
    "lora": 2.1,  # on bf16 weights
    "qlora": 0.65,
    "full": 16.0,  # AdamW in mixed precision: weights, gradients, fp32 master copy, two moments
}
ACTIVATIONS = 1.2  # on top of weights and optimiser


@dataclass(frozen=True)
class Budget:
    """Memory of the machine and what it is for.

    Args:
        vram_gb: memory in GB (10^9 bytes), of all accelerators together.
        method: "inference" (bf16), "4bit" (inference), "lora", "qlora" or "full" (fine-tuning).

    Raises:
        ConfigError: no memory, or an unknown method.

    Example:
        >>> Budget(vram_gb=24, method="qlora").fits(13_000_000_000)
        True
    """

    vram_gb: float
    method: Use = "inference"

    def __post_init__(self) -> None:
        if self.method not in get_args(Use):
            raise ConfigError(f"budget method {self.method!r}: give one of {', '.join(get_args(Use))}")
        if not self.vram_gb > 0:
            raise ConfigError(f"budget vram_gb {self.vram_gb}: give GB of memory, more than 0")

    def needed_gb(self, n_params: int) -> float:
        """GB that a model of that many parameters needs; experts that are not active count too."""
        return n_params * BYTES_PER_PARAMETER[self.method] * ACTIVATIONS / 1e9

    def fits(self, n_params: int) -> bool:
        """Whether it fits."""
        return self.needed_gb(n_params) <= self.vram_gb
