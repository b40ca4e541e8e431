"""NoPE: no positions, which the base class of all schemes already is."""

from dataclasses import dataclass
from typing import Any

from alibi_lm.positions.base import SCHEMES, Position, PositionConfig


@dataclass
class NoneConfig(PositionConfig):
    """NoPE has no settings of its own."""


@SCHEMES.add("none", NoneConfig)
class NoPosition(Position):
    """The causal mask alone tells tokens apart (Haviv et al. 2022, Kazemnejad et al. 2023)."""

    title = "NoPE"
    family = "none"
    rank = 0
    idea = "no positions: only the causal mask tells tokens apart (NoPE)"
    source = "Haviv et al. 2022"
    claim = "generalises to longer inputs in small synthetic tasks (Kazemnejad et al. 2023)"

    @classmethod
    def takes_positions(cls, config: Any) -> bool:
        """Any."""
        return True
