"""FIRE: a small network of the distance, divided by the query's place on a logarithmic scale.

Li et al., "Functional Interpolation for Relative Positions" (ICLR 2024, arXiv 2310.04418), after
the paper's listing: bias(i, j) = MLP(ln(1 + |c (i - j)|) / (ln(1 + |c max(i, |m L0|)|) + 1e-6)),
with learned c (0.1 at first) and m (1 at first), L0 = train_length, and an MLP of 32 hidden units
that gives all heads. Each layer has its own; `shared=true` is one for all (FIRE-S).
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alibi_lm.attention.bias import Bias, Block, Form, OnLogits
from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes
from alibi_lm.settings import setting

EPS = 1e-6


@dataclass
class FireConfig(PositionConfig):
    """Settings of FIRE."""

    hidden: int = setting(32, "hidden units of the network", at_least=1)
    shared: bool = setting(False, "one network for all layers")
    leak: float = setting(0.0, "slope of the activation below 0 (DAPE's code has 0.01)", at_least=0)


class FireBias(nn.Module):
    """The bias of one layer."""

    def __init__(self, config: FireConfig, n_heads: int, threshold: int) -> None:
        super().__init__()
        self.c = nn.Parameter(torch.tensor([0.1]))
        self.threshold_factor = nn.Parameter(torch.tensor([1.0]))
        self.inner = nn.Linear(1, config.hidden)
        self.outer = nn.Linear(config.hidden, n_heads)
        self.threshold = threshold
        self.leak = config.leak

    def forward(self, i: Tensor, distances: Tensor) -> Tensor:
        """Of query places (R, 1) and distances (R, C): (H, R, C)."""
        c = self.c
        floor = (self.threshold_factor * self.threshold).abs()
        scale = torch.log1p((c * torch.maximum(i.to(c.dtype), floor)).abs()) + EPS
        x = torch.log1p((c * distances).abs()) / scale
        by_head = self.outer(F.leaky_relu(self.inner(x[..., None]), self.leak))  # (R, C, H)
        bias: Tensor = by_head.movedim(-1, 0)
        return bias


@dataclass(frozen=True)
class AddBias(OnLogits):
    """The logits with the network's bias."""

    bias: FireBias

    def logits(self, logits: Tensor, block: Block) -> Tensor:
        """Add it. (B, H, R, C)."""
        bias: Tensor = self.bias(block.i, block.distances)
        return logits + bias


@SCHEMES.add("fire", FireConfig)
class Fire(Position):
    """Functional interpolation for relative positions."""

    form = Form.ON_LOGITS
    title = "FIRE"
    family = "on the logits"
    rank = 0
    idea = "a small network of the distance over the query's place, both on a log scale"
    source = "Li et al. 2024"
    claim = "generalises better to longer contexts; T5, ALiBi and KERPLE are special cases"
    needs_train_length = True

    def __init__(self, config: FireConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.layers = nn.ModuleList(
            FireBias(config, sizes.n_heads, sizes.train_length)
            for _ in range(1 if config.shared else sizes.n_layers)
        )

    def in_layer(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """The function of this layer's network."""
        bias: Any = self.layers[layer % len(self.layers)]
        return q, k, Bias(on_logits=AddBias(bias))
