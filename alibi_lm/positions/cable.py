"""CABLE: a penalty for each head and token, computed from the layer's input.

Veisi, Amirzadeh, Mansourian, "Context-aware Biases for Length Extrapolation" (2025, arXiv
2503.08067), after axiomlab/Cable (src/Cable.py): the bias of query i and key j is minus the sum of
softplus(w . x_l + b) over j < l <= i. That is FoX with the gate's sign turned. What differs is the
scale: the released code does not divide q . k at all, `scaled=true` divides as usual.

The paper's formula, of which no code was released, multiplies the bias by softplus(w' . x_i), a
weight of the query's token (`weights=true`, without b), and has ReLU in place of softplus for the
penalties (`activation=relu`).
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alibi_lm.attention.bias import Bias, Block, Form, Needs, OnLogits
from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes
from alibi_lm.positions.projections import draw_projection, projections
from alibi_lm.settings import setting


@dataclass
class CableConfig(PositionConfig):
    """Settings of CABLE."""

    weights: bool = setting(False, "multiply by a learned weight of the query's token")
    activation: str = setting("softplus", "of the penalties", choices=("softplus", "relu"))
    scaled: bool = setting(False, "divide q . k by sqrt(head_dim), as the released code does not")


@dataclass(frozen=True)
class WeightedSums(OnLogits):
    """The logits less the sums of penalties from key to query, times the query's weight."""

    sums: Tensor  # (B, H, T), float64, up to each token
    of_queries: Tensor  # (B, H, T), their weights

    def logits(self, logits: Tensor, block: Block) -> Tensor:
        """Subtract them. (B, H, R, C)."""
        sums = self.sums - self.sums[..., block.queries][..., :1]  # small, so exact, where near
        sums = sums.to(logits.dtype)
        between = sums[..., block.queries, None] - sums[..., None, block.j]
        return logits - self.of_queries[..., block.queries, None].to(logits.dtype) * between


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
        self.gates = projections(sizes, sizes.n_heads, bias=not config.weights)
        if config.weights:
            self.weights = projections(sizes, sizes.n_heads, bias=False)
        self.activation = F.relu if config.activation == "relu" else F.softplus
        self.q_factor = 1.0 if config.scaled else sizes.head_dim**0.5

    @classmethod
    def needs(cls, config: Any, length: int) -> set[Needs]:
        """With weights, a function of the logits."""
        form = Form.ON_LOGITS if config.weights else Form.BY_KEY
        needed: set[Needs] = config.narrowed({Needs(form)}, length)
        return needed

    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As the authors' code."""
        draw_projection(name, parameter, generator)

    def in_layer(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """u_i - u_j, u minus the sums of penalties, less the part u_i, constant along a row."""
        penalties = self.activation(self.gates[layer](x).double()).mT  # (B, H, T)
        sums, q = penalties.cumsum(-1), q * self.q_factor
        if not self.config.weights:
            return q, k, Bias(by_key=sums)
        weights = F.softplus(self.weights[layer](x)).mT
        return q, k, Bias(on_logits=WeightedSums(sums, weights))


SCHEMES.name("cable_weights", "CABLE, weights", CableConfig(weights=True, scaled=True))
