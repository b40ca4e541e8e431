"""The T5 bias: a learned scalar for each head and each bucket of distances.

Raffel et al. (2020), as the ALiBi paper used it (section 2.2): one table for all layers, added to
the scaled logits. With the defaults of T5 (32 buckets, distance 128, causal) the distances 0 to 15
have a bucket each, the next 16 buckets grow logarithmically up to distance 128, and all larger
distances share the last.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alibi_lm.attention.bias import Bias, Form
from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes
from alibi_lm.settings import setting


def t5_buckets(distances: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """The bucket of each distance i - j >= 0, in the causal form of T5."""
    exact = num_buckets // 2
    # float32, as in T5's own code: where a bucket begins can hang on the rounding.
    ratio = torch.log(distances.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    logarithmic = exact + (ratio * (num_buckets - exact)).long()
    return torch.where(distances < exact, distances, logarithmic.clamp(max=num_buckets - 1))


@dataclass
class T5Config(PositionConfig):
    """Settings of the T5 bias."""

    num_buckets: int = setting(32, "buckets of distances; half of them exact", at_least=2)
    max_distance: int = setting(128, "distance from which all share the last bucket", at_least=2)

    def problems(self, sizes: Sizes) -> list[str]:
        """The logarithmic buckets need room above the exact ones."""
        problems = super().problems(sizes)
        if self.num_buckets % 2 or self.max_distance <= self.num_buckets // 2:
            problems.append(
                f"position.num_buckets, position.max_distance: given {self.num_buckets} and "
                f"{self.max_distance}, but the buckets must be even in number and half of them "
                "fewer than the distance"
            )
        return problems


@SCHEMES.add("t5", T5Config)
class T5Bias(Position):
    """A learned bias by distance, shared by the layers."""

    form = Form.BY_DISTANCE
    title = "T5 bias"
    family = "by distance"
    rank = 0
    idea = "a learned bias by distance: 32 buckets up to 128, one table for all layers"
    source = "Raffel et al. 2020"
    claim = "none; extrapolates better than rotary (Press et al. 2022)"

    def __init__(self, config: T5Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.num_buckets = config.num_buckets
        self.max_distance = config.max_distance
        self.std = sizes.d_model**-0.5
        self.relative_attention_bias = nn.Embedding(config.num_buckets, sizes.n_heads)

    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """T5's own choice: the standard deviation of the embeddings."""
        parameter.normal_(0, self.std, generator=generator)

    def begin(self, positions: Tensor) -> Bias:
        """The table looked up at distances 0 to length - 1."""
        table = self.relative_attention_bias.weight  # (num_buckets, H)
        buckets = t5_buckets(positions, self.num_buckets, self.max_distance)
        return Bias(by_distance=table[buckets].T)
