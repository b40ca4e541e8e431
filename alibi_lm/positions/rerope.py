"""ReRoPE and its leaky form: relative positions end at a window, or grow more slowly beyond it.

Su, "Rectified Rotary Position Embeddings" (2023), after bojone/rerope: distance d is read as it is
below `near`, beyond it as `near` (leak=0) or as near + (d - near) leak. Its code multiplies queries
by a log-n factor besides: `temperature=logn`.
"""

from dataclasses import dataclass
from typing import Any

import torch

from alibi_lm.positions.base import SCHEMES
from alibi_lm.positions.rerotated import BeyondNear, NearConfig
from alibi_lm.settings import setting


@dataclass
class ReropeConfig(NearConfig):
    """Settings of ReRoPE; those of the rotary model besides."""

    leak: float = setting(0.0, "how much each token beyond it counts", at_least=0, at_most=1)


@SCHEMES.add("rerope", ReropeConfig)
class Rerope(BeyondNear):
    """Rectified rotary positions."""

    config: ReropeConfig
    title = "ReRoPE"
    rank = 0
    idea = "a rotary model read with distances cut off, or slowed down, beyond a window"
    source = "Su 2023"
    claim = "loss falls beyond the training length without training (Llama 2, 4k to 16k)"

    def places(self, length: int) -> list[tuple[Any, Any]]:
        """Far queries stand at `near` and their keys at 0, moved on by the leak."""
        i, (near, leak) = torch.arange(length), (self.near, self.config.leak)
        return [(i, i), (near * (1 - leak) + i * leak, i * leak)]


SCHEMES.name("leaky_rerope", "Leaky ReRoPE", ReropeConfig(leak=1 / 16))
