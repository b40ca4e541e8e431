"""Schemes whose positions are drawn in training: any scheme that takes positions, given others.

What is drawn is a function of the seed and the step and does not depend on how an update is divided
among passes and processes.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alibi_lm.attention.bias import Bias, Needs
from alibi_lm.errors import SettingsError
from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes
from alibi_lm.positions.spec import read_spec, shortest
from alibi_lm.settings import setting


@dataclass
class DrawnConfig(PositionConfig):
    """Settings of schemes whose positions are drawn."""

    base: Any = setting("rotary", "the scheme that gets the positions: a name or {kind:...}")

    def __post_init__(self) -> None:
        """The same base is the same setting, however it is written."""
        self.base = shortest(self.base)

    def base_config(self) -> PositionConfig:
        """The settings of that scheme."""
        return read_spec(self.base, "position.base")

    def problems(self, sizes: Sizes) -> list[str]:
        """The scheme must take positions."""
        problems = super().problems(sizes)
        try:
            base = self.base_config()
        except SettingsError as error:
            return problems + error.problems
        if base_problems := base.problems(sizes):
            return problems + [f"position.base: {problem}" for problem in base_problems]
        made = SCHEMES.made[base.kind]
        if not made.takes_positions(base) or made.positions is not Position.positions:
            problems.append(
                f"position.base: given {base.kind}, but it takes no positions: it looks at "
                "distances, at the tokens, or draws positions itself"
            )
        elif (longest := SCHEMES.build(base, sizes).longest or math.inf) < self.reach(sizes):
            problems.append(
                f"position.base: given {base.kind}, but it has {longest} positions, and the draws "
                f"of position={self.kind} reach {self.reach(sizes)}"
            )
        return problems

    def reach(self, sizes: Sizes) -> int:
        """How many positions the draws reach."""
        raise NotImplementedError


class DrawnPosition(Position):
    """Another scheme, with other positions."""

    def __init__(self, config: DrawnConfig, sizes: Sizes) -> None:
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
        self.base.initialize(name.removeprefix("base."), parameter, generator)

    def constrain(self) -> None:
        """The base's own."""
        self.base.constrain()

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
