"""Learned position embeddings: a trained row for each position, added at the bottom.

Radford et al., GPT-2 (2019): x_i + W[i], W drawn from a normal distribution of standard deviation
0.02. There is no row beyond the table, so longer texts are refused.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes
from alibi_lm.settings import setting


@dataclass
class LearnedConfig(PositionConfig):
    """Settings of learned embeddings."""

    rows: int | None = setting(None, "positions in the table; null: train_length", at_least=1)

    def problems(self, sizes: Sizes) -> list[str]:
        """Training needs a row for each of its positions."""
        problems = super().problems(sizes)
        if self.rows is not None and self.rows < sizes.train_length:
            problems.append(
                f"position.rows: given {self.rows}, but it must be at least train_length = "
                f"{sizes.train_length}"
            )
        return problems


@SCHEMES.add("learned", LearnedConfig)
class Learned(Position):
    """A table of position embeddings."""

    title = "Learned"
    family = "embedding"
    idea = "a trained embedding for each position; longer texts are refused"
    source = "Radford et al. 2019"
    needs_train_length = True

    def __init__(self, config: LearnedConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.table = nn.Parameter(torch.empty(config.rows or sizes.train_length, sizes.d_model))

    @classmethod
    def takes_positions(cls, config: Any) -> bool:
        """Any."""
        return True

    @property
    def longest(self) -> int:
        """The rows of the table."""
        return len(self.table)

    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As GPT-2."""
        parameter.normal_(0, 0.02, generator=generator)

    def begin(self, positions: Tensor) -> Tensor:
        """The rows of the positions. (T, D) or (B, T, D)."""
        return self.table[positions]

    def embed(self, x: Tensor, begun: Any) -> Tensor:
        """Add them."""
        rows: Tensor = begun
        return x + rows.to(x.dtype)
