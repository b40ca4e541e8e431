"""Transformer-XL's relative positions: content and distance each with a bias of the query's.

Dai et al. (ACL 2019, arXiv 1901.02860), after kimiyoung/transformer-xl: the logit is
[(q_i + u) . k_j + (q_i + v) . W s_d] / sqrt(head_dim), s_d the sinusoidal embedding of the distance
d, W a matrix for each layer, u and v vectors for each head that all layers share. Its memory of
earlier windows is another thing. `clamp`: larger distances count as it, as its evaluation has it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alibi_lm.attention.bias import Bias, Block, Form, OnLogits
from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes
from alibi_lm.positions.projections import projections
from alibi_lm.positions.sinusoidal import sinusoids
from alibi_lm.settings import setting


@dataclass
class TransformerXlConfig(PositionConfig):
    """Settings of Transformer-XL's positions."""

    clamp: int | None = setting(None, "largest distance that differs; null: none", at_least=1)

    def problems(self, sizes: Sizes) -> list[str]:
        """Sines and cosines share the width."""
        problems = super().problems(sizes)
        if sizes.d_model % 2:
            problems.append(f"model.d_model: given {sizes.d_model}, but it must be even")
        return problems


@dataclass(frozen=True)
class OfDistances(OnLogits):
    """The logits with those of queries and distances."""

    q: Tensor  # (B, H, T, K), with v
    distances: Tensor  # (H, T, K), W s_d

    def logits(self, logits: Tensor, block: Block) -> Tensor:
        """Add them. (B, H, R, C)."""
        q, far = self.q[:, :, block.queries].to(logits.dtype), self.distances.to(logits.dtype)
        by_distance = (q * q.shape[-1] ** -0.5) @ far[:, : block.queries.stop].mT
        of_keys: Tensor = by_distance.gather(-1, block.distances.expand(*logits.shape))
        return logits + of_keys


@SCHEMES.add("transformer_xl", TransformerXlConfig)
class TransformerXl(Position):
    """Relative positions by sinusoids of distances."""

    form = Form.ON_LOGITS
    title = "Transformer-XL"
    family = "on the logits"
    idea = "sinusoids of distances compared with queries, with biases for content and position"
    source = "Dai et al. 2019"
    claim = "with memory, evaluated at several times the training length"

    def __init__(self, config: TransformerXlConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.d_model, by_head = sizes.d_model, (sizes.n_heads, sizes.head_dim)
        self.maps = projections(sizes, sizes.d_model, bias=False)
        self.u = nn.Parameter(torch.empty(by_head))
        self.v = nn.Parameter(torch.empty(by_head))

    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As the authors' code."""
        parameter.normal_(0, 0.02, generator=generator)

    def begin(self, positions: Tensor) -> Tensor:
        """The embeddings of distances 0 to length - 1. (T, D)."""
        if self.config.clamp is not None:
            positions = positions.clamp(max=self.config.clamp)
        return sinusoids(positions, self.d_model, "halves")

    def in_layer(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """Queries with u, and the function of queries with v."""
        weight = self.maps[layer].weight
        with torch.autocast(q.device.type, enabled=False):  # 16 bits would round distances
            by_head = (begun.to(weight.dtype) @ weight.mT).unflatten(-1, (q.shape[1], -1))
        function = OfDistances(q + self.v[:, None], by_head.transpose(0, 1))
        return q + self.u[:, None], k, Bias(on_logits=function)
