"""GRAPE-AP: a penalty that adds up, along the way from key to query, what the query thinks of it.

Zhang et al., "Group Representational Position Encoding" (ICLR 2026, arXiv 2512.07805), after
model-architectures/GRAPE: each head has p_t = W x_t of `width` numbers, and r_t, the same divided
by its root mean square and turned, every pair by t radians. The bias is the sum over j < l <= i of
slope_h log sigmoid(p_i . r_l / width), slope_h ALiBi's. One side alone is turned, so it depends on
where a window starts.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alibi_lm.attention.bias import Bias, Block, Form, OnLogits
from alibi_lm.positions.alibi import alibi_slopes
from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes, split_heads
from alibi_lm.positions.projections import projections
from alibi_lm.settings import setting


@dataclass
class GrapeApConfig(PositionConfig):
    """Settings of GRAPE-AP."""

    width: int = setting(8, "numbers of a head that are compared, even", at_least=2)

    def problems(self, sizes: Sizes) -> list[str]:
        """They are turned in pairs."""
        problems = super().problems(sizes)
        if self.width % 2:
            problems.append(f"position.width: given {self.width}, but it must be even")
        return problems


@dataclass(frozen=True)
class PathSums(OnLogits):
    """The logits with the sums of penalties from the key to the query."""

    p: Tensor  # (B, H, T, width)
    r: Tensor
    slopes: Tensor  # (H,)

    def logits(self, logits: Tensor, block: Block) -> Tensor:
        """Add them. (B, H, R, C)."""
        p, r = self.p[:, :, block.queries], self.r[:, :, block.j]
        along = (p.to(logits.dtype) @ r.to(logits.dtype).mT) / p.shape[-1]
        penalties = F.logsigmoid(along) * self.slopes[:, None, None].to(logits.dtype)
        penalties = penalties * block.visible
        # Summed from the right: the difference of two sums from the left would be less exact the
        # longer the text.
        return logits + penalties.flip(-1).cumsum(-1).flip(-1) - penalties


@SCHEMES.add("grape_ap", GrapeApConfig)
class GrapeAp(Position):
    """Path-integral biases."""

    form = Form.ON_LOGITS
    title = "GRAPE-AP"
    family = "on the logits"
    idea = "a penalty summed along the way from key to query, by what the query sees there"
    source = "Zhang et al. 2026"
    claim = "lower loss than rotary, ALiBi and FoX at 4,096; longer texts are argued for"

    slopes: Tensor

    def __init__(self, config: GrapeApConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.register_buffer("slopes", torch.tensor(alibi_slopes(sizes.n_heads)), persistent=False)
        self.maps = projections(sizes, sizes.n_heads * config.width, bias=False)

    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As the authors' code."""
        parameter.normal_(0, 0.5 * parameter.shape[-1] ** -0.5, generator=generator)

    def begin(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of each position, in radians. (T, 1)."""
        angles = positions[:, None].double()
        return angles.cos(), angles.sin()

    def in_layer(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """The function of this layer's map."""
        p = split_heads(self.maps[layer](x), q.shape[1])
        p = p.to(torch.promote_types(p.dtype, torch.float32))  # positions are not rounded
        cos, sin = (part.to(p.dtype) for part in begun)
        # The smallest number of float32 beside the mean square, as the authors' norm has it.
        normed = p * (p.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).rsqrt()
        a, b = normed.chunk(2, dim=-1)
        r = torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)
        return q, k, Bias(on_logits=PathSums(p, r, self.slopes))
