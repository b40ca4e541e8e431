"""FoPE: each pair turned by a sum of frequencies, and not by one.

Hua et al., "Fourier Position Embedding" (ICML 2025, arXiv 2412.17739), after TsinghuaC3I/
Fourier-Position-Embedding: of the rotary frequencies, those are kept that make a full turn within
train_length; pair g of a head is multiplied by sum_f A_fg cos(i w_f), and the same of sines with
other coefficients, drawn for each layer, fixed, near the identity, the same for all seeds of a run.
A head has K / 4 such pairs at most, fewer if fewer frequencies are kept; for all others the code
has 1 for cosine and sine alike: a turn by 45 degrees and a stretch, which doubles their part of the
logit.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alibi_lm.attention.bias import NO_BIAS, Bias
from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes, odd_heads
from alibi_lm.positions.rotary import rotate
from alibi_lm.settings import setting


@dataclass
class FopeConfig(PositionConfig):
    """Settings of FoPE."""

    theta: float = setting(10000.0, "base of the wavelengths", above=1)
    draw: int = setting(0, "which coefficients are drawn", at_least=0)
    gain: float = setting(0.3, "size of the coefficients beside the identity", above=0)

    def frequencies(self, sizes: Sizes) -> Tensor:
        """Those that are kept, the highest first. (F,)."""
        pairs = torch.arange(0, sizes.head_dim, 2, dtype=torch.float64)
        frequencies: Tensor = self.theta ** (-pairs / sizes.head_dim)
        return frequencies[frequencies >= 2 * math.pi / sizes.train_length].float()

    def problems(self, sizes: Sizes) -> list[str]:
        """There must be a pair and a frequency."""
        problems = super().problems(sizes) + odd_heads(self.kind, sizes)
        if not problems and (sizes.head_dim < 4 or not len(self.frequencies(sizes))):
            problems.append(
                f"position=fope: given heads of {sizes.head_dim} and train_length = "
                f"{sizes.train_length}, but it needs at least 4, and 7 for a full turn"
            )
        return problems


@SCHEMES.add("fope", FopeConfig)
class Fope(Position):
    """Fourier series in place of rotations."""

    title = "FoPE"
    family = "rotation"
    idea = "like rotary, each pair turned by a random mix of the frequencies that fit into L"
    source = "Hua et al. 2025"
    claim = "more stable beyond the training length than rotary and ALiBi (C4, trained at 512)"
    needs_train_length = True

    def __init__(self, config: FopeConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.pairs = sizes.head_dim // 2
        self.register_buffer("frequencies", config.frequencies(sizes), persistent=False)
        kept = len(self.frequencies)
        outputs = min(kept, sizes.head_dim // 4)
        # Xavier's deviation as torch has it for three dimensions: the last is a receptive field.
        shape = (sizes.n_layers, sizes.n_heads, kept, outputs)
        deviation = config.gain * math.sqrt(2 / (outputs * (kept + sizes.n_heads)))
        identity = torch.zeros(kept, outputs)
        for output in range(outputs):
            if (step := output * -(-kept // outputs)) < kept:
                identity[step, output] = 1
        generator = torch.Generator().manual_seed(config.draw)
        for name in ("cosines", "sines"):
            drawn = identity + deviation * torch.randn(shape, generator=generator)
            self.register_buffer(name, drawn, persistent=False)

    frequencies: Tensor
    cosines: Tensor  # (n_layers, H, F, G)
    sines: Tensor

    def begin(self, positions: Tensor) -> Tensor:
        """The angles of all frequencies. (T, F)."""
        return positions[:, None].float() * self.frequencies

    def in_layer(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """Multiply the pairs of both by this layer's series."""
        with torch.autocast(q.device.type, enabled=False):  # 16 bits would round positions
            cosines, sines = begun.cos() @ self.cosines[layer], begun.sin() @ self.sines[layer]
        series = torch.complex(cosines, sines)
        others = series.new_full((*series.shape[:-1], self.pairs - series.shape[-1]), 1 + 1j)
        factors = torch.cat([series, others], dim=-1)  # (H, T, K/2)
        return rotate(q, factors), rotate(k, factors), NO_BIAS
