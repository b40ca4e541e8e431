"""Rotary position embeddings: queries and keys rotated by an angle that grows with position.

Su et al., RoFormer (2021), in the form that the ALiBi paper used (section 2.2, footnote 5):
neighbouring coordinates (0, 1), (2, 3), ... form the pairs, in every layer, over the whole head,
and values are not rotated. Logits then depend on positions through i - j alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes
from alibi_lm.settings import setting


@dataclass
class RotaryConfig(PositionConfig):
    """Settings of rotary embeddings."""

    theta: float = setting(10000.0, "base of the wavelengths", above=1)

    def problems(self, sizes: Sizes) -> list[str]:
        """Coordinates are rotated in pairs."""
        head_dim = sizes.d_model / sizes.n_heads
        if head_dim.is_integer() and head_dim % 2:
            return [
                f"model.d_model, model.n_heads: given {sizes.d_model} and {sizes.n_heads}, so "
                f"heads of {head_dim:.0f}, but position=rotary needs an even head size"
            ]
        return []


@SCHEMES.add("rotary", RotaryConfig)
class Rotary(Position):
    """Rotation of queries and keys."""

    title = "Rotary"
    family = "rotation"
    rank = 0
    idea = "queries and keys rotated by their position, in every layer"
    source = "Su et al. 2021"

    def __init__(self, config: RotaryConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.theta = config.theta

    def angles(self, length: int, head_dim: int, device: torch.device) -> Tensor:
        """The angle of each position and pair, float32. (T, K/2)."""
        pairs = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32)
        frequencies = self.theta ** (-pairs / head_dim)
        positions = torch.arange(length, device=device, dtype=torch.float32)
        return positions[:, None] * frequencies

    def rotate(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Rotate each pair of coordinates, in float32 whatever the model's dtype. (B, H, T, K)."""
        angles = self.angles(q.shape[-2], q.shape[-1], q.device)
        rotations = torch.polar(torch.ones_like(angles), angles)  # (T, K/2), complex

        def rotated(x: Tensor) -> Tensor:
            pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
            return torch.view_as_real(pairs * rotations).flatten(-2).to(x.dtype)

        return rotated(q), rotated(k)
