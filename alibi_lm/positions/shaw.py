"""Shaw's relative positions: a learned vector for each distance, in keys and in values.

Shaw, Uszkoreit, Vaswani (NAACL 2018, arXiv 1803.02155), after tensor2tensor (common_attention.py):
q_i . (k_j + a_d) / sqrt(head_dim) for the distance d = i - j, at most `clip`; output_i is the sum
of weight_ij (v_j + b_d). Each layer has its tables, which its heads share; they hold the distances
that a causal model sees. `values=false` leaves b out, as most later work does.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alibi_lm.attention.bias import Bias, Block, Form, Needs, OnLogits
from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes
from alibi_lm.settings import setting


@dataclass
class ShawConfig(PositionConfig):
    """Settings of relative positions."""

    clip: int = setting(16, "distance from which all share the last vector", at_least=1)
    values: bool = setting(True, "vectors for values, too")


@dataclass(frozen=True)
class RelativeVectors(OnLogits):
    """The logits with those of the distances, the output with their values."""

    by_distance: Tensor  # (B, H, T, clip + 1), the logit of each query at each distance
    values: Tensor | None  # (clip + 1, K)

    def _near(self, distances: Tensor) -> Tensor:
        return distances.clamp(0, self.by_distance.shape[-1] - 1)

    def logits(self, logits: Tensor, block: Block) -> Tensor:
        """Add them. (B, H, R, C)."""
        by_distance = self.by_distance[:, :, block.queries].to(logits.dtype)
        near = self._near(block.distances)
        return logits + by_distance.gather(-1, near.expand(*logits.shape))

    def output(self, weights: Tensor, block: Block) -> Tensor | None:
        """The weight of each distance times its value. (B, H, R, K)."""
        if self.values is None:
            return None
        near = self._near(block.distances).expand(*weights.shape)
        shape = (*weights.shape[:-1], len(self.values))
        by_distance = weights.new_zeros(shape).scatter_add(-1, near, weights)
        return by_distance @ self.values.to(weights.dtype)

    @property
    def has_score_mod(self) -> bool:
        """FlexAttention has nothing for the values."""
        return self.values is None

    def score_mod(self, score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """The logits of one query and one key."""
        return score + self.by_distance[b, h, i, self._near(i - j)]


@SCHEMES.add("shaw", ShawConfig)
class Shaw(Position):
    """Self-attention with relative position representations."""

    form = Form.ON_LOGITS
    title = "Shaw"
    family = "on the logits"
    idea = "a learned vector for each distance up to 16, in keys and values"
    source = "Shaw et al. 2018"

    def __init__(self, config: ShawConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        shape = (sizes.n_layers, config.clip + 1, sizes.head_dim)
        self.keys = nn.Parameter(torch.empty(shape))
        self.values = nn.Parameter(torch.empty(shape)) if config.values else None
        # Glorot for the table of the source, which has the distances of the future besides.
        self.bound = math.sqrt(6 / (2 * config.clip + 1 + sizes.head_dim))

    @classmethod
    def needs(cls, config: Any, length: int) -> set[Needs]:
        """Without vectors for values, FlexAttention can compute it."""
        return {n._replace(score_mod=not config.values) for n in super().needs(config, length)}

    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As the framework of the authors' code draws an embedding."""
        parameter.uniform_(-self.bound, self.bound, generator=generator)

    def in_layer(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """The function of this layer's tables."""
        by_distance = q @ self.keys[layer].to(q.dtype).mT * q.shape[-1] ** -0.5
        values = None if self.values is None else self.values[layer]
        return q, k, Bias(on_logits=RelativeVectors(by_distance, values))
