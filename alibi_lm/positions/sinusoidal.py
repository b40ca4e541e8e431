"""Sinusoidal position embeddings, added to the token embeddings at the bottom of the model.

Vaswani et al. (2017), in the form of fairseq, which the ALiBi paper's baseline uses: all sines,
then all cosines (not interleaved); frequencies fall from 1 to 1/10000 over d_model/2 - 1 steps;
the first position is number 2.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alibi_lm.positions.base import Position, PositionConfig
from alibi_lm.settings import setting

if TYPE_CHECKING:
    from alibi_lm.config import ModelConfig

# fairseq counts positions from padding_idx + 1, and its padding index is 1.
FIRST_POSITION = 2


def sinusoidal_table(length: int, d_model: int, device: torch.device | None = None) -> Tensor:
    """Embeddings of the first `length` positions, float32. (T, D)."""
    half = d_model // 2
    step = math.log(10000) / (half - 1)
    frequencies = torch.exp(-step * torch.arange(half, device=device, dtype=torch.float32))
    positions = torch.arange(FIRST_POSITION, FIRST_POSITION + length, device=device)
    angles = positions[:, None].float() * frequencies  # (T, D/2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


@dataclass
class SinusoidalConfig(PositionConfig):
    """Sinusoidal embeddings have nothing to set."""

    name: str = setting("sinusoidal", "the positional scheme", choices=("sinusoidal",))

    def problems(self, model: "ModelConfig") -> list[str]:
        """Sines and cosines share the width in equal halves of at least two."""
        if model.d_model < 4 or model.d_model % 2:
            return [
                f"model.d_model: given {model.d_model}, but position=sinusoidal needs an even "
                "width of at least 4"
            ]
        return []


class Sinusoidal(Position):
    """Fixed embeddings of absolute positions."""

    def embed(self, x: Tensor) -> Tensor:
        """Add the table of sines and cosines. x: (B, T, D)."""
        return x + sinusoidal_table(x.shape[1], x.shape[2], x.device).to(x.dtype)
