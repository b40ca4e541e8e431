"""KERPLE: a learned kernel of the distance, one curve of two parameters for each head.

Chi, Fan, Ramadge, Rudnicky (NeurIPS 2022, arXiv 2205.09921), after chijames/KERPLE (megatron/mpu/
layers.py). log: -p ln(1 + a d); power: -a d^p, for the distance d. Shared by all layers. p is drawn
uniformly from [0, 2), a from [0, 1); after each update both are put back to at least 0.01, and the
exponent of the power kernel to at most 2, which leaves their gradients alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alibi_lm.attention.bias import Bias, Form
from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes
from alibi_lm.settings import setting

SMALLEST, LARGEST_EXPONENT = 0.01, 2.0


@dataclass
class KerpleConfig(PositionConfig):
    """Settings of KERPLE."""

    kernel: str = setting("log", "log: -p ln(1 + a d); power: -a d^p", choices=("log", "power"))


@SCHEMES.add("kerple", KerpleConfig)
class Kerple(Position):
    """A kernelized bias by distance."""

    form = Form.BY_DISTANCE
    title = "KERPLE"
    family = "by distance"
    idea = "a learned logarithm or power of the distance, two parameters a head"
    source = "Chi et al. 2022"
    claim = "the logarithm extrapolates well on three corpora (trained at 512, read to 16,384)"

    def __init__(self, config: KerpleConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.kernel = config.kernel
        self.p = nn.Parameter(torch.empty(sizes.n_heads))
        self.a = nn.Parameter(torch.empty(sizes.n_heads))

    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As the authors' code."""
        parameter.uniform_(0, 2 if name == "p" else 1, generator=generator)

    def constrain(self) -> None:
        """Both positive, the exponent at most 2."""
        with torch.no_grad():
            self.p.clamp_(SMALLEST, LARGEST_EXPONENT if self.kernel == "power" else None)
            self.a.clamp_(SMALLEST)

    def begin(self, positions: Tensor) -> Bias:
        """The curve of each head at distances 0 to length - 1."""
        p, a = self.p[:, None], self.a[:, None]
        distances = positions.to(p.dtype)
        if self.kernel == "log":
            return Bias(by_distance=-p * torch.log1p(a * distances))
        return Bias(by_distance=-a * distances**p)


SCHEMES.name("kerple_power", "KERPLE power", KerpleConfig(kernel="power"))
