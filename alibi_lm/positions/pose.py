"""PoSE: positions with a gap, so that a short text holds the distances of a longer one.

Zhu et al. (ICLR 2024, arXiv 2309.10400), after dwzhu-pku/PoSE: in training, the first r tokens of a
sequence keep their positions and the others are moved on by u, so that the last may stand as far as
target_length - 1; r is drawn from 1 to about half of the length and u from all that fit. In
evaluation there is no gap. The authors' code skips text where it skips positions; here the text
goes on. Meant for further training of a rotary model, with a scaling of factor target_length / L.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from alibi_lm.positions.base import SCHEMES, Draws, PositionConfig, Sizes
from alibi_lm.positions.based import BasedPosition
from alibi_lm.positions.drawn import DrawnConfig, generators
from alibi_lm.settings import setting


@dataclass
class PoseConfig(DrawnConfig):
    """Settings of positions with a gap."""

    target_length: int = setting(2048, "length whose positions are trained", at_least=2)

    def problems(self, sizes: Sizes) -> list[str]:
        """The gap must fit."""
        problems = super().problems(sizes)
        if self.target_length < sizes.train_length:
            problems.append(
                f"position.target_length: given {self.target_length}, but it must be at least "
                f"train_length = {sizes.train_length}"
            )
        return problems

    def base_problems(self, base: PositionConfig, sizes: Sizes) -> list[str]:
        """The base must not look at the text's length, which is not that of the positions."""
        problems = super().base_problems(base, sizes)
        if not problems and not SCHEMES.build(base, sizes).prefix_consistent:
            problems.append(
                f"position.base: given {base.kind} with settings that depend on the text's length; "
                "use those with a factor"
            )
        return problems

    def reach(self, sizes: Sizes) -> int:
        """As far as gaps go."""
        return self.target_length


@SCHEMES.add("pose", PoseConfig)
class Pose(BasedPosition):
    """Positional skip-wise training."""

    title = "PoSE"
    family = "rotation"
    idea = "training positions with a random gap, up to those of a longer text"
    source = "Zhu et al. 2024"
    claim = "a short fine-tuning at 2k reads to 128k with little loss in perplexity"

    def positions(self, tokens: Tensor, draws: Draws | None) -> Tensor:
        """With a gap in each sequence, (B, T); in evaluation without, (T,)."""
        positions = super().positions(tokens, draws)
        if draws is None:
            return positions
        length, gapped = tokens.shape[1], []
        room = self.config.target_length - length
        for generator in generators(draws):
            first = int(torch.randint(1, (length + 1) // 2 + 1, (1,), generator=generator))
            gap = int(torch.randint(0, room + 1, (1,), generator=generator))
            gapped.append(with_gap(length, first, gap))
        return torch.stack(gapped).to(tokens.device)


def with_gap(length: int, first: int, gap: int) -> Tensor:
    """0, 1, 2 ..., with the gap behind the first so many. (T,)."""
    places = torch.arange(length)
    return places + gap * (places >= first)
