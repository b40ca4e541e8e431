"""Randomized positions: drawn in order from a longer range than the text.

Ruoss et al. (ACL 2023, arXiv 2305.16843), after google-deepmind/randomized_positional_encodings:
positions are drawn without replacement from 0 to max_positions - 1 and sorted, one draw for all
sequences and, here, all layers. In evaluation, too, as its authors do: there a draw is a function
of `evaluation_draw` alone, and the first so many of it serve a text of that length.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from alibi_lm.positions.base import SCHEMES, Draws, Sizes
from alibi_lm.positions.based import BasedPosition
from alibi_lm.positions.drawn import DrawnConfig
from alibi_lm.settings import setting


@dataclass
class RandomizedConfig(DrawnConfig):
    """Settings of randomized positions."""

    max_positions: int = setting(2048, "positions are drawn below it", at_least=1)
    evaluation_draw: int = setting(0, "which positions are drawn in evaluation", at_least=0)

    def problems(self, sizes: Sizes) -> list[str]:
        """Positions are drawn without replacement."""
        problems = super().problems(sizes)
        if self.max_positions < sizes.train_length:
            problems.append(
                f"position.max_positions: given {self.max_positions}, but it must be at least "
                f"train_length = {sizes.train_length}"
            )
        return problems

    def reach(self, sizes: Sizes) -> int:
        """As many as are drawn from."""
        return self.max_positions


@SCHEMES.add("randomized", RandomizedConfig)
class Randomized(BasedPosition):
    """Randomized positional encodings."""

    config: RandomizedConfig
    title = "Randomized"
    family = "rotation"
    idea = "positions drawn at random, in order, from a longer range than the text"
    source = "Ruoss et al. 2023"
    claim = "generalises to longer inputs in algorithmic tasks; nothing on perplexity"

    @property
    def longest(self) -> int:
        """As many tokens as there are positions."""
        return self.config.max_positions

    @property
    def prefix_consistent(self) -> bool:
        """A longer text is another draw."""
        return False

    def positions(self, tokens: Tensor, draws: Draws | None) -> Tensor:
        """A sorted draw, the same for all sequences. (T,)."""
        number = self.config.evaluation_draw if draws is None else draws.update
        # On the CPU, whose generator is the same on every machine.
        generator = torch.Generator().manual_seed(number)
        drawn = torch.randperm(self.config.max_positions, generator=generator)[: tokens.shape[1]]
        return drawn.sort().values.to(tokens.device)
