"""What a bias is: numbers by distance, numbers by key, a window, a function on blocks of logits.

Never a matrix, except to look at. Softmax ignores what is constant along a row. A bias that is
linear in the distance, or a difference of sums up to the query and up to the key, is therefore one
number for each key (ALiBi's -slope (i - j) is slope j). Others are one number for each distance
(T5); what depends on query and key in another way is computed from blocks of logits (CoPE).
"""

import enum
import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor


class Form(enum.Enum):
    """What a scheme adds to the attention logits. Backends are chosen and refused by it."""

    NONE = "no bias"
    BY_KEY = "a bias by key"
    BY_DISTANCE = "a bias by distance"
    ON_LOGITS = "a function of the logits"


class Needs(NamedTuple):
    """What attention has to compute in a layer, as far as it decides which backend can."""

    form: Form = Form.NONE
    window: bool = False
    sinks: bool = False
    score_mod: bool = False  # whether a function on the logits is also given to FlexAttention
    all_keys: bool = False  # whether a function needs the logits of all keys before the query

    def within(self, window: bool, sinks: bool) -> "Needs":
        """The same in a window that hides something, with sinks or without; see Bias.within."""
        if not window:
            return self
        return self._replace(window=True, sinks=sinks and (self.sinks or not self.window))


@dataclass(frozen=True)
class Block:
    """A block of queries, and the keys that it is computed against."""

    queries: slice  # R rows of the text
    i: Tensor  # (R, 1), the places of the queries
    j: Tensor  # (C,), the places of the keys
    visible: Tensor  # (R, C), whether a query sees a key
    v: Tensor  # (B, H, R, K), the values of the queries' own tokens

    @property
    def distances(self) -> Tensor:
        """From query back to key, i - j; 0 for keys of the future. (R, C)."""
        return (self.i - self.j).clamp(min=0)


class OnLogits:
    """What a scheme computes from a block of logits; nothing, unless overridden.

    Logits come scaled and unmasked, (B, H, R, C), in float32: a scheme that gathers anything over
    keys must leave out those that `block.visible` does not have, or it sees the future. Tensors
    that the object holds get their gradients.
    """

    def logits(self, logits: Tensor, block: Block) -> Tensor:
        """The logits that softmax gets. (B, H, R, C)."""
        return logits

    def weights(self, logits: Tensor, block: Block) -> Tensor:
        """The weights of the values: softmax over the keys that are seen. (B, H, R, C)."""
        return logits.masked_fill(~block.visible, -math.inf).softmax(-1)

    def output(self, weights: Tensor, block: Block) -> Tensor | None:
        """What is added to the weighted sum of the values, (B, H, R, K); None for nothing."""
        return None

    @property
    def is_faster_compiled(self) -> bool:
        """Whether torch.compile makes a block of it faster; it must then not use block.queries."""
        return type(self) is OnLogits

    @property
    def has_score_mod(self) -> bool:
        """Whether `score_mod` is all that it does, so that FlexAttention may compute it."""
        return False

    def score_mod(self, score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """`logits` for one query and one key, as FlexAttention asks for it."""
        raise NotImplementedError


PLAIN = OnLogits()


@dataclass(frozen=True)
class Bias:
    """bias(i, j) = by_distance(i - j) + by_key(j), then the function `on_logits`.

    Query i sees key j <= i if i - j < window or j < sinks. by_distance: (H, T), at least float32.
    by_key: (H, T) or (B, H, T), float64, because only its differences count and it may grow with
    the text. None means zero, no function, all keys.
    """

    by_distance: Tensor | None = None
    by_key: Tensor | None = None
    on_logits: OnLogits | None = None
    window: int | None = None
    sinks: int = 0

    def within(self, window: int | None, length: int, sinks: int = 0) -> "Bias":
        """The same bias in a window of so many keys, with the first `sinks` besides.

        If it has a window of its own, the narrower counts, and the fewer sinks: no query sees what
        either hides. A window that hides nothing of a text of that length is left out.
        """
        if window is None or window + sinks >= length:
            return self
        if self.window is not None:
            window, sinks = min(window, self.window), min(sinks, self.sinks)
        return replace(self, window=window, sinks=sinks)

    @property
    def needs(self) -> Needs:
        """What must be computed; by distance if any part is: those backends compute the rest."""
        form = Form.NONE if self.by_key is None else Form.BY_KEY
        if self.by_distance is not None:
            form = Form.BY_DISTANCE
        if self.on_logits is not None:
            form = Form.ON_LOGITS
        score_mod = self.on_logits is not None and self.on_logits.has_score_mod
        return Needs(form, self.window is not None, self.sinks > 0, score_mod)

    def visible(self, i: Tensor, j: Tensor) -> Tensor:
        """Whether query i sees key j. (R, 1), (C,) -> (R, C)."""
        seen = j <= i
        if self.window is not None:
            seen &= (i - j < self.window) | (j < self.sinks)
        return seen

    def added(self, zeros: Tensor, block: Block) -> Tensor:
        """What is added to the logits of a block, by_key less its value at the query.

        zeros, (B, H, R, C), are what it is added to. What is not seen may hold anything.
        """
        added = zeros
        if self.by_distance is not None:
            added = added + self.by_distance[:, block.distances].to(zeros.dtype)
        if self.by_key is not None:
            keys = self.by_key - self.by_key[..., block.queries][..., :1]  # small where near
            keys = keys.to(zeros.dtype)
            added = added + keys[..., None, block.j] - keys[..., block.queries, None]
        return (self.on_logits or PLAIN).logits(added, block)

    def matrix(self, length: int) -> Tensor:
        """What is added, whole, for pictures and the reference; -inf for what is not seen.

        by_key is given minus its value at the query, which softmax ignores. float64, (H, T, T) or
        (B, H, T, T); (1, T, T) where neither distance nor key matters.
        """
        numbers = [x for x in (self.by_distance, self.by_key) if x is not None]
        device = numbers[0].device if numbers else None
        j = torch.arange(length, device=device)
        i = j[:, None]
        matrix = torch.zeros(1, length, length, device=device, dtype=torch.float64)
        if self.by_distance is not None:
            matrix = matrix + self.by_distance.double()[:, (i - j).clamp(min=0)]
        if self.by_key is not None:
            keys = self.by_key.double()
            matrix = matrix + (keys[..., None, :] - keys[..., :, None])
        return matrix.masked_fill(~self.visible(i, j), -math.inf)


NO_BIAS = Bias()
