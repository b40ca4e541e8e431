"""StreamingLLM: the first tokens and the last, at the positions that they have in a cache.

Xiao et al. (ICLR 2024, arXiv 2309.17453), after mit-han-lab/streaming-llm: a cache keeps the first
`first` keys and the last `recent`, and a query sees those and itself, at positions 0, 1, 2 ... in
the cache. Distances among the recent are the true ones; the first ones stay as near as the cache is
long. In one pass over the text it is the same as token by token. For ALiBi, whose rows a constant
does not change, `{window:..., sinks:...}` is the same but for the distance of the first tokens.
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
class StreamingConfig(RotaryConfig):
    """Settings of the cache; those of the rotary model besides."""

    first: int = setting(4, "first keys that are kept (attention sinks)", at_least=1)
    recent: int | None = setting(
        None, "last keys that are kept; null: so that a query sees train_length in all", at_least=1
    )


@SCHEMES.add("streaming", StreamingConfig)
class Streaming(Rerotated):
    """Attention sinks with positions inside the cache."""

    config: StreamingConfig
    title = "StreamingLLM"
    idea = "a rotary model read through a window and sinks, at positions inside the cache"
    source = "Xiao et al. 2024"
    claim = "perplexity stays flat to millions of tokens; nothing is gained from beyond the cache"
    has_window = True

    def __init__(self, config: StreamingConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.recent = config.recent or max(sizes.train_length - config.first - 1, 1)

    def window(self) -> tuple[int, int]:
        """The cache and the query itself."""
        return self.recent + 1, self.config.first

    def places(self, length: int) -> list[tuple[Any, Any]]:
        """For the first keys, queries stand at the end of the cache."""
        i = torch.arange(length)
        return [(i, i), (i.clamp(max=self.config.first + self.recent), i)]

    def which(self, i: Tensor, j: Tensor) -> Tensor:
        """The first keys."""
        return (j < self.config.first).int().expand(len(i), -1)
