"""The T5 bias: a learned scalar for each head and each bucket of distances.

Raffel et al. (2020), as the ALiBi paper used it (section 2.2): one table for all layers, added to
the scaled logits. With the defaults of T5 (32 buckets, distance 128, causal) the distances 0 to 15
have a bucket each, the next 16 buckets grow logarithmically up to distance 128, and all larger
distances share the last.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from alibi_lm.attention import Bias
from alibi_lm.positions.base import Position, PositionConfig
from alibi_lm.settings import setting

if TYPE_CHECKING:
    from alibi_lm.config import ModelConfig


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

    name: str = setting("t5", "the positional scheme", choices=("t5",))
    num_buckets: int = setting(32, "buckets of distances; half of them exact", at_least=2)
    max_distance: int = setting(128, "distance from which all share the last bucket", at_least=2)

    def problems(self, model: "ModelConfig") -> list[str]:
        """The logarithmic buckets need room above the exact ones."""
        if self.num_buckets % 2 or self.max_distance <= self.num_buckets // 2:
            return [
                f"position.num_buckets, position.max_distance: given {self.num_buckets} and "
                f"{self.max_distance}, but the buckets must be even in number and half of them "
                "fewer than the distance"
            ]
        return []


class T5Bias(Position):
    """A learned bias by distance, shared by the layers."""

    def __init__(self, config: PositionConfig, model: "ModelConfig") -> None:
        super().__init__(config, model)
        assert isinstance(config, T5Config)
        self.num_buckets = config.num_buckets
        self.max_distance = config.max_distance
        self.std = model.d_model**-0.5
        self.relative_attention_bias = nn.Embedding(config.num_buckets, model.n_heads)

    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """T5's own choice: as wide as the embeddings."""
        parameter.normal_(0, self.std, generator=generator)

    def bias(self, length: int) -> Bias:
        """The table looked up at distances 0 to length - 1."""
        table = self.relative_attention_bias.weight  # (num_buckets, H)
        distances = torch.arange(length, device=table.device)
        buckets = t5_buckets(distances, self.num_buckets, self.max_distance)
        return Bias(by_distance=table[buckets].T)
