"""FoX: a forget gate for each head and token, computed from the layer's input.

Lin, Nikishin, He, Courville, "Forgetting Transformer" (ICLR 2025, arXiv 2503.02130), after
zhixuan-lin/forgetting-transformer: the bias of query i and key j is the sum of log sigmoid(w . x_l
+ b) over j < l <= i, unscaled. The query's own gate counts, the key's does not. Weights are drawn
with standard deviation 0.02, b is 0: at first every head forgets by half with each token. The
authors' Pro block (output gate, norms) is another model, not a scheme, and is left out.

`gate=bias`: b alone, learned; `gate=fixed`: b alone, fixed, which is ALiBi with other slopes. With
`decay_times=[t_min,t_max]`, b starts so that heads forget at rates 1 / t, with t from t_min to
t_max in equal ratios. offset=5 and another factor is x-transformers' data-dependent ALiBi.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alibi_lm.attention.bias import Bias, Form
from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes
from alibi_lm.positions.projections import draw_projection, projections
from alibi_lm.settings import setting

GATES = ("data", "bias", "fixed")


@dataclass
class FoxConfig(PositionConfig):
    """Settings of FoX."""

    gate: str = setting(
        "data", "data: from the input; bias: an offset alone; fixed: not learned", choices=GATES
    )
    offset: float = setting(0.0, "b at first")
    decay_times: list[float] = setting(
        [], "shortest and longest time in which heads forget, instead of an offset", above=0
    )
    factor: float = setting(1.0, "on the logarithm of all gates", above=0)

    def problems(self, sizes: Sizes) -> list[str]:
        """Two times, the shorter first, and no offset besides."""
        problems, times = super().problems(sizes), self.decay_times
        if times and (len(times) != 2 or times[0] > times[1]):
            problems.append(
                f"position.decay_times: given {times}, but it must be [shortest,longest]"
            )
        if times and self.offset:
            problems.append(
                f"position.offset: given {self.offset:g}, but position.decay_times sets it"
            )
        return problems

    def offsets(self, n_heads: int) -> Tensor:
        """Each head's b at first. (H,)."""
        if not self.decay_times:
            return torch.full((n_heads,), self.offset)
        shortest, longest = (math.log(time) for time in self.decay_times)
        times = torch.linspace(shortest, longest, n_heads, dtype=torch.float64).exp()
        return (-1 / times - (-torch.expm1(-1 / times)).log()).float()  # -log(exp(1 / t) - 1)


@SCHEMES.add("fox", FoxConfig)
class Fox(Position):
    """Data-dependent decay by token."""

    form = Form.BY_KEY
    title = "FoX"
    family = "by key"
    idea = "each token lets the heads forget what came before it (a learned gate)"
    source = "Lin et al. 2025"
    claim = "loss keeps falling beyond the training length for a while; rotary's rises at once"

    first_offsets: Tensor

    def __init__(self, config: FoxConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        offsets = config.offsets(sizes.n_heads)
        if config.gate == "data":
            self.gates = projections(sizes, sizes.n_heads)
        elif config.gate == "bias":
            self.offsets = nn.Parameter(offsets.repeat(sizes.n_layers, 1))
        self.register_buffer("first_offsets", offsets, persistent=False)

    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As the authors' code."""
        draw_projection(name, parameter, generator)
        if name.endswith(("bias", "offsets")):
            parameter.copy_(self.first_offsets.expand_as(parameter))

    def in_layer(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """c_i - c_j, c the sums of log gates, minus the part c_i, constant along a row."""
        if self.config.gate == "data":
            gates = self.gates[layer](x).mT  # (B, H, T)
        else:
            learned = self.config.gate == "bias"
            gates = self.offsets[layer] if learned else self.first_offsets
            gates = gates[:, None].expand(-1, x.shape[1])  # (H, T)
        log_gates = F.logsigmoid(gates.double()) * self.config.factor
        return q, k, Bias(by_key=-log_gates.cumsum(-1))


SCHEMES.name("fox_bias", "FoX, bias only", FoxConfig(gate="bias", decay_times=[2.0, 512.0]))
