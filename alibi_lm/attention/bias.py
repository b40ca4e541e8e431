"""What a bias is: numbers by distance, numbers by key, a window; never a matrix, except to look at.

Softmax ignores what is constant along a row. A bias that is linear in the distance, or a difference
of sums up to the query and up to the key, is therefore one number for each key (ALiBi's
-slope (i - j) is slope j). Others are one number for each distance (T5).
"""

import enum
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor


class Form(enum.Enum):
    """What a scheme adds to the attention logits. Backends are chosen and refused by it."""

    NONE = "no bias"
    BY_KEY = "a bias by key"
    BY_DISTANCE = "a bias by distance"


@dataclass(frozen=True)
class Bias:
    """bias(i, j) = by_distance(i - j) + by_key(j) for 0 <= i - j < window, else minus infinity.

    by_distance, by_key: (H, T), float32; None means zero. window: None means all keys.
    """

    by_distance: Tensor | None = None
    by_key: Tensor | None = None
    window: int | None = None

    def within(self, window: int | None, length: int) -> "Bias":
        """The same bias in a window of that many keys; a window of the whole text is left out."""
        if window is None or window >= length:
            return self
        return replace(self, window=window)

    @property
    def form(self) -> Form:
        """By distance if any part is, since those backends compute the rest as well."""
        if self.by_distance is not None:
            return Form.BY_DISTANCE
        return Form.NONE if self.by_key is None else Form.BY_KEY

    def matrix(self, length: int) -> Tensor:
        """The whole bias, for pictures and the reference; -inf for the future. (H, T, T).

        by_key is given minus its value at the query, which softmax ignores. (1, T, T) where
        neither distance nor key matters.
        """
        numbers = [x for x in (self.by_distance, self.by_key) if x is not None]
        device = numbers[0].device if numbers else None
        places = torch.arange(length, device=device)
        distances = places[:, None] - places
        matrix = torch.zeros(1, length, length, device=device)
        if self.by_distance is not None:
            matrix = matrix + self.by_distance[:, distances.clamp(min=0)]
        if self.by_key is not None:
            matrix = matrix + (self.by_key[:, None, :] - self.by_key[:, :, None])
        hidden = (distances < 0) | (distances >= (self.window or length))
        return matrix.masked_fill(hidden, -math.inf)


NO_BIAS = Bias()
