"""BiPE: embeddings within a segment of the text, ALiBi or rotary from segment to segment.

He et al. (ICML 2024, arXiv 2401.16421), after zhenyuhe00/BiPE: a token that ends a sentence or a
line ends a segment and belongs to it. Its place in the segment has a learned embedding at the
bottom, like the places from the table's last row on, which is zero and stays so; the number of its
segment is its position in ALiBi, with slopes times 96, since segments are long, or in rotary
embeddings.

Which tokens end a segment follows from the run's tokenizer: those whose text ends with one of
`separators`, and the one that ends documents (or lines).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alibi_lm.attention.bias import NO_BIAS, Bias, Form, Needs
from alibi_lm.positions.alibi import alibi_slopes
from alibi_lm.positions.base import SCHEMES, Draws, Position, PositionConfig, Sizes
from alibi_lm.positions.rotary import Rotary, RotaryConfig, rotate
from alibi_lm.settings import setting


@dataclass
class BipeConfig(PositionConfig):
    """Settings of BiPE."""

    between: str = setting("alibi", "from segment to segment", choices=("alibi", "rotary"))
    rows: int | None = setting(None, "places that differ; null: train_length", at_least=2)
    scale: float = setting(96.0, "alibi: factor on all slopes", above=0)
    theta: float = setting(10000.0, "rotary: base of the wavelengths", above=1)
    separators: list[str] = setting([".", "\n"], "what a token that ends a segment ends with")

    def problems(self, sizes: Sizes) -> list[str]:
        """Segments have ends, and rotary needs pairs."""
        problems = super().problems(sizes)
        if not self.separators or "" in self.separators:
            problems.append(f"position.separators: given {self.separators}, but it must be text")
        if self.between == "alibi":
            return problems + self.idle(["theta"], "position.between=rotary")
        problems += self.idle(["scale"], "position.between=alibi")
        return problems + RotaryConfig(theta=self.theta).problems(sizes)


@SCHEMES.add("bipe", BipeConfig)
class Bipe(Position):
    """Bilevel positions."""

    title = "BiPE"
    family = "by key"
    idea = "embeddings within a sentence, ALiBi or rotary over the numbers of sentences"
    source = "He et al. 2024"
    claim = "extrapolates better than rotary and ALiBi (PG-19, trained at 1,024)"
    needs_train_length = True

    ends: Tensor
    slopes: Tensor

    def __init__(self, config: BipeConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        rows = config.rows or max(sizes.train_length, 2)
        self.table = nn.Parameter(torch.empty(rows - 1, sizes.d_model))
        slopes = torch.tensor(alibi_slopes(sizes.n_heads)) * config.scale
        self.register_buffer("slopes", slopes, persistent=False)
        self.register_buffer("ends", torch.zeros(0, dtype=torch.bool), persistent=False)
        self.rotary = Rotary(RotaryConfig(theta=config.theta), sizes)

    @classmethod
    def needs(cls, config: Any, length: int) -> set[Needs]:
        """ALiBi's form or rotary's."""
        form = Form.BY_KEY if config.between == "alibi" else Form.NONE
        needed: set[Needs] = config.narrowed({Needs(form)}, length)
        return needed

    def read_vocabulary(self, texts: Callable[[], Sequence[str | None]]) -> None:
        """Note which tokens end a segment."""
        ends = [text is None or text.endswith(tuple(self.config.separators)) for text in texts()]
        self.ends = torch.tensor(ends, device=self.table.device)

    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As the authors' code."""
        parameter.normal_(0, 0.02, generator=generator)

    def positions(self, tokens: Tensor, draws: Draws | None) -> Tensor:
        """The segment of each token. (B, T)."""
        if not len(self.ends):  # no vocabulary: all is one segment
            return torch.zeros_like(tokens)
        ends = self.ends[tokens].long()
        return ends.cumsum(-1) - ends

    def places(self, segments: Tensor) -> Tensor:
        """The place of each token in its segment, up to the last row. (B, T)."""
        i = torch.arange(segments.shape[-1], device=segments.device).expand_as(segments)
        first = F.pad(segments.diff(dim=-1) > 0, (1, 0), value=True)
        return (i - (i * first).cummax(-1).values).clamp(max=len(self.table))

    def begin(self, positions: Tensor) -> tuple[Tensor, Any]:
        """The embeddings of places, (B, T, D), and what segments do."""
        rows = F.pad(self.table, (0, 0, 0, 1))[self.places(positions)]
        if self.config.between == "rotary":
            return rows, self.rotary.rotations(positions)
        return rows, Bias(by_key=self.slopes.double()[:, None] * positions[:, None])

    def embed(self, x: Tensor, begun: Any) -> Tensor:
        """Add those of places."""
        rows: Tensor = begun[0]
        return x + rows.to(x.dtype)

    def in_layer(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """ALiBi's bias or rotary's rotation, by segments."""
        if isinstance(begun[1], Bias):
            return q, k, begun[1]
        return rotate(q, begun[1]), rotate(k, begun[1]), NO_BIAS


SCHEMES.name("bipe_rotary", "BiPE, rotary", BipeConfig(between="rotary"))
