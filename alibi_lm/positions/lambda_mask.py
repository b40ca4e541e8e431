"""Lambda mask (LM-Infinite): the nearest keys and the first ones, these at one limited distance.

Han et al. (NAACL 2024, arXiv 2308.16137), after Glaciohound/LM-Infinite: a query sees the last
`local` keys as trained, and the `first` keys at distance `limit` from position 0, whatever their
own; `local` and `limit` are the training length unless given. For ALiBi, the same is
`{window:..., sinks:..., limit:...}`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alibi_lm.positions.base import SCHEMES, Sizes
from alibi_lm.positions.rerotated import Rerotated
from alibi_lm.positions.rotary import RotaryConfig
from alibi_lm.settings import setting


@dataclass
class LambdaMaskConfig(RotaryConfig):
    """Settings of the lambda mask; those of the rotary model besides."""

    local: int | None = setting(None, "keys seen as trained; null: train_length", at_least=1)
    first: int = setting(10, "first keys that are seen besides", at_least=1)
    limit: int | None = setting(None, "distance of those; null: train_length", at_least=1)


@SCHEMES.add("lambda_mask", LambdaMaskConfig)
class LambdaMask(Rerotated):
    """LM-Infinite."""

    config: LambdaMaskConfig
    title = "Lambda mask"
    idea = "a rotary model read through a window and the first tokens at a limited distance"
    source = "Han et al. 2024"
    claim = "perplexity stays flat at any length; nothing is gained from beyond the window"
    has_window = True

    def __init__(self, config: LambdaMaskConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.local = config.local or sizes.train_length
        self.limit = config.limit or sizes.train_length

    @property
    def prefix_consistent(self) -> bool:
        """If no text is longer than the window and shorter than the limit."""
        return super().prefix_consistent and bool(self.limit <= self.local)

    def window(self) -> tuple[int, int]:
        """The local keys and the first."""
        return self.local, self.config.first

    def places(self, length: int) -> list[tuple[Any, Any]]:
        """For the first keys, queries stand at the limit and keys at 0."""
        i = torch.arange(length)
        return [(i, i), (min(self.limit, length - 1), 0)]

    def which(self, i: Tensor, j: Tensor) -> Tensor:
        """The first keys, where they are beyond the window."""
        return (i - j >= self.local).int()
