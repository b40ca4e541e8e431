"""Rotary position embeddings: queries and keys turned by an angle that grows with position.

Su et al., RoFormer (2021), in the form that the ALiBi paper used (section 2.2, footnote 5):
neighbouring coordinates (0, 1), (2, 3), ... form the pairs, in every layer, over the whole head,
and values are not turned. Logits then depend on positions through i - j alone.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alibi_lm.positions.base import Position, PositionConfig
from alibi_lm.settings import setting

if TYPE_CHECKING:
    from alibi_lm.config import ModelConfig


@dataclass
class RotaryConfig(PositionConfig):
    """Settings of rotary embeddings."""

    name: str = setting("rotary", "the positional scheme", choices=("rotary",))
    theta: float = setting(10000.0, "base of the wavelengths", above=1)

    def problems(self, model: "ModelConfig") -> list[str]:
        """Coordinates turn in pairs."""
        head_dim = model.d_model / model.n_heads
        if head_dim.is_integer() and head_dim % 2:
            return [
                f"model.d_model, model.n_heads: given {model.d_model} and {model.n_heads}, so "
                f"heads of {head_dim:.0f}, but position=rotary needs an even head size"
            ]
        return []


class Rotary(Position):
    """Rotation of queries and keys."""

    def __init__(self, config: PositionConfig, model: "ModelConfig") -> None:
        super().__init__(config, model)
        assert isinstance(config, RotaryConfig)
        self.theta = config.theta

    def angles(self, length: int, head_dim: int, device: torch.device) -> Tensor:
        """The angle of each position and pair, float32. (T, K/2)."""
        pairs = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32)
        frequencies = self.theta ** (-pairs / head_dim)
        positions = torch.arange(length, device=device, dtype=torch.float32)
        return positions[:, None] * frequencies

    def rotate(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Turn each pair of coordinates, in float32 whatever the model's dtype. (B, H, T, K)."""
        angles = self.angles(q.shape[-2], q.shape[-1], q.device)
        turns = torch.polar(torch.ones_like(angles), angles)  # (T, K/2), complex

        def turn(x: Tensor) -> Tensor:
            pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
            return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)

        return turn(q), turn(k)
