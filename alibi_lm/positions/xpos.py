"""xPos: rotary embeddings whose high frequencies fade with distance.

Sun et al., "A Length-Extrapolatable Transformer" (ACL 2023, arXiv 2212.10554), after
microsoft/torchscale: the term of pair m at distance d is multiplied by zeta_m^(d / scale_base),
with zeta_m = (2m / K + 0.4) / 1.4. Queries get zeta^((i - c) / scale_base) and keys the inverse,
where the text's middle c cancels; as these numbers leave the range of float32 a text may have so
many tokens at most (33,000 with the default; in float16, fewer than 9,000). The paper evaluates in
blocks besides, which is no part of this scheme.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from alibi_lm.positions.base import SCHEMES, Sizes
from alibi_lm.positions.rotary import Rotary, RotaryConfig
from alibi_lm.settings import setting

LARGEST = 1e18  # factor on queries or keys; products of two of them are finite in float32
FASTEST = math.log(1.4 / 0.4)  # of pair 0, whatever the width of a head


@dataclass
class XposConfig(RotaryConfig):
    """Settings of xPos; those of rotary embeddings besides."""

    scale_base: float = setting(512.0, "distance at which pair m has faded to zeta_m", above=0)

    @property
    def longest(self) -> int:
        """The longest text whose factors are in range."""
        return int(2 * self.scale_base * math.log(LARGEST) / FASTEST)

    def problems(self, sizes: Sizes) -> list[str]:
        """The training length must be in range."""
        problems = super().problems(sizes)
        if self.longest < sizes.train_length:
            problems.append(
                f"position.scale_base: given {self.scale_base:g}, with which texts have at most "
                f"{self.longest} tokens, but train_length = {sizes.train_length}"
            )
        return problems


@SCHEMES.add("xpos", XposConfig)
class Xpos(Rotary):
    """Rotation with a decay by pair."""

    config: XposConfig
    title = "xPos"
    idea = "rotary, with pairs of high frequency fading with distance"
    source = "Sun et al. 2023"
    log_zeta: Tensor
    claim = "strong in interpolation and extrapolation"

    def __init__(self, config: XposConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        pairs = torch.arange(0, self.width, 2, dtype=torch.float64)
        log_zeta = ((pairs / self.width + 0.4) / 1.4).log()
        self.register_buffer("log_zeta", log_zeta, persistent=False)

    @property
    def longest(self) -> int:
        """As long as factors are in range."""
        return self.config.longest

    def begin(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The rotations of queries and of keys, with their factors."""
        rotations, middle = self.rotations(positions), -(-positions.shape[-1] // 2)
        exponents = (positions.double() - middle) / self.config.scale_base
        fading = (exponents[..., None] * self.log_zeta).exp().float()
        fading = fading[:, None] if fading.ndim == 3 else fading
        return rotations * fading, rotations / fading
