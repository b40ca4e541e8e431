"""Sinusoidal position embeddings, added to the token embeddings at the bottom of the model.

Vaswani et al. (2017). By default in the form of fairseq, which the ALiBi paper's baseline uses: all
sines, then all cosines (not interleaved); frequencies fall from 1 to 1/10000 over d_model/2 - 1
steps; the first position is number 2. Other code has other tables, with frequencies
10000^(-2m/d_model) and the first position number 0: `paper` interleaves sines and cosines as the
paper's formula does (OpenNMT, SHAPE), `halves` does not (randomized positional encodings).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes
from alibi_lm.settings import setting

# fairseq counts positions from padding_idx + 1, and its padding index is 1.
FIRST_POSITION = 2
TABLES = ("fairseq", "paper", "halves")


def sinusoids(positions: Tensor, d_model: int, table: str = "fairseq") -> Tensor:
    """Embeddings of positions, float32. (T,) or (B, T) -> (..., T, D)."""
    half = d_model // 2
    step = math.log(10000) / (half - 1 if table == "fairseq" else half)
    steps = torch.arange(half, device=positions.device, dtype=torch.float32)
    frequencies = torch.exp(-step * steps)
    first = FIRST_POSITION if table == "fairseq" else 0
    angles = (positions + first)[..., None].float() * frequencies  # (..., T, D/2)
    if table == "paper":
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


@dataclass
class SinusoidalConfig(PositionConfig):
    """Settings of sinusoidal embeddings."""

    table: str = setting("fairseq", "order of sines and cosines, frequencies", choices=TABLES)

    def problems(self, sizes: Sizes) -> list[str]:
        """Sines and cosines share the width in equal halves of at least two."""
        problems = super().problems(sizes)
        if sizes.d_model < 4 or sizes.d_model % 2:
            problems.append(
                f"model.d_model: given {sizes.d_model}, but position=sinusoidal needs an even "
                "width of at least 4"
            )
        return problems


@SCHEMES.add("sinusoidal", SinusoidalConfig)
class Sinusoidal(Position):
    """Fixed embeddings of absolute positions."""

    title = "Sinusoidal"
    family = "embedding"
    rank = 0
    idea = "fixed embeddings added at the bottom"
    source = "Vaswani et al. 2017"
    claim = "may extrapolate to longer sequences (section 3.5)"

    def __init__(self, config: SinusoidalConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.table = config.table
        self.d_model = sizes.d_model

    @classmethod
    def takes_positions(cls, config: Any) -> bool:
        """Any."""
        return True

    def begin(self, positions: Tensor) -> Tensor:
        """The table of sines and cosines. (T, D) or (B, T, D)."""
        return sinusoids(positions, self.d_model, self.table)

    def embed(self, x: Tensor, begun: Any) -> Tensor:
        """Add it."""
        table: Tensor = begun
        return x + table.to(x.dtype)
