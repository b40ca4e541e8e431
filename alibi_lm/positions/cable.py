"""CABLE: a penalty for each head and token, computed from the layer's input.

Veisi, Amirzadeh, Mansourian, "Context-aware Biases for Length Extrapolation" (2025, arXiv
2503.08067), after axiomlab/Cable (src/Cable.py): the bias of query i and key j is minus the sum of
softplus(w . x_l + b) over j < l <= i. That is FoX with the gate's sign turned. What differs is the
scale: the released code does not divide q . k at all, `scaled=true` divides as usual. The paper's
formula has token weights and a ReLU besides; the released code has neither, nor has this.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alibi_lm.attention.bias import Bias, Form
from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes
from alibi_lm.positions.fox import draw_gate, gate_layers
from alibi_lm.settings import setting


@dataclass
class CableConfig(PositionConfig):
    """Settings of CABLE."""

    scaled: bool = setting(False, "divide q . k by sqrt(head_dim), as the released code does not")


@SCHEMES.add("cable", CableConfig)
class Cable(Position):
    """Data-dependent penalties by token."""

    form = Form.BY_KEY
    title = "CABLE"
    family = "by key"
    idea = "each token adds a learned penalty to all keys before it"
    source = "Veisi et al. 2025"
    claim = "perplexity falls up to 15 times the training length"

    def __init__(self, config: CableConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.gates = gate_layers(sizes)
        self.q_factor = 1.0 if config.scaled else sizes.head_dim**0.5

    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As the authors' code."""
        draw_gate(name, parameter, generator)

    def in_layer(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """u_i - u_j, u minus the sums of penalties, less the part u_i, constant along a row."""
        penalties = F.softplus(self.gates[layer](x).double()).mT  # (B, H, T)
        return q * self.q_factor, k, Bias(by_key=penalties.cumsum(-1))
