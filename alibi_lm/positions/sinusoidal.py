"""Sinusoidal position embeddings, added to the token embeddings at the bottom of the model.

Vaswani et al. (2017), in the form of fairseq, which the ALiBi paper's baseline uses: all sines,
then all cosines (not interleaved); frequencies fall from 1 to 1/10000 over d_model/2 - 1 steps;
the first position is number 2.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes

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
    """Sinusoidal embeddings have no settings."""

    def problems(self, sizes: Sizes) -> list[str]:
        """Sines and cosines share the width in equal halves of at least two."""
        if sizes.d_model < 4 or sizes.d_model % 2:
            return [
                f"model.d_model: given {sizes.d_model}, but position=sinusoidal needs an even "
                "width of at least 4"
            ]
        return []


@SCHEMES.add("sinusoidal", SinusoidalConfig)
class Sinusoidal(Position):
    """Fixed embeddings of absolute positions."""

    title = "Sinusoidal"
    family = "embedding"
    rank = 0
    idea = "fixed embeddings added at the bottom"
    source = "Vaswani et al. 2017"

    def embed(self, x: Tensor) -> Tensor:
        """Add the table of sines and cosines. x: (B, T, D)."""
        return x + sinusoidal_table(x.shape[1], x.shape[2], x.device).to(x.dtype)
