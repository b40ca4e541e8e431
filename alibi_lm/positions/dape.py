"""DAPE: a small network on the logits and biases of all heads, which adds to another scheme's bias.

Zheng et al. (NeurIPS 2024, arXiv 2405.14722), after chuanyang-Zheng/DAPE: with A the scaled logits
of all heads and B the base scheme's bias, softmax gets A + B + W2 LeakyReLU(W1 [A; B] + b1) + b2,
in each layer with its own weights and its own base. `kernel=3` is DAPE V2 (arXiv 2410.04798): both
maps are convolutions over as many neighbouring keys, zero where keys are of the future, so what the
last query of a text gets would change if the text went on.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alibi_lm.attention.bias import Bias, Block, Form, Needs, OnLogits
from alibi_lm.positions.base import SCHEMES, Draws, Position, PositionConfig, Sizes
from alibi_lm.positions.based import BasedConfig
from alibi_lm.positions.fire import FireConfig
from alibi_lm.positions.layered import LayeredConfig
from alibi_lm.settings import setting

SLOPE = 0.01  # of LeakyReLU below 0


@dataclass
class DapeConfig(BasedConfig):
    """Settings of DAPE."""

    base: Any = setting("kerple", "the scheme whose bias it adds to: a name or {kind:...}")
    width: int = setting(32, "hidden numbers of the network", at_least=1)
    kernel: int = setting(1, "neighbouring keys that it sees, odd; 3: DAPE V2", at_least=1)

    def problems(self, sizes: Sizes) -> list[str]:
        """An odd kernel has a middle, and all keys must be there."""
        problems = super().problems(sizes)
        if self.kernel % 2 == 0:
            problems.append(f"position.kernel: given {self.kernel}, but it must be odd")
        if self.kernel > 1 and self.window is not None:
            problems.append(
                f"position.window: given {self.window}, but position.kernel = {self.kernel} needs "
                "the logits of all keys"
            )
        return problems

    def base_problems(self, base: PositionConfig, sizes: Sizes) -> list[str]:
        """The base must act within layers."""
        made = SCHEMES.made[base.kind]
        forms = {needs.form for needs in made.needs(base, length=1)}
        inside = (made.embed, made.positions) == (Position.embed, Position.positions)
        # Of the functions on logits, FIRE's alone is a bias that does not look at them.
        if isinstance(base, LayeredConfig) or not inside:
            return [f"position.base: given {base.kind}, which does not act in each layer alike"]
        if Form.ON_LOGITS in forms and not isinstance(base, FireConfig):
            return [f"position.base: given {base.kind}, but it must add a bias, or none"]
        if self.kernel > 1 and base.window is not None:
            return [
                f"position.base: given a window, but position.kernel = {self.kernel} needs the "
                "logits of all keys"
            ]
        return []


class Network(nn.Module):
    """W2 LeakyReLU(W1 x + b1) + b2 over the numbers of all heads."""

    def __init__(self, inputs: int, width: int, outputs: int, kernel: int) -> None:
        super().__init__()
        pad = kernel // 2
        self.inner = nn.Conv2d(inputs, width, (1, kernel), padding=(0, pad))
        self.outer = nn.Conv2d(width, outputs, (1, kernel), padding=(0, pad))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, inputs, R, C) -> (B, outputs, R, C)."""
        mixed: Tensor = self.outer(F.leaky_relu(self.inner(maps), SLOPE))
        return mixed


@dataclass(frozen=True)
class MixHeads(OnLogits):
    """The logits with the base's bias and the network's sum."""

    network: Network
    base: Bias
    length: int  # of the text

    def logits(self, logits: Tensor, block: Block) -> Tensor:
        """Add both. (B, H, R, C)."""
        maps = [logits]
        if self.base.needs.form is not Form.NONE:
            maps.append(self.base.added(torch.zeros_like(logits), block))
        together = torch.cat(maps, dim=1)
        reach, stop = self.network.inner.padding[1], block.queries.stop
        if reach:
            assert len(block.j) == stop  # no window: see Needs.all_keys
            # The hidden map has numbers behind the last query, too, if the text goes on there.
            together = together.masked_fill(block.j > block.i, 0.0)
            together = F.pad(together, (0, min(reach, self.length - stop)))
        mixed: Tensor = self.network(together.to(self.network.inner.weight.dtype))
        return torch.stack(maps).sum(0) + mixed[..., : len(block.j)].to(logits.dtype)


@SCHEMES.add("dape", DapeConfig)
class Dape(Position):
    """Data-adaptive positional encoding."""

    form = Form.ON_LOGITS
    title = "DAPE"
    family = "on the logits"
    idea = "a small network on the logits and biases of all heads, over ALiBi, KERPLE or FIRE"
    source = "Zheng et al. 2024"
    claim = "trained at 128, better at 8,192 than schemes that do not look at the text"

    def __init__(self, config: DapeConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        base, one = config.base_config(), replace(sizes, n_layers=1)
        has_bias = {needs.form for needs in SCHEMES.made[base.kind].needs(base, 1)} != {Form.NONE}
        self.bases = nn.ModuleList(SCHEMES.build(base, one) for _ in range(sizes.n_layers))
        inputs = sizes.n_heads * (2 if has_bias else 1)
        self.networks = nn.ModuleList(
            Network(inputs, config.width, sizes.n_heads, config.kernel)
            for _ in range(sizes.n_layers)
        )

    @classmethod
    def needs(cls, config: Any, length: int) -> set[Needs]:
        """A function of the logits, in the window of the base and its own."""
        base = config.base_config()
        of_base = SCHEMES.made[base.kind].needs(base, length)
        changes = {"form": cls.form, "score_mod": False, "all_keys": config.kernel > 1}
        on_logits = {n._replace(**changes) for n in of_base}
        needed: set[Needs] = config.narrowed(on_logits, length)
        return needed

    @property
    def prefix_consistent(self) -> bool:
        """Not, if the network sees neighbours; else as the base."""
        return self.config.kernel == 1 and bool(self._bases()[0].prefix_consistent)

    @property
    def longest(self) -> int | None:
        """The base's own."""
        longest: int | None = self._bases()[0].longest
        return longest

    def _bases(self) -> list[Any]:
        return list(self.bases)

    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Networks as torch draws them, bases as they are by themselves."""
        of, number, own = name.split(".", 2)
        if of == "bases":
            self._bases()[int(number)].draw(own, parameter, generator)

    def constrain(self) -> None:
        """Each base's own."""
        for base in self._bases():
            base.constrain()

    def extra_loss(self, draws: Draws) -> Tensor | None:
        """The sum of the bases' own."""
        losses = [loss for base in self._bases() if (loss := base.extra_loss(draws)) is not None]
        return torch.stack(losses).sum() if losses else None

    def begin(self, positions: Tensor) -> list[Any]:
        """What each layer's base begins with."""
        return [base.begin(positions) for base in self._bases()]

    def in_layer(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """The function of this layer's network and base."""
        q, k, bias = self.bases[layer](0, x, q, k, begun[layer])
        network: Any = self.networks[layer]
        function = MixHeads(network, bias, q.shape[2])
        return q, k, Bias(on_logits=function, window=bias.window, sinks=bias.sinks)


SCHEMES.name("dape_alibi", "DAPE on ALiBi", DapeConfig(base="alibi"))
SCHEMES.name("dape_fire", "DAPE on FIRE", DapeConfig(base={"kind": "fire", "leak": SLOPE}))
SCHEMES.name("dapev2", "DAPE V2", DapeConfig(kernel=3))
