"""ALiBi: a penalty on attention logits that grows linearly with distance.

Press, Smith, Lewis, "Train Short, Test Long" (ICLR 2022), section 3: the logit of query i and
key j is q_i . k_j / sqrt(head_dim) - slope * (i - j). The bias is added after the scaling
(footnote 10), in every layer, with the same fixed slopes.
"""

import math
from dataclasses import dataclass

import torch

from alibi_lm.attention.bias import Bias, Form
from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes


def alibi_slopes(n_heads: int) -> list[float]:
    """The slope of each head.

    For a power of two: the geometric sequence that starts at 2^(-8/n) with that same ratio
    (section 3). For other head counts the paper is silent and its released code decides: the
    slopes of the next lower power of two p, then every other slope of 2p.
    """
    p = 2 ** math.floor(math.log2(n_heads))
    slopes = [2 ** (-8 * (h + 1) / p) for h in range(p)]
    between = [2 ** (-8 * (h + 1) / (2 * p)) for h in range(0, 2 * p, 2)]
    return slopes + between[: n_heads - p]


@dataclass
class AlibiConfig(PositionConfig):
    """ALiBi has no settings: its slopes follow from the number of heads."""


@SCHEMES.add("alibi", AlibiConfig)
class Alibi(Position):
    """Attention with linear biases."""

    form = Form.BY_KEY
    title = "ALiBi"
    family = "by key"
    rank = 0
    idea = "a fixed penalty that grows linearly with distance"
    source = "Press et al. 2022"

    slopes: torch.Tensor

    def __init__(self, config: AlibiConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        # float32 whatever the model's dtype: a slope rounded to 16 bits is another slope.
        slopes = torch.tensor(alibi_slopes(sizes.n_heads), dtype=torch.float32)
        self.register_buffer("slopes", slopes, persistent=False)

    def bias(self, length: int) -> Bias:
        """-slope * (i - j), minus the part slope * i, which is constant along a row."""
        keys = torch.arange(length, device=self.slopes.device, dtype=torch.float32)
        return Bias(by_key=self.slopes[:, None] * keys)
