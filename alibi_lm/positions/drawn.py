"""Schemes whose positions are drawn in training: any scheme that takes positions, given others.

What is drawn is a function of the seed and the step and does not depend on how an update is divided
among passes and processes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from alibi_lm.positions.base import SCHEMES, Draws, Position, PositionConfig, Sizes
from alibi_lm.positions.based import BasedConfig


@dataclass
class DrawnConfig(BasedConfig):
    """Settings of schemes whose positions are drawn."""

    def base_problems(self, base: PositionConfig, sizes: Sizes) -> list[str]:
        """The scheme must take positions, as many as are drawn from."""
        made = SCHEMES.made[base.kind]
        if not made.takes_positions(base) or made.positions is not Position.positions:
            return [
                f"position.base: given {base.kind}, but it takes no positions: it looks at "
                "distances, at the tokens, or draws positions itself"
            ]
        if (longest := SCHEMES.build(base, sizes).longest or math.inf) < self.reach(sizes):
            return [
                f"position.base: given {base.kind}, but it has {longest} positions, and the draws "
                f"of position={self.kind} reach {self.reach(sizes)}"
            ]
        return []

    def reach(self, sizes: Sizes) -> int:
        """How many positions the draws reach."""
        raise NotImplementedError


def generators(draws: Draws) -> Iterator[torch.Generator]:
    """A generator for each sequence, on the CPU, whose numbers are the same on every machine."""
    for sequence in draws.sequences.tolist():
        yield torch.Generator().manual_seed(sequence)
