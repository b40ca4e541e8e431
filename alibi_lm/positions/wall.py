"""Wall attention: a forget gate for each channel of queries and keys, inside their product.

Averbuch, Pai (2026, a report without a paper), after fla-org/flash-linear-attention: the logit is
the sum over channels n of q_in k_jn exp(P_in - P_jn) / sqrt(K), P the sums of log sigmoid(W x_t +
b) up to a token; the query's gate counts, the key's does not. b is 8 at first, nearly plain
attention. `scalar` adds a gate for each head, as FoX has it, to the logits.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alibi_lm.attention.bias import Bias, Block, Form, OnLogits
from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes, split_heads
from alibi_lm.positions.projections import draw_projection, projections
from alibi_lm.settings import setting

ROWS = 64  # queries that share an anchor
MOST = 700.0  # exponent in float64: a channel may shrink by e^-700 within so many queries


@dataclass
class WallConfig(PositionConfig):
    """Settings of wall attention."""

    scalar: bool = setting(False, "a gate for each head besides, added to the logits")
    offset: float = setting(8.0, "b at first")


@dataclass(frozen=True)
class GatedChannels(OnLogits):
    """Logits of queries and keys whose channels shrink on the way."""

    q: Tensor  # (B, H, T, K)
    k: Tensor
    sums: Tensor  # (B, H, T, K), float64
    added: Tensor | None  # (B, H, T), float64, sums of the scalar gates

    def logits(self, logits: Tensor, block: Block) -> Tensor:
        """In place of the plain ones. (B, H, R, C)."""
        k, sums_k = self.k[:, :, block.j], self.sums[:, :, block.j]
        parts = []
        for start in range(block.queries.start, block.queries.stop, ROWS):
            rows = slice(start, min(start + ROWS, block.queries.stop))
            # Keys before the rows have exponents below 0; those among them are computed in
            # float64, whose range they do not leave.
            anchor = self.sums[:, :, start : start + 1]
            q = self.q[:, :, rows] * (self.sums[:, :, rows] - anchor).exp()
            keys = k * (anchor - sums_k).clamp(max=MOST).exp()
            parts.append((q * self.q.shape[-1] ** -0.5) @ keys.mT)
        found = torch.cat(parts, dim=-2)
        if self.added is not None:
            found = found + self.added[..., block.queries, None] - self.added[..., None, block.j]
        return found.to(logits.dtype)


def log_gates(linear: Any, x: Tensor) -> Tensor:
    """Log sigmoid(W x + b), float64; in 16 bits W x alone is rounded, without the large b."""
    return F.logsigmoid(F.linear(x, linear.weight).double() + linear.bias.double())


@SCHEMES.add("wall", WallConfig)
class Wall(Position):
    """Diagonal gates."""

    form = Form.ON_LOGITS
    title = "Wall"
    family = "on the logits"
    idea = "each token lets channels of queries and keys forget what came before it"
    source = "Averbuch and Pai 2026"
    claim = "trained at 4k, works up to 200k tokens; better than rotary and FoX"

    def __init__(self, config: WallConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.gates = projections(sizes, sizes.d_model)
        if config.scalar:
            self.scalar_gates = projections(sizes, sizes.n_heads)

    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As the authors' code."""
        draw_projection(name, parameter, generator)
        if name.endswith("bias"):
            parameter.fill_(self.config.offset)

    def in_layer(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """The function of this layer's gates."""
        sums = split_heads(log_gates(self.gates[layer], x).cumsum(1), q.shape[1])
        added = None
        if self.config.scalar:
            added = log_gates(self.scalar_gates[layer], x).cumsum(1).mT
        return q, k, Bias(on_logits=GatedChannels(q, k, sums, added))


SCHEMES.name("wall_scalar", "Wall, scalar gate", WallConfig(scalar=True))
