"""Schemes that stand on another one: given other positions, or with something on its logits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alibi_lm.attention.bias import Bias, Needs
from alibi_lm.errors import SettingsError
from alibi_lm.positions.base import SCHEMES, Draws, Position, PositionConfig, Sizes
from alibi_lm.positions.spec import read_spec, shortest
from alibi_lm.settings import setting


@dataclass
class BasedConfig(PositionConfig):
    """Settings of schemes that stand on another one."""

    base: Any = setting("rotary", "the scheme it stands on: a name or {kind:...}")

    def __post_init__(self) -> None:
        """The same base is the same setting, however it is written."""
        self.base = shortest(self.base)

    def base_config(self) -> PositionConfig:
        """The settings of that scheme."""
        return read_spec(self.base, "position.base")

    def problems(self, sizes: Sizes) -> list[str]:
        """The base must stand by itself, and do for this scheme."""
        problems = super().problems(sizes)
        try:
            base = self.base_config()
        except SettingsError as error:
            return problems + error.problems
        of_base = [f"position.base: {problem}" for problem in base.problems(sizes)]
        return problems + (of_base or self.base_problems(base, sizes))

    def base_problems(self, base: PositionConfig, sizes: Sizes) -> list[str]:
        """A line for each reason why that scheme will not do, which stands by itself."""
        return []


class BasedPosition(Position):
    """Another scheme, with whatever a subclass changes."""

    def __init__(self, config: BasedConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.base = SCHEMES.build(config.base_config(), sizes)

    @classmethod
    def needs(cls, config: Any, length: int) -> set[Needs]:
        """What its base needs, in the window of both."""
        base = config.base_config()
        of_base = SCHEMES.made[base.kind].needs(base, length)
        needed: set[Needs] = config.narrowed(of_base, length)
        return needed

    @property
    def longest(self) -> int | None:
        """The base's own."""
        longest: int | None = self.base.longest
        return longest

    @property
    def prefix_consistent(self) -> bool:
        """The base's own."""
        consistent: bool = self.base.prefix_consistent
        return consistent

    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As the base."""
        self.base.draw(name.removeprefix("base."), parameter, generator)

    def constrain(self) -> None:
        """The base's own."""
        self.base.constrain()

    def read_vocabulary(self, texts: Callable[[], Sequence[str | None]]) -> None:
        """The base's own."""
        self.base.read_vocabulary(texts)

    def extra_loss(self, draws: Draws) -> Tensor | None:
        """The base's own."""
        extra: Tensor | None = self.base.extra_loss(draws)
        return extra

    def positions(self, tokens: Tensor, draws: Draws | None) -> Tensor:
        """The base's own."""
        positions: Tensor = self.base.positions(tokens, draws)
        return positions

    def begin(self, positions: Tensor) -> Any:
        """The base's own."""
        return self.base.begin(positions)

    def embed(self, x: Tensor, begun: Any) -> Tensor:
        """The base's own."""
        embedded: Tensor = self.base.embed(x, begun)
        return embedded

    def in_layer(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """The base's own."""
        q, k, bias = self.base(layer, x, q, k, begun)
        return q, k, bias
