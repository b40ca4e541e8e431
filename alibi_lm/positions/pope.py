"""PoPE: what a token is in the magnitudes of polar coordinates, where it is in their angles.

Gopalakrishnan, Csordas, Schmidhuber, Mozer (2025, arXiv 2509.10534), after lucidrains/PoPE-pytorch,
a reimplementation: the authors' code was not found. The logit is the sum over coordinates c of
softplus(q_ic) softplus(k_jc) cos((i - j) w_c - delta_c) / sqrt(K), with w_c = theta^(-c / K) and a
phase delta for each head and coordinate, learned in each layer, 0 at first, held to [-2 pi, 0].
Queries and keys are twice as wide then; values are not.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alibi_lm.attention.bias import NO_BIAS, Bias
from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes
from alibi_lm.settings import setting


@dataclass
class PopeConfig(PositionConfig):
    """Settings of PoPE."""

    theta: float = setting(10000.0, "base of the wavelengths", above=1)


@SCHEMES.add("pope", PopeConfig)
class Pope(Position):
    """Polar coordinates."""

    title = "PoPE"
    family = "rotation"
    idea = "softplus of queries and keys as magnitudes, positions as angles"
    source = "Gopalakrishnan et al. 2025"
    claim = "lower perplexity than rotary, and extrapolates where rotary fails"

    def __init__(self, config: PopeConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.head_dim = sizes.head_dim
        self.phases = nn.Parameter(torch.zeros(sizes.n_layers, sizes.n_heads, sizes.head_dim))

    @classmethod
    def takes_positions(cls, config: Any) -> bool:
        """Any."""
        return True

    def begin(self, positions: Tensor) -> Tensor:
        """The angle of each position and coordinate. (T, K) or (B, 1, T, K), float32."""
        shares = torch.arange(self.head_dim, device=positions.device) / self.head_dim
        angles: Tensor = positions[..., None].float() * self.config.theta**-shares
        return angles[:, None] if angles.ndim == 3 else angles

    def in_layer(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """Cosines and sines, one after the other. (B, H, T, 2 K)."""

        def polar(magnitudes: Tensor, angles: Tensor) -> Tensor:
            parts = magnitudes * angles.cos(), magnitudes * angles.sin()
            return torch.stack(parts, dim=-1).flatten(-2)

        phases = self.phases[layer].clamp(-2 * math.pi, 0)[:, None]
        return polar(F.softplus(q), begun), polar(F.softplus(k), begun + phases), NO_BIAS
