"""Rotary models read at other relative positions: near keys as trained, far ones moved nearer.

What these schemes have in common. They change nothing for a text of up to so many tokens, need no
training, and are meant for `evaluation.position={kind:...}`, which keeps the rotary settings of the
run. Pairs of query and key that are not near get logits from queries and keys that are rotated
otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from alibi_lm.attention.bias import Bias, Block, Form, Needs, OnLogits
from alibi_lm.positions.base import Sizes
from alibi_lm.positions.rotary import Rotary, RotaryConfig, rotate
from alibi_lm.settings import setting

Which = Callable[[Tensor, Tensor], Tensor]  # i (R, 1), j (C,) -> (R, C), 0 for pairs as trained


@dataclass(frozen=True)
class OtherRotations(OnLogits):
    """Logits from the n-th other queries and keys where `which` is n, counted from 1."""

    others: tuple[tuple[Tensor, Tensor], ...]  # (B, H, T, K) each
    which: Which

    def logits(self, logits: Tensor, block: Block) -> Tensor:
        """Choose for each pair. (B, H, R, C)."""
        which = self.which(block.i, block.j)
        for number, (q, k) in enumerate(self.others, 1):
            queries, keys = q[:, :, block.queries], k[:, :, block.j]
            scaled = queries.to(logits.dtype) * q.shape[-1] ** -0.5
            logits = torch.where(which == number, scaled @ keys.to(logits.dtype).mT, logits)
        return logits


class Rerotated(Rotary):
    """A rotary model whose far pairs are rotated otherwise."""

    form = Form.ON_LOGITS
    family = "rotary, read otherwise"
    needs_train_length = True  # for what is not set
    has_window: ClassVar[bool] = False

    @classmethod
    def needs(cls, config: Any, length: int) -> set[Needs]:
        """A window with sinks, if it has one that hides anything: the training length decides."""
        inside = {Needs(cls.form)}
        if cls.has_window:
            inside.add(Needs(cls.form, window=True, sinks=True))
        needed: set[Needs] = config.narrowed(inside, length)
        return needed

    @classmethod
    def takes_positions(cls, config: RotaryConfig) -> bool:
        """None: it decides them by place."""
        return False

    def window(self) -> tuple[int, int]:
        """If it has one: keys that a query sees at most, and first keys besides."""
        raise NotImplementedError

    def places(self, length: int) -> list[tuple[Any, Any]]:
        """Where queries and keys stand, as trained first, then for each kind of other pair.

        Each is a tensor (T,), which may hold fractions, or one number for all.
        """
        raise NotImplementedError

    def which(self, i: Tensor, j: Tensor) -> Tensor:
        """The kind of each pair, 0 for those as trained. (R, 1), (C,) -> (R, C)."""
        raise NotImplementedError

    def begin(self, positions: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The rotations of queries and keys for each kind of pair."""

        def rotated(places: Any) -> Tensor:
            everywhere = torch.as_tensor(places, device=positions.device, dtype=torch.float32)
            return self.rotations(everywhere.expand(len(positions)))

        return [(rotated(q), rotated(k)) for q, k in self.places(len(positions))]

    def in_layer(
        self, layer: int, x: Tensor, q: Tensor, k: Tensor, begun: Any
    ) -> tuple[Tensor, Tensor, Bias]:
        """Rotate both for near pairs, and for the others in the function on the logits."""
        rotated = [(rotate(q, of_q), rotate(k, of_k)) for of_q, of_k in begun]
        bias = Bias(on_logits=OtherRotations(tuple(rotated[1:]), self.which))
        if self.has_window:
            keys, first = self.window()
            bias = bias.within(keys, q.shape[2], first)
        return *rotated[0], bias


@dataclass
class NearConfig(RotaryConfig):
    """Settings of those that change all pairs from a distance on."""

    near: int | None = setting(
        None, "distance from which positions are others; null: 1/4 of train_length", at_least=1
    )


class BeyondNear(Rerotated):
    """A rotary model whose pairs from a distance on are rotated otherwise."""

    def __init__(self, config: NearConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.near = config.near or max(sizes.train_length // 4, 1)

    def which(self, i: Tensor, j: Tensor) -> Tensor:
        """Those beyond it."""
        return (i - j >= self.near).int()
