"""CoPE: positions counted by gates, so that a head can count words or sentences.

Golovneva, Wang, Weston, Sukhbaatar, "Contextual Position Encoding" (2024, arXiv 2405.18719), after
facebookresearch/RAM (projects/cope): the position of key j for query i is the sum of sigmoid(q_i .
k_l / sqrt(head_dim)) over j <= l <= i, at most npos - 1; the logit gets q_i . e at that position,
between two whole ones interpolated, e a table for each layer that the heads share, 0 at first.
Keys of the future have gate 0; otherwise positions would tell what they hold.

`nodiv`: e is added after the division by sqrt(head_dim), as in the paper's listing, instead of
before. `separate_keys`: the gates have keys of their own.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alibi_lm.attention.bias import Bias, Block, Form, OnLogits
from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes, split_heads
from alibi_lm.settings import setting


@dataclass
class CopeConfig(PositionConfig):
    """Settings of CoPE."""

    npos: int = setting(64, "positions that a head can count up to", at_least=2)
    nodiv: bool = setting(False, "add the position's logit without dividing it")
    separate_keys: bool = setting(False, "gates with a projection of their own")


@dataclass(frozen=True)
class CountedPositions(OnLogits):
    """The logits with those of the positions that the gates count."""

    by_position: Tensor  # (B, H, T, npos), the logit of each query at each position
    q: Tensor  # (B, H, T, K)
    gate_keys: Tensor | None  # (B, H, T, K); None: the gates are those of the logits

    def logits(self, logits: Tensor, block: Block) -> Tensor:
        """Add them. (B, H, R, C)."""
        positions = self.positions(logits, block)
        below = positions.floor()
        above = positions - below  # the share of the position above
        table = self.by_position[:, :, block.queries].to(logits.dtype)
        last = table.shape[-1] - 1
        # Clamped again, because a NaN is no place in a table; the loss will be NaN, too.
        low = table.gather(-1, below.long().clamp(0, last))
        high = table.gather(-1, positions.ceil().long().clamp(0, last))
        return logits + low + above * (high - low)

    def positions(self, logits: Tensor, block: Block) -> Tensor:
        """The position of each key, counted back from the query; 0 for the future. (B, H, R, C)."""
        gates = logits
        if self.gate_keys is not None:
            q, keys = self.q[:, :, block.queries], self.gate_keys[:, :, block.j]
            gates = q.to(logits.dtype) @ keys.to(logits.dtype).mT * q.shape[-1] ** -0.5
        gates = gates.sigmoid() * block.visible
        # Summed from the right: the difference of two sums from the left would be less exact the
        # longer the text.
        counted = gates.flip(-1).cumsum(-1).flip(-1)
        return (counted * block.visible).clamp(0, self.by_position.shape[-1] - 1)


@SCHEMES.add("cope", CopeConfig)
class Cope(Position):
    """Contextual position encoding."""

    form = Form.ON_LOGITS
    title = "CoPE"
    family = "on the logits"
    idea = "positions counted by gates on the keys, so heads can count words or sentences"
    source = "Golovneva et al. 2024"
    claim = "perplexity generalises to longer contexts better than relative embeddings"

    def __init__(self, config: CopeConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.scale = 1.0 if config.nodiv else sizes.head_dim**-0.5
        self.tables = nn.ParameterList(
            torch.empty(sizes.head_dim, config.npos) for _ in range(sizes.n_layers)
        )
        self.gate_keys = None
        if config.separate_keys:
            self.gate_keys = nn.ModuleList(
                nn.Linear(sizes.d_model, sizes.d_model) for _ in range(sizes.n_layers)
            )

    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Tables of zeros, as the authors' code: at first there are no positions."""
        if name.startswith("tables"):
            parameter.zero_()

    def in_layer(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """The function of this layer's table."""
        by_position = (q @ self.tables[layer].to(q.dtype)) * self.scale
        keys = None
        if self.gate_keys is not None:
            keys = split_heads(self.gate_keys[layer](x), q.shape[1])
        return q, k, Bias(on_logits=CountedPositions(by_position, q, keys))
