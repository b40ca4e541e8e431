"""Rotary position embeddings: queries and keys rotated by an angle that grows with position.

Su et al., RoFormer (2021), in the form that the ALiBi paper used (section 2.2, footnote 5):
neighbouring coordinates (0, 1), (2, 3), ... form the pairs, in every layer, over the whole head,
and values are not rotated. Logits then depend on positions through i - j alone.

`part` rotates the first coordinates of each head only, with frequencies over that part (GPT-NeoX).
`p` keeps the spacing of the frequencies and sets the lowest to 0 (p-RoPE, Barbero et al. 2025,
arXiv 2410.06205). `scaling` changes the frequencies, for longer texts: see frequencies.py.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alibi_lm.attention.bias import NO_BIAS, Bias
from alibi_lm.positions.base import SCHEMES, Position, Sizes, odd_heads
from alibi_lm.positions.frequencies import BY_LENGTH, FrequencyConfig
from alibi_lm.settings import setting


@dataclass
class RotaryConfig(FrequencyConfig):
    """Settings of rotary embeddings."""

    part: float = setting(1.0, "share of each head that is rotated", above=0, at_most=1)
    p: float = setting(1.0, "share of the frequencies that are kept", at_least=0, at_most=1)

    def problems(self, sizes: Sizes) -> list[str]:
        """Coordinates are rotated in pairs, and every setting has an effect."""
        problems = super().problems(sizes)
        width = int(sizes.head_dim * self.part)
        if odd := odd_heads(self.kind, sizes, width):
            return problems + odd
        return problems + self.scaling_problems(width, sizes.train_length)


@SCHEMES.add("rotary", RotaryConfig)
class Rotary(Position):
    """Rotation of queries and keys."""

    config: RotaryConfig
    title = "Rotary"
    family = "rotation"
    rank = 0
    idea = "queries and keys rotated by their position, in every layer"
    source = "Su et al. 2021"
    claim = "none; perplexity rises beyond the training length (Press et al. 2022)"

    def __init__(self, config: RotaryConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.width = int(sizes.head_dim * config.part)  # coordinates that are rotated

    @classmethod
    def takes_positions(cls, config: Any) -> bool:
        """Any."""
        return True

    @property
    def prefix_consistent(self) -> bool:
        """Some scalings depend on the length of the text."""
        return self.config.scaling not in BY_LENGTH

    @property
    def attention_factor(self) -> float:
        """What rotated queries and keys are multiplied by."""
        return self.config.factor_on_both(self.train_length)

    def frequencies(self, length: int, device: torch.device | None = None) -> Tensor:
        """The angle of each pair by which a position turns it. (width / 2,), float32.

        length: of the text at hand.
        """
        theta, width = self.config.theta, self.width
        if self.config.scaling == "none":
            pairs = torch.arange(0, width, 2, device=device, dtype=torch.float32)
            frequencies: Tensor = theta ** (-pairs / width)
        else:
            pairs = torch.arange(0, width, 2, device=device, dtype=torch.float64)
            frequencies = self.config.scaled(pairs / width, length, self.train_length).float()
        kept = int(self.config.p * width // 2)
        return frequencies * (torch.arange(width // 2, device=device) < kept)

    def rotations(self, positions: Tensor) -> Tensor:
        """The rotation of each position and pair: (T, width / 2) or (B, 1, T, width / 2), complex.

        Positions may be fractions.
        """
        frequencies = self.frequencies(positions.shape[-1], positions.device)
        angles = positions[..., None].float() * frequencies
        factors = torch.full_like(angles, self.attention_factor)
        rotations = torch.polar(factors, angles)
        return rotations[:, None] if rotations.ndim == 3 else rotations

    def begin(self, positions: Tensor) -> Any:
        """The rotations of queries and of keys."""
        rotations = self.rotations(positions)
        return rotations, rotations

    def in_layer(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """Rotate the pairs of both."""
        of_q, of_k = begun
        return rotate(q, of_q), rotate(k, of_k), NO_BIAS


def rotate(x: Tensor, rotations: Tensor) -> Tensor:
    """Rotate the first pairs of neighbouring coordinates, at least in float32.

    (B, H, T, K), complex (..., T, up to K/2) -> (B, H, T, K).
    """
    width = 2 * rotations.shape[-1]
    wide = torch.promote_types(x.dtype, torch.float32)
    pairs = torch.view_as_complex(x[..., :width].to(wide).reshape(*x.shape[:-1], -1, 2))
    turned = torch.view_as_real(pairs * rotations).flatten(-2).to(x.dtype)
    return turned if width == x.shape[-1] else torch.cat([turned, x[..., width:]], dim=-1)


SCHEMES.name("rotary_part", "Rotary on a quarter", RotaryConfig(part=0.25))
SCHEMES.name("p_rope", "p-RoPE", RotaryConfig(p=0.75))
SCHEMES.name("rotary_ssmax", "Rotary, SSMax", RotaryConfig(temperature="ssmax"))
