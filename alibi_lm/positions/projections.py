"""Projections of a layer's input, one in each layer: gates and maps that several schemes learn."""

import torch
from torch import Tensor, nn

from alibi_lm.positions.base import Sizes


def projections(sizes: Sizes, outputs: int, bias: bool = True) -> nn.ModuleList:
    """One for each layer, from d_model to some outputs: one for each head, say."""
    layers = (nn.Linear(sizes.d_model, outputs, bias=bias) for _ in range(sizes.n_layers))
    return nn.ModuleList(layers)


def draw_projection(name: str, parameter: Tensor, generator: torch.Generator) -> None:
    """Small weights, no offset."""
    if name.endswith("bias"):
        parameter.zero_()
    else:
        parameter.normal_(0, 0.02, generator=generator)
