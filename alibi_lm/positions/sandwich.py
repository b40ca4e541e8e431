"""Sandwich: the inner products of sinusoidal embeddings, as a bias by distance.

Chi, Fan, Rudnicky, Ramadge (ACL 2023, arXiv 2212.10356), after the listing of the paper's appendix
E: the sum of cos(d / 10000^(2k / width)) over k < width / 2, for the distance d, divided in head h,
counted from 0, by 8 (h + 1) / n_heads. The width is a setting of its own, not the model's. Other
code counts k from 1 and takes the width of a head, which is another scheme.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from alibi_lm.attention import Bias, Form
from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes
from alibi_lm.settings import setting


@dataclass
class SandwichConfig(PositionConfig):
    """Settings of Sandwich."""

    width: int = setting(128, "width of the sinusoidal embeddings, even", at_least=2)

    def problems(self, sizes: Sizes) -> list[str]:
        """Half of the width are frequencies."""
        problems = super().problems(sizes)
        if self.width % 2:
            problems.append(f"position.width: given {self.width}, but it must be even")
        return problems


@SCHEMES.add("sandwich", SandwichConfig)
class Sandwich(Position):
    """A fixed bias by distance."""

    config: SandwichConfig
    form = Form.BY_DISTANCE
    title = "Sandwich"
    family = "by distance"
    idea = "a fixed bias by distance: the inner products of sinusoidal embeddings"
    source = "Chi et al. 2023"
    claim = "gains from text beyond the training length, near KERPLE's logarithm and T5"

    def __init__(self, config: SandwichConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.n_heads = sizes.n_heads

    def begin(self, positions: Tensor) -> Bias:
        """The curve of each head at distances 0 to length - 1."""
        exponents = torch.arange(0, self.config.width, 2, device=positions.device)
        frequencies = 10000.0 ** (-exponents.double() / self.config.width)
        curve = (positions[:, None] * frequencies).cos().sum(-1)  # (T,)
        heads = torch.arange(1, self.n_heads + 1, device=positions.device)
        return Bias(by_distance=(curve * self.n_heads / (8 * heads[:, None])))
