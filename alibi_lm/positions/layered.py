"""Other schemes in other layers: rotary in most and none in every fourth, say.

A list names the scheme of each layer, from the first on, and is repeated over the layers. An
element is a name or a mapping with settings of its own, windows and temperatures included:
[{kind: rotary, window: 512}, none]. Equal elements are one scheme, with what its layers share.

`preset` names the layers of published models: rnope and rnope_swa (Yang et al. 2025, arXiv
2501.18795; the second as Cohere 2 has it), smollm3, llama4 (iRoPE with its temperature, but without
the chunks that its rotary layers attend in), gemma3 (another theta in every sixth layer). `local`
is the window of those that have one, and the places after which Llama 4's temperature grows.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from alibi_lm.attention.bias import Bias, Needs
from alibi_lm.errors import SettingsError
from alibi_lm.positions.base import SCHEMES, Draws, Position, PositionConfig, Sizes
from alibi_lm.positions.spec import read_spec, shortest
from alibi_lm.settings import setting

LOCAL = ("rnope_swa", "llama4", "gemma3")  # presets that have a window
PRESETS = ("none", "rnope", "smollm3", *LOCAL)


def preset_layers(preset: str, local: int) -> list[Any]:
    """The layers of a published model."""
    near = {"kind": "rotary", "window": local}
    grows = {"kind": "none", "temperature": "llama4", "temperature_floor": local}
    layers: dict[str, list[Any]] = {
        "rnope": ["rotary", "none"],
        "rnope_swa": [near, near, near, "none"],
        "smollm3": ["rotary", "rotary", "rotary", "none"],
        "llama4": ["rotary", "rotary", "rotary", grows],
        "gemma3": [*[near] * 5, {"kind": "rotary", "theta": 1e6}],
    }
    return layers[preset]


@dataclass
class LayeredConfig(PositionConfig):
    """Settings of a layered scheme."""

    layers: list[Any] = setting(
        ["rotary", "none", "none", "none"], "scheme of each layer, repeated: names or {kind:...}"
    )
    preset: str = setting("none", "the layers of a published model", choices=PRESETS)
    local: int = setting(32, "of presets: their window", at_least=1)

    def __post_init__(self) -> None:
        """The same layers are the same setting, however they are written."""
        specs = [shortest(spec) for spec in self.layers]
        periods = (n for n in range(1, len(specs) + 1) if len(specs) % n == 0)
        repeated = (n for n in periods if specs == specs[:n] * (len(specs) // n))
        self.layers = specs[: next(repeated, 0)]

    def members(self) -> list[PositionConfig]:
        """The settings of each element of the list."""
        specs = self.layers
        if self.preset != "none":
            specs = preset_layers(self.preset, self.local)
        return [read_spec(spec, "position.layers") for spec in specs]

    def problems(self, sizes: Sizes) -> list[str]:
        """There must be members, each of which can act within a layer."""
        problems = super().problems(sizes)
        if self.preset != "none" and self.layers != type(self)().layers:
            problems.append(
                f"position.layers: given {self.layers}, but position.preset = {self.preset} names "
                "them; give one of the two"
            )
        if self.preset not in LOCAL:
            problems += self.idle(["local"], " or ".join(f"position.preset={p}" for p in LOCAL))
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
        self._members()[int(number)].draw(own, parameter, generator)

    def constrain(self) -> None:
        """Each member's own."""
        for member in self._members():
            member.constrain()

    def extra_loss(self, draws: Draws) -> Tensor | None:
        """The sum of the members' own."""
        found = [member.extra_loss(draws) for member in self._members()]
        losses = [loss for loss in found if loss is not None]
        return torch.stack(losses).sum() if losses else None

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


for _preset, _title in (
    ("rnope", "RNoPE"),
    ("rnope_swa", "RNoPE-SWA"),
    ("smollm3", "SmolLM3"),
    ("llama4", "iRoPE (Llama 4)"),
    ("gemma3", "Gemma 3"),
):
    SCHEMES.name(_preset, _title, LayeredConfig(preset=_preset))
