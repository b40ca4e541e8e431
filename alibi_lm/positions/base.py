"""What a positional scheme is: three hooks, each of which does nothing unless overridden.

The base class itself is NoPE: a decoder that knows positions only through its causal mask
(Haviv et al. 2022, Kazemnejad et al. 2023).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from alibi_lm.attention import Bias
from alibi_lm.settings import setting

if TYPE_CHECKING:
    from alibi_lm.config import ModelConfig


@dataclass
class PositionConfig:
    """Settings of a positional scheme."""

    name: str = setting("none", "the positional scheme", choices=("none",))

    def problems(self, model: "ModelConfig") -> list[str]:
        """One line for each reason why this scheme cannot stand in a model of these sizes."""
        return []


class Position(nn.Module):
    """A positional scheme: one object for the whole model, shared by its layers."""

    def __init__(self, config: PositionConfig, model: "ModelConfig") -> None:
        super().__init__()

    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Draw a parameter of the scheme's own; unless overridden, what __init__ set stays."""

    def embed(self, x: Tensor) -> Tensor:
        """Add positions to the token embeddings, once, at the bottom of the model.

        x: (B, T, D), the embeddings of positions 0 to T - 1.
        """
        return x

    def rotate(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Turn queries and keys by their positions, in every layer. q, k: (B, H, T, K)."""
        return q, k

    def bias(self, length: int) -> Bias:
        """Say what is added to the scaled attention logits of every layer, in compact form."""
        return Bias()
