"""Learned position embeddings: a trained row for each position, added at the bottom.

Radford et al., GPT-2 (2019): x_i + W[i], W drawn from a normal distribution of standard deviation
0.02. There is no row beyond the table, so longer texts are refused, unless the table is
interpolated: stretched to the text's length. `interpolated=centres` reads it for position n of N at
(n + 1/2) rows / N - 1/2, held at both ends (the baseline of SeqPE, arXiv 2506.13277);
`interpolated=ends` at n (rows - 1) / (N - 1).
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

    interpolated: str = setting(
        "none",
        "longer texts: stretch the table; by the centres of rows or by its ends",
        choices=("none", "centres", "ends"),
    )

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
        """Any in the table."""
        return bool(config.interpolated == "none")

    @property
    def longest(self) -> int | None:
        """The rows of the table, unless it is stretched."""
        return len(self.table) if self.config.interpolated == "none" else None

    @property
    def prefix_consistent(self) -> bool:
        """A stretched table depends on the length of the text."""
        return bool(self.config.interpolated == "none")

    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As GPT-2."""
        parameter.normal_(0, 0.02, generator=generator)

    def begin(self, positions: Tensor) -> Tensor:
        """The rows of the positions. (T, D) or (B, T, D)."""
        length, rows = len(positions), len(self.table)
        if self.config.interpolated == "none" or length <= rows:
            return self.table[positions]
        places = positions.double()
        if self.config.interpolated == "ends":
            places = places * (rows - 1) / (length - 1)
        else:
            places = ((places + 0.5) * rows / length - 0.5).clamp(0, rows - 1)
        below = places.floor().long()
        above = (below + 1).clamp(max=rows - 1)
        share = (places - below)[:, None].to(self.table.dtype)
        return torch.lerp(self.table[below], self.table[above], share)

    def embed(self, x: Tensor, begun: Any) -> Tensor:
        """Add them."""
        rows: Tensor = begun
        return x + rows.to(x.dtype)
