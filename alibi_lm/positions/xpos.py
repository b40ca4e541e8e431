"""xPos: rotary embeddings whose high frequencies fade with distance.

Sun et al., "A Length-Extrapolatable Transformer" (ACL 2023, arXiv 2212.10554), after
microsoft/torchscale: the term of pair m at distance d is multiplied by zeta_m^(d / scale_base),
with zeta_m = (2m / K + 0.4) / 1.4. Queries get zeta^((i - c) / scale_base) and keys the inverse,
where the text's middle c cancels; as these numbers leave the range of float32 a text may have so
many tokens at most (33,000 with the default). The paper evaluates in blocks besides, which is no
part of this scheme.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alibi_lm.attention.bias import NO_BIAS, Bias
from alibi_lm.positions.base import SCHEMES, Sizes
from alibi_lm.positions.rotary import Rotary, RotaryConfig, rotate
from alibi_lm.settings import setting

LARGEST = 1e18  # factor on queries or keys; products of two of them are finite in float32


@dataclass
class XposConfig(RotaryConfig):
    """Settings of xPos; those of rotary embeddings besides."""

    scale_base: float = setting(512.0, "distance at which pair m has faded to zeta_m", above=0)


@SCHEMES.add("xpos", XposConfig)
class Xpos(Rotary):
    """Rotation with a decay by pair."""

    config: XposConfig
    title = "xPos"
    idea = "rotary, with pairs of high frequency fading with distance"
    source = "Sun et al. 2023"
    claim = "strong in interpolation and extrapolation"

    def __init__(self, config: XposConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        pairs = torch.arange(self.width // 2, dtype=torch.float64)
        self.log_zeta = ((2 * pairs / self.width + 0.4) / 1.4).log()

    @property
    def longest(self) -> int:
        """As long as factors are in range."""
        fastest = -self.log_zeta[0].item()
        return int(2 * self.config.scale_base * math.log(LARGEST) / fastest)

    def begin(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The rotations of queries and of keys, with their factors."""
        rotations = super().begin(positions)
        middle = -(-positions.shape[-1] // 2)
        exponents = (positions.double() - middle) / self.config.scale_base
        fading = (exponents[..., None] * self.log_zeta.to(positions.device)).exp()
        fading = fading[:, None] if fading.ndim == 3 else fading
        return rotations * fading.float(), rotations / fading.float()

    def in_layer(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """Rotate both; in float32, as their factors are."""
        of_q, of_k = begun
        return rotate(q, of_q), rotate(k, of_k), NO_BIAS
