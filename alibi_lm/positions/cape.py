"""CAPE: sinusoidal embeddings of positions that are shifted, jittered and stretched in training.

Likhomanenko et al. (NeurIPS 2021, arXiv 2106.03143), after gcambara/cape, a reimplementation: the
authors' code was not found. In training, position t of a sequence becomes (t + delta + eps_t)
exp(lambda): delta within +-max_shift and lambda within +-ln max_scale for each sequence, eps within
+-max_jitter for each token. In evaluation nothing is drawn. (The
code that was read has all three off by default.) `normalize` subtracts the mean position
first. Frequencies are those of the paper's formula of sinusoidal embeddings (table=paper).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from alibi_lm.positions.base import SCHEMES, Draws, PositionConfig
from alibi_lm.positions.drawn import generators
from alibi_lm.positions.sinusoidal import Sinusoidal, SinusoidalConfig
from alibi_lm.settings import setting


@dataclass
class CapeConfig(SinusoidalConfig):
    """Settings of CAPE."""

    table: str = setting("paper", "order of sines and cosines, frequencies", choices=("paper",))
    max_shift: float = setting(5.0, "largest shift of a sequence", at_least=0)
    max_jitter: float = setting(
        0.5, "largest shift of a token; at most 0.5 keeps order", at_least=0
    )
    max_scale: float = setting(1.03, "largest stretch of a sequence", at_least=1)
    normalize: bool = setting(False, "subtract the mean position")


@SCHEMES.add("cape", CapeConfig)
class Cape(Sinusoidal):
    """Continuous augmented positional embeddings."""

    title = "CAPE"
    rank = 1
    idea = "sinusoidal embeddings of positions shifted, jittered and stretched in training"
    source = "Likhomanenko et al. 2021"
    claim = "generalises to longer inputs in speech, vision and translation"

    @classmethod
    def takes_positions(cls, config: PositionConfig) -> bool:
        """None: it has its own."""
        return False

    @property
    def prefix_consistent(self) -> bool:
        """Not with the mean of all positions."""
        return not self.config.normalize

    def positions(self, tokens: Tensor, draws: Draws | None) -> Tensor:
        """Real numbers, (B, T) in training and (T,) in evaluation, float32."""
        config: CapeConfig = self.config
        length = tokens.shape[1]
        places = torch.arange(length, dtype=torch.float32)
        if config.normalize:
            places -= (length - 1) / 2
        if draws is None:
            return places.to(tokens.device)
        drawn = []
        for generator in generators(draws):
            numbers = 2 * torch.rand(length + 2, generator=generator) - 1
            shifted = places + config.max_shift * numbers[0] + config.max_jitter * numbers[2:]
            drawn.append(shifted * torch.exp(math.log(config.max_scale) * numbers[1]))
        return torch.stack(drawn).to(tokens.device)
