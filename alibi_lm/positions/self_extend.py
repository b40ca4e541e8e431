"""Self-Extend: beyond a window, positions of groups of tokens.

Jin et al. (ICML 2024, arXiv 2401.01325), after datamllab/LongLM: a distance below `near` is read as
it is; beyond, query and key stand at floor(i / group) + near - near / group and floor(j / group).
The shift is not rounded, as in the code's pass over whole texts.
"""

from dataclasses import dataclass
from typing import Any

import torch

from alibi_lm.positions.base import SCHEMES
from alibi_lm.positions.rerotated import BeyondNear, NearConfig
from alibi_lm.settings import setting


@dataclass
class SelfExtendConfig(NearConfig):
    """Settings of Self-Extend; those of the rotary model besides."""

    group: int = setting(8, "tokens of a group", at_least=1)


@SCHEMES.add("self_extend", SelfExtendConfig)
class SelfExtend(BeyondNear):
    """Grouped attention."""

    config: SelfExtendConfig
    title = "Self-Extend"
    idea = "a rotary model read with far tokens in groups that share a position"
    source = "Jin et al. 2024"
    claim = "keeps perplexity far beyond the training length without training"

    def places(self, length: int) -> list[tuple[Any, Any]]:
        """Far ones stand where their groups do."""
        i, (near, group) = torch.arange(length), (self.near, self.config.group)
        return [(i, i), (i // group + (near - near / group), i // group)]
