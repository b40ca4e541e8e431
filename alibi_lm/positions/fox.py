"""FoX: a forget gate for each head and token, computed from the layer's input.

Lin, Nikishin, He, Courville, "Forgetting Transformer" (ICLR 2025, arXiv 2503.02130), after
zhixuan-lin/forgetting-transformer: the bias of query i and key j is the sum of log sigmoid(w . x_l
+ b) over j < l <= i, unscaled. The query's own gate counts, the key's does not. Weights are drawn
with standard deviation 0.02, b is 0: at first every head forgets by half with each token. The
authors' Pro block (output gate, norms) is another model, not a scheme, and is left out.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alibi_lm.attention.bias import Bias, Form
from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes


@dataclass
class FoxConfig(PositionConfig):
    """FoX has no settings of its own."""


def gate_layers(sizes: Sizes) -> nn.ModuleList:
    """A gate for each head, in each layer."""
    return nn.ModuleList(nn.Linear(sizes.d_model, sizes.n_heads) for _ in range(sizes.n_layers))


def draw_gate(name: str, parameter: Tensor, generator: torch.Generator) -> None:
    """Small weights, no offset."""
    if name.endswith("bias"):
        parameter.zero_()
    else:
        parameter.normal_(0, 0.02, generator=generator)


@SCHEMES.add("fox", FoxConfig)
class Fox(Position):
    """Data-dependent decay by token."""

    form = Form.BY_KEY
    title = "FoX"
    family = "by key"
    idea = "each token lets the heads forget what came before it (a learned gate)"
    source = "Lin et al. 2025"
    claim = "loss keeps falling beyond the training length for a while; rotary's rises at once"

    def __init__(self, config: FoxConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.gates = gate_layers(sizes)

    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As the authors' code."""
        draw_gate(name, parameter, generator)

    def in_layer(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """c_i - c_j, c the sums of log gates, minus the part c_i, constant along a row."""
        log_gates = F.logsigmoid(self.gates[layer](x).double()).mT  # (B, H, T)
        return q, k, Bias(by_key=-log_gates.cumsum(-1))
