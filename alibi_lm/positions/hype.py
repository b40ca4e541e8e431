"""HyPE: a penalty that is the hyperbolic sine of the distance.

Angelotti (2023, arXiv 2310.19676): -tau sinh(mu d), for the distance d. From the paper's formula:
there is no public code, and the paper has no experiments. Near, it is ALiBi with slopes tau mu;
from about 1 / mu on, it grows exponentially, like a soft window. mu of each head is `mu` times its
number, counted from 1, and tau is ALiBi's slope over mu, which the paper leaves open; both may be
learned, as logarithms.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alibi_lm.attention.bias import Bias, Form
from alibi_lm.positions.alibi import alibi_slopes
from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes
from alibi_lm.settings import setting

MOST = 80.0  # argument of sinh; beyond it a weight is 0 in any case, and the sine not finite


@dataclass
class HypeConfig(PositionConfig):
    """Settings of HyPE."""

    mu: float = setting(0.001, "of the first head, times 2, 3, ... in the others", above=0)
    learned: bool = setting(False, "train tau and mu")


@SCHEMES.add("hype", HypeConfig)
class Hype(Position):
    """Hyperbolic biases."""

    form = Form.BY_DISTANCE
    title = "HyPE"
    family = "by distance"
    idea = "a fixed penalty by the hyperbolic sine of the distance (ALiBi when near)"
    source = "Angelotti 2023"
    claim = "none; the paper has no experiments"

    log_mu: Tensor
    log_tau: Tensor

    def __init__(self, config: HypeConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        mu = config.mu * torch.arange(1, sizes.n_heads + 1, dtype=torch.float64)
        tau = torch.tensor(alibi_slopes(sizes.n_heads), dtype=torch.float64) / mu
        for name, numbers in (("log_mu", mu), ("log_tau", tau)):
            if config.learned:
                setattr(self, name, nn.Parameter(numbers.log().float()))
            else:
                self.register_buffer(name, numbers.log(), persistent=False)

    def begin(self, positions: Tensor) -> Bias:
        """The curve of each head at distances 0 to length - 1."""
        mu, tau = self.log_mu.exp()[:, None], self.log_tau.exp()[:, None]
        return Bias(by_distance=-tau * (mu * positions).clamp(max=MOST).sinh())
