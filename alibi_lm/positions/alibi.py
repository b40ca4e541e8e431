"""ALiBi: a penalty on attention logits that grows linearly with distance.

Press, Smith, Lewis, "Train Short, Test Long" (ICLR 2022), section 3: the logit of query i and
key j is q_i . k_j / sqrt(head_dim) - slope * (i - j). The bias is added after the scaling
(footnote 10), in every layer, with the same fixed slopes.

Variants by settings: slopes scaled or given, or learned (the paper's section 3; as logarithms, like
x-transformers' LearnedAlibiPositionalBias); the bias inside the division by sqrt(head_dim), as
textbooks write it; slopes interpolated (Al-Khateeb et al. 2023, arXiv 2310.13017): multiplied by
train_length / length where a text is longer; keys that a query sees
beside its window at one distance (LM-Infinite, Han et al. 2024, arXiv 2308.16137).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alibi_lm.attention.bias import Bias, Form, Needs
from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes
from alibi_lm.settings import setting


def alibi_slopes(n_heads: int) -> list[float]:
    """The slope of each head.

    For a power of two: the geometric sequence that starts at 2^(-8/n) with that same ratio
    (section 3). For other head counts the paper is silent and its released code decides: the
    slopes of the next lower power of two p, then every other slope of 2p.
    """
    p = 2 ** math.floor(math.log2(n_heads))
    slopes = [2 ** (-8 * (h + 1) / p) for h in range(p)]
    between = [2 ** (-8 * (h + 1) / (2 * p)) for h in range(0, 2 * p, 2)]
    return slopes + between[: n_heads - p]


@dataclass
class AlibiConfig(PositionConfig):
    """Settings of ALiBi; by default its slopes follow from the number of heads."""

    slopes: list[float] = setting([], "one for each head, or one for all; []: the paper's", above=0)
    scale: float = setting(1.0, "factor on all slopes", above=0)
    learned: bool = setting(False, "train the slopes")
    inside: bool = setting(False, "the bias inside the division by sqrt(head_dim)")
    interpolated: bool = setting(False, "beyond train_length: slopes x train_length / length")

    limit: int | None = setting(
        None, "distance of the sinks beyond the window; null: their own", at_least=1
    )

    def problems(self, sizes: Sizes) -> list[str]:
        """As many slopes as heads."""
        problems = super().problems(sizes)
        if self.limit is not None and (self.interpolated or not self.sinks):
            problems.append(
                f"position.limit: given {self.limit}, but it is for a window with sinks, and not "
                "for interpolated slopes"
            )
        if len(self.slopes) not in (0, 1, sizes.n_heads):
            problems.append(
                f"position.slopes: given {len(self.slopes)}, but the model has {sizes.n_heads} "
                "heads; give one for each, or one for all"
            )
        return problems


@SCHEMES.add("alibi", AlibiConfig)
class Alibi(Position):
    """Attention with linear biases."""

    form = Form.BY_KEY
    title = "ALiBi"
    family = "by key"
    rank = 0
    idea = "a fixed penalty that grows linearly with distance"
    source = "Press et al. 2022"
    claim = "perplexity stays flat or falls beyond the training length"

    fixed_slopes: Tensor

    def __init__(self, config: AlibiConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        given = config.slopes or alibi_slopes(sizes.n_heads)
        given = given * sizes.n_heads if len(given) == 1 else given
        # float32 whatever the model's dtype: a slope rounded to 16 bits is another slope.
        slopes = torch.tensor(given, dtype=torch.float32)
        if config.learned:
            self.log_slopes = nn.Parameter(slopes.log())
        self.register_buffer("fixed_slopes", slopes, persistent=False)
        self.learned = config.learned
        self.scale = config.scale * (sizes.head_dim**-0.5 if config.inside else 1.0)
        self.interpolated = config.interpolated

    @classmethod
    def needs(cls, config: Any, length: int) -> set[Needs]:
        """With a limit for sinks it is no longer a number for each key."""
        form = Form.BY_KEY if config.limit is None else Form.BY_DISTANCE
        needed: set[Needs] = config.narrowed({Needs(form)}, length)
        return needed

    @classmethod
    def takes_positions(cls, config: Any) -> bool:
        """Any, if sinks have no limit."""
        return config.limit is None

    @property
    def prefix_consistent(self) -> bool:
        """Interpolated slopes depend on the length of the text."""
        return not self.interpolated

    @property
    def slopes(self) -> Tensor:
        """The slope of each head. (H,)."""
        return (self.log_slopes.exp() if self.learned else self.fixed_slopes) * self.scale

    def begin(self, positions: Tensor) -> Bias:
        """-slope * (i - j), minus the part slope * i, which is constant along a row."""
        if self.config.limit is not None:
            distances = positions.masked_fill(positions >= self.config.window, self.config.limit)
            return Bias(by_distance=-self.slopes[:, None] * distances)
        slopes, length = self.slopes.double(), positions.shape[-1]
        if self.interpolated and length > self.train_length:
            slopes = slopes * (self.train_length / length)
        return Bias(by_key=slopes[:, None] * positions[..., None, :])


SCHEMES.name("alibi_learned", "ALiBi, learned", AlibiConfig(learned=True))
