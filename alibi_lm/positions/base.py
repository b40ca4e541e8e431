"""What a positional scheme is: four hooks, each of which does nothing unless overridden.

The base class itself is NoPE: a decoder that knows positions only through its causal mask
(Haviv et al. 2022, Kazemnejad et al. 2023).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from alibi_lm.attention import NO_BIAS, Bias, Circumstances, Form, Needs, unsupported
from alibi_lm.errors import UserError
from alibi_lm.positions.temperature import Temperature, TemperatureConfig
from alibi_lm.settings import Registry, changed_settings, setting

T = TypeVar("T")


class Named(NamedTuple):
    """Settings of a scheme that have a name of their own, on the command line and in legends."""

    settings: Any
    title: str


class Schemes(Registry):
    """The positional schemes by name."""

    def __init__(self, group: str) -> None:
        super().__init__(group)
        self.named: dict[str, Named] = {}

    def add(self, name: str, settings: type[Any]) -> Callable[[T], T]:
        """Register a scheme, a subclass of Position, and the dataclass of its settings."""

        def keep(made: Any) -> Any:
            if not (isinstance(made, type) and issubclass(made, Position)):
                raise TypeError(f"position '{name}' must be a subclass of Position")
            if not issubclass(settings, PositionConfig):
                raise TypeError(f"the settings of position '{name}' must be a PositionConfig")
            for word in ("title", "family", "idea", "source"):
                if not isinstance(getattr(made, word, None), str):
                    raise TypeError(f"position '{name}' must say its {word}")
            return Registry.add(self, name, settings)(made)

        return keep

    def name(self, name: str, title: str, settings: Any) -> None:
        """Make settings of a scheme, `position=path position.forget=true`, a choice by a name."""
        if name in self.settings or name in self.named:
            raise ValueError(f"position '{name}' is registered already")
        self.named[name] = Named(settings, title)

    @property
    def nodes(self) -> dict[str, Any]:
        """All that can be chosen by name, with the settings or the class of settings of each."""
        return super().nodes | {name: named.settings for name, named in self.named.items()}


SCHEMES = Schemes("position")


@dataclass(frozen=True)
class Sizes:
    """What a scheme knows of the model that it stands in."""

    n_layers: int
    n_heads: int
    d_model: int
    train_length: int

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.d_model // self.n_heads


@dataclass
class WindowConfig:
    """Settings of the keys that a query sees."""

    window: int | None = setting(
        None, "any scheme: keys that a query sees at most; null: all before it", at_least=1
    )
    sinks: int = setting(
        0, "any scheme: first tokens that every query sees beside the window", at_least=0
    )

    def narrowed(self, needs: set[Needs], length: int) -> set[Needs]:
        """What attention needs if the window is put over it, for texts of that length."""
        window = self.window is not None and self.window + self.sinks < length
        return {each.within(window, self.sinks > 0) for each in needs}


@dataclass
class PositionConfig(TemperatureConfig, WindowConfig):
    """Settings of a positional scheme; these are common to all."""

    kind: ClassVar[str]

    def idle(self, names: Sequence[str], only_with: str) -> list[str]:
        """A line for each of these settings that was set but acts with another alone."""
        changed = changed_settings(self)
        return [
            f"position.{name}: given {changed[name]}, but it acts with {only_with} alone"
            for name in names
            if name in changed
        ]

    def before(self, changes: dict[str, Any]) -> Any:
        """The settings that these changes start from: less what would have no effect with them."""
        return self

    def problems(self, sizes: Sizes) -> list[str]:
        """One line for each reason why this scheme cannot stand in a model of these sizes."""
        if self.sinks and self.window is None:
            return [f"position.sinks: given {self.sinks}, but without position.window all are seen"]
        problems = self.temperature_problems(sizes.train_length)
        if self.temperature != "llama4":
            problems += self.idle(["temperature_floor"], "position.temperature=llama4")
        return problems


class Draws(NamedTuple):
    """Random numbers for schemes that draw positions in training.

    They are functions of the seed and the step, and do not depend on how an update is divided.
    """

    update: int  # the same for all sequences of an update
    sequences: Tensor  # (B,), one for each sequence, int64 and not negative


class Position(nn.Module):
    """A positional scheme: one object for the whole model, shared by its layers.

    It is built under the run's seed: whatever __init__ draws, in the scheme's own parameters or in
    modules that it holds, is a function of the seed. Of its parameters, only the weights of
    nn.Linear modules are subject to weight decay; each has at least one dimension, as FSDP wants.

    The class attributes are for readers: `title` stands in legends and tables, `idea`, `source` and
    `claim` in the table of schemes; the scheme is drawn in the hue of its `family`.
    """

    form: ClassVar[Form] = Form.NONE  # what the bias of `in_layer` holds
    title: ClassVar[str]
    family: ClassVar[str]
    rank: ClassVar[int] = 1  # within the family; 0 is drawn in its full colour
    idea: ClassVar[str]
    source: ClassVar[str]
    claim: ClassVar[str] = "none"  # what its paper says of longer texts
    needs_train_length: ClassVar[bool] = False

    def __init__(self, config: PositionConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config: Any = config
        self.train_length = sizes.train_length
        self.temperature = None
        if config.temperature != "none":
            at = sizes.n_layers, sizes.n_heads, sizes.train_length
            self.temperature = Temperature(config, *at)
        self._forms = {needs.form for needs in self.needs(config, length=1)}

    @classmethod
    def needs(cls, config: Any, length: int) -> set[Needs]:
        """What attention has to compute in the layers, for texts of that length."""
        needed: set[Needs] = config.narrowed({Needs(cls.form)}, length)
        return needed

    @classmethod
    def takes_positions(cls, config: Any) -> bool:
        """Whether any `positions` will do, drawn ones say, and not 0, 1, 2 ... alone."""
        return False

    @property
    def longest(self) -> int | None:
        """The longest text that can be read; None for any."""
        return None

    @property
    def prefix_consistent(self) -> bool:
        """Whether what a token gets is the same if the text goes on behind it."""
        return True

    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Draw a parameter by name; unless overridden, it keeps what __init__ drew."""

    def draw(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Draw a parameter of the scheme, or of the settings that all schemes have in common."""
        if not name.startswith("temperature."):
            self.initialize(name, parameter, generator)

    def constrain(self) -> None:
        """Put parameters back within their bounds; called after the first draw and each update."""

    def read_vocabulary(self, texts: Callable[[], Sequence[str | None]]) -> None:
        """Called before the model is used; `texts()` is the text of each token.

        None stands for the token that ends documents (or lines).
        """

    def extra_loss(self, draws: Draws) -> Tensor | None:
        """A loss of the scheme's own, a mean, that training adds to that of the text.

        It must be a function of `draws.update` and of the scheme's parameters: all passes and
        processes of an update have the same. What training reports is the loss of the text alone.
        """
        return None

    def positions(self, tokens: Tensor, draws: Draws | None) -> Tensor:
        """The positions of the tokens, (B, T) -> (T,) or (B, T): 0, 1, 2 ... unless overridden.

        draws: random numbers in training; None in evaluation.
        """
        return torch.arange(tokens.shape[1], device=tokens.device)

    def begin(self, positions: Tensor) -> Any:
        """What all layers share, computed once per forward pass and given to the next two hooks.

        A Bias is added in every layer, unless `in_layer` is overridden.
        """

    def embed(self, x: Tensor, begun: Any) -> Tensor:
        """Add positions to the token embeddings, once, at the bottom of the model. x: (B, T, D)."""
        return x

    def in_layer(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """Queries and keys as this layer compares them, and what it adds to the scaled logits.

        layer: counted from 0. x: (B, T, D), its input after the norm. q, k: (B, H, T, K). The scale
        stays 1 / sqrt(head_dim) of the values, even where q and k come out wider.
        """
        return q, k, begun if isinstance(begun, Bias) else NO_BIAS

    def forward(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """`in_layer` with the settings that all schemes have in common."""
        window, sinks = self.config.window, self.config.sinks
        if self.temperature is not None:
            q = self.temperature(layer, q)
        given = self.in_layer(layer, x, q, k, begun)
        if problem := self._problem(given, q.shape):
            raise UserError(f"position={self.config.kind}: {problem}")
        q, k, bias = given
        return q, k, bias.within(window, q.shape[2], sinks)

    def _problem(self, given: Any, shape: torch.Size) -> str | None:
        """What is wrong with what `in_layer` gave: a scheme may be of the user's own."""
        if not (isinstance(given, tuple) and len(given) == 3 and isinstance(given[2], Bias)):
            return "in_layer must return q, k and a Bias"
        bias, by_sequence = given[2], tuple(shape[:3])  # (B, H, T)
        for name, numbers, shapes in (
            ("by_distance", bias.by_distance, [by_sequence[1:]]),
            ("by_key", bias.by_key, [by_sequence[1:], by_sequence]),
        ):
            if numbers is not None and tuple(numbers.shape) not in shapes:
                allowed = " or ".join(map(str, shapes))
                return f"{name} of its Bias is {tuple(numbers.shape)}, but it must be {allowed}"
        if bias.needs.form not in self._forms:
            declared = ", ".join(sorted(form.value for form in self._forms))
            return f"its Bias holds {bias.needs.form.value}, but its class declares {declared}"
        return None


def odd_heads(kind: str, sizes: Sizes, width: int | None = None) -> list[str]:
    """The line for a scheme that takes coordinates in pairs, of heads that have no even number.

    width: how many of them it takes; None for all.
    """
    width = sizes.head_dim if width is None else width
    if sizes.d_model % sizes.n_heads or (width and width % 2 == 0):
        return []  # heads that do not divide the width are the model's own error
    taken = f", of which it takes {width}" if width != sizes.head_dim else ""
    return [
        f"model.d_model, model.n_heads: given {sizes.d_model} and {sizes.n_heads}, so heads of "
        f"{sizes.head_dim}{taken}, but position={kind} needs an even head size"
    ]


def cannot_compute(
    config: PositionConfig,
    backend: str,
    length: int,
    where: Circumstances,
    window: int | None = None,
) -> str | None:
    """Why a backend cannot compute a scheme's attention over texts of that length; None if it can.

    window: over all layers, in evaluation.
    """
    needs: set[Needs] = SCHEMES.made[config.kind].needs(config, length)
    over_all = window is not None and window < length
    reasons = (unsupported(backend, each.within(over_all, False), where) for each in needs)
    return next((reason for reason in reasons if reason), None)


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """What a projection gives, by head. (B, T, H K) -> (B, H, T, K)."""
    return x.reshape(*x.shape[:2], n_heads, -1).transpose(1, 2)
