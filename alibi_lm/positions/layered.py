"""Other schemes in other layers: rotary in most and none in every fourth, say.

A list names the scheme of each layer, from the first on, and is repeated over the layers. An
element is a name or a mapping with settings of its own, windows and temperatures included:
[{kind: rotary, window: 512}, none]. Equal elements are one scheme, with what its layers share.

Examples: SmolLM3 has [rotary, rotary, rotary, none]; RNoPE-SWA a window in the rotary layers (Yang
et al. 2025, arXiv 2501.18795); Gemma 3 another theta in every sixth.
"""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from alibi_lm.attention.bias import Bias, Needs
from alibi_lm.errors import SettingsError
from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes
from alibi_lm.positions.spec import read_spec, shortest
from alibi_lm.settings import setting


@dataclass
class LayeredConfig(PositionConfig):
    """Settings of a layered scheme."""

    layers: list[Any] = setting(
        ["rotary", "none", "none", "none"], "scheme of each layer, repeated: names or {kind:...}"
    )

    def __post_init__(self) -> None:
        """The same layers are the same setting, however they are written."""
        specs = [shortest(spec) for spec in self.layers]
        periods = (n for n in range(1, len(specs) + 1) if len(specs) % n == 0)
        repeated = (n for n in periods if specs == specs[:n] * (len(specs) // n))
        self.layers = specs[: next(repeated, 0)]

    def members(self) -> list[PositionConfig]:
        """The settings of each element of the list."""
        return [read_spec(spec, "position.layers") for spec in self.layers]

    def problems(self, sizes: Sizes) -> list[str]:
        """There must be members, each of which can act within a layer."""
        problems = super().problems(sizes)
        if not self.layers:
            problems.append("position.layers: given none; name at least one, e.g. [rotary,none]")
        try:
            members = self.members()
        except SettingsError as error:
            return problems + error.problems
        for member in members:
            made = SCHEMES.made[member.kind]
            hooks = (made.embed, made.positions) != (Position.embed, Position.positions)
            if hooks or made is Layered:
                problems.append(
                    f"position.layers: given {member.kind}, which does not act in single layers"
                )
            problems += [f"position.layers: {problem}" for problem in member.problems(sizes)]
        return list(dict.fromkeys(problems))


@SCHEMES.add("layered", LayeredConfig)
class Layered(Position):
    """A list of schemes, each for its layers."""

    title = "Layered"
    family = "layered"
    rank = 0
    idea = "other schemes in other layers: rotary, and none in every fourth, say"
    source = "Yang et al. 2025"
    claim = "mixing rotary and NoPE layers keeps retrieval at long contexts (no perplexity given)"

    def __init__(self, config: LayeredConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        members = config.members()
        of_layer = [members[layer % len(members)] for layer in range(sizes.n_layers)]
        different: list[PositionConfig] = []
        self.places: list[tuple[int, int]] = []  # of each layer: its member, its number in there
        counts: list[int] = []
        for member in of_layer:
            if member not in different:
                different.append(member)
                counts.append(0)
            number = different.index(member)
            self.places.append((number, counts[number]))
            counts[number] += 1
        self.members = nn.ModuleList(
            SCHEMES.build(member, replace(sizes, n_layers=count))
            for member, count in zip(different, counts, strict=True)
        )

    @classmethod
    def needs(cls, config: Any, length: int) -> set[Needs]:
        """What any of the members needs, in the window of all if there is one."""
        members = (SCHEMES.made[m.kind].needs(m, length) for m in config.members())
        needed: set[Needs] = config.narrowed(set().union(*members), length)
        return needed

    @classmethod
    def takes_positions(cls, config: Any) -> bool:
        """If all members do."""
        return all(SCHEMES.made[m.kind].takes_positions(m) for m in config.members())

    @property
    def longest(self) -> int | None:
        """The least that a member can read."""
        return min((m.longest for m in self._members() if m.longest is not None), default=None)

    @property
    def prefix_consistent(self) -> bool:
        """Whether all members are."""
        return all(member.prefix_consistent for member in self._members())

    def _members(self) -> list[Any]:
        return list(self.members)

    def initialize(self, name: str, parameter: Tensor, generator: Any) -> None:
        """As the member that has the parameter."""
        _, number, own = name.split(".", 2)
        self._members()[int(number)].initialize(own, parameter, generator)

    def constrain(self) -> None:
        """Each member's own."""
        for member in self._members():
            member.constrain()

    def begin(self, positions: Tensor) -> list[Any]:
        """What each member begins with."""
        return [member.begin(positions) for member in self._members()]

    def in_layer(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """The layer's member, which counts its own layers."""
        member, number = self.places[layer]
        q, k, bias = self.members[member](number, x, q, k, begun[member])
        return q, k, bias
