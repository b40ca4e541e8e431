"""Additive GRAPE: ALiBi whose slope is gated by the key, the query, or both.

Zhang et al., "Group Representational Position Encoding" (ICLR 2026, arXiv 2512.07805), after
model-architectures/GRAPE: the bias is -d slope_h softplus(omega_h) g for the distance d, with g the
sum of softplus(k_j . u_h / sqrt(K)) and softplus(q_i . v_h / sqrt(K)), or one of them. Directions u
and v have length 1; softplus(omega) is 1 at first. Their code normalises queries and keys before
all this, which is a part of their model and not of the scheme.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alibi_lm.attention.bias import Bias, Block, Form, Needs, OnLogits
from alibi_lm.positions.alibi import alibi_slopes
from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes
from alibi_lm.settings import setting

GATES = ("key", "query", "both")


@dataclass
class GrapeConfig(PositionConfig):
    """Settings of additive GRAPE."""

    gate: str = setting("key", "what gates the slope", choices=GATES)


@dataclass(frozen=True)
class GatedSlopes(OnLogits):
    """The logits less the distance times the gates of key and query."""

    of_keys: Tensor | None  # (B, H, T)
    of_queries: Tensor | None

    def logits(self, logits: Tensor, block: Block) -> Tensor:
        """Subtract it. (B, H, R, C)."""
        slopes = torch.zeros((), dtype=logits.dtype, device=logits.device)
        if self.of_keys is not None:
            slopes = slopes + self.of_keys[..., None, block.j]
        if self.of_queries is not None:
            slopes = slopes + self.of_queries[..., block.queries, None]
        return logits - block.distances * slopes.to(logits.dtype)

    @property
    def has_score_mod(self) -> bool:
        """FlexAttention can compute it."""
        return True

    def score_mod(self, score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """The logits of one query and one key."""
        if self.of_keys is not None:
            score = score - (i - j).clamp(min=0) * self.of_keys[b, h, j]
        if self.of_queries is not None:
            score = score - (i - j).clamp(min=0) * self.of_queries[b, h, i]
        return score


@SCHEMES.add("grape", GrapeConfig)
class Grape(Position):
    """Gated linear biases."""

    form = Form.ON_LOGITS
    title = "GRAPE-A"
    family = "on the logits"
    idea = "ALiBi with slopes gated by the key, the query, or both"
    source = "Zhang et al. 2026"
    claim = "lower loss than rotary, ALiBi and FoX at 4,096; longer texts are argued for"

    slopes: Tensor

    def __init__(self, config: GrapeConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.register_buffer("slopes", torch.tensor(alibi_slopes(sizes.n_heads)), persistent=False)
        by_head = sizes.n_layers, sizes.n_heads
        self.omega = nn.Parameter(torch.empty(by_head))
        gated = {"key": ("u",), "query": ("v",), "both": ("u", "v")}[config.gate]
        for name in gated:
            setattr(self, name, nn.Parameter(torch.empty(*by_head, sizes.head_dim)))

    @classmethod
    def needs(cls, config: Any, length: int) -> set[Needs]:
        """FlexAttention can compute it."""
        return {needs._replace(score_mod=True) for needs in super().needs(config, length)}

    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As the authors' code."""
        if name == "omega":
            parameter.fill_(math.log(math.e - 1))
        else:
            parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)

    def in_layer(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """The function of this layer's gates."""
        slopes = (self.slopes * F.softplus(self.omega[layer]))[:, None]

        def gates(of: Tensor, name: str) -> Tensor | None:
            if not hasattr(self, name):
                return None
            direction = F.normalize(getattr(self, name)[layer], dim=-1, eps=1e-6)
            along = (of @ direction.to(of.dtype)[..., None]).squeeze(-1)
            return slopes * F.softplus(along * of.shape[-1] ** -0.5)

        return q, k, Bias(on_logits=GatedSlopes(gates(k, "u"), gates(q, "v")))


SCHEMES.name("grape_query", "GRAPE-A, query", GrapeConfig(gate="query"))
SCHEMES.name("grape_both", "GRAPE-A, both", GrapeConfig(gate="both"))
