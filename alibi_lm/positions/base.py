"""What a positional scheme is: three hooks, each of which does nothing unless overridden.

The base class itself is NoPE: a decoder that knows positions only through its causal mask
(Haviv et al. 2022, Kazemnejad et al. 2023).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from alibi_lm.attention.bias import NO_BIAS, Bias, Form
from alibi_lm.settings import Registry

SCHEMES = Registry("position")


@dataclass(frozen=True)
class Sizes:
    """What a scheme knows of the model that it stands in."""

    n_layers: int
    n_heads: int
    d_model: int


@dataclass
class PositionConfig:
    """Settings of a positional scheme."""

    kind: ClassVar[str]

    def problems(self, sizes: Sizes) -> list[str]:
        """One line for each reason why this scheme cannot stand in a model of these sizes."""
        return []


class Position(nn.Module):
    """A positional scheme: one object for the whole model, shared by its layers.

    It is built under the run's seed: whatever __init__ draws, in the scheme's own parameters or in
    modules that it holds, is a function of the seed. Of its parameters, only the weights of
    nn.Linear modules are subject to weight decay.

    The class attributes are for readers: `title` stands in legends and tables, `idea` and `source`
    in the table of schemes; the scheme is drawn in the hue of its `family`.
    """

    form: ClassVar[Form] = Form.NONE  # what `bias` gives
    title: ClassVar[str]
    family: ClassVar[str]
    rank: ClassVar[int] = 1  # within the family; 0 is drawn in its full colour
    idea: ClassVar[str]
    source: ClassVar[str]

    def __init__(self, config: PositionConfig, sizes: Sizes) -> None:
        super().__init__()

    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Draw a parameter by name; unless overridden, it keeps what __init__ drew."""

    def embed(self, x: Tensor) -> Tensor:
        """Add positions to the token embeddings, once, at the bottom of the model.

        x: (B, T, D), the embeddings of positions 0 to T - 1.
        """
        return x

    def rotate(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Rotate queries and keys by their positions, in every layer. q, k: (B, H, T, K)."""
        return q, k

    def bias(self, length: int) -> Bias:
        """What is added to the scaled attention logits of every layer, in compact form."""
        return NO_BIAS
