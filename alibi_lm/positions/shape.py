"""SHAPE: shifted absolute positions.

Kiyono, Kobayashi, Suzuki, Inui (EMNLP 2021, arXiv 2109.05644), after butsugiri/shape: in training,
each sequence is shifted by an offset of its own, from 0 to max_shift - 1; in evaluation all are
shifted by max_shift, so that the last position of a text of train_length is one beyond those seen.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from alibi_lm.positions.base import SCHEMES, Draws, PositionConfig, Sizes
from alibi_lm.positions.based import BasedPosition
from alibi_lm.positions.drawn import DrawnConfig
from alibi_lm.positions.sinusoidal import SinusoidalConfig
from alibi_lm.settings import setting


@dataclass
class ShapeConfig(DrawnConfig):
    """Settings of shifted positions."""

    base: Any = setting(
        None, "the scheme that is shifted; null: {kind:sinusoidal,table:paper}, as its authors"
    )
    max_shift: int = setting(100, "largest shift; that of evaluation", at_least=1)

    def __post_init__(self) -> None:
        """The authors' own base is the default, however it is written."""
        super().__post_init__()
        if self.base == {"kind": "sinusoidal", "table": "paper"}:
            self.base = None

    def base_config(self) -> PositionConfig:
        """The settings of that scheme."""
        return SinusoidalConfig(table="paper") if self.base is None else super().base_config()

    def reach(self, sizes: Sizes) -> int:
        """A text that is shifted by the most."""
        return self.max_shift + sizes.train_length


@SCHEMES.add("shape", ShapeConfig)
class Shape(BasedPosition):
    """Shifted absolute positions."""

    config: ShapeConfig
    title = "SHAPE"
    family = "embedding"
    idea = "each training sequence shifted by a random offset"
    source = "Kiyono et al. 2021"
    claim = "interpolates and extrapolates like relative positions (machine translation)"

    @property
    def longest(self) -> int | None:
        """What the base can read behind the largest shift."""
        longest = super().longest
        return None if longest is None else longest - self.config.max_shift

    def positions(self, tokens: Tensor, draws: Draws | None) -> Tensor:
        """From an offset of each sequence's own, (B, T); in evaluation from max_shift, (T,)."""
        positions = super().positions(tokens, draws)
        if draws is None:
            return positions + self.config.max_shift
        return positions + (draws.sequences % self.config.max_shift)[:, None]
