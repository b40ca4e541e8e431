"""Loss by position in the window: what a token costs by how much context it had.

The same for every protocol that scores tokens with different amounts of context; `same_targets`
has one amount for each length, so its curve over lengths is the answer already.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alibi_lm.report.comparisons import Curve


@dataclass(frozen=True)
class Bin:
    """Targets with about as much context."""

    context_from: int  # tokens
    context_to: int
    tokens: int
    loss: float  # their mean, in nats


def loss_by_position(curve: Curve, length: int) -> list[Bin] | None:
    """The loss by tokens of context, in half octaves, averaged over seeds.

    None if the token losses were not kept.
    """
    losses = curve.losses(length, list(curve.points[length]))
    row = next((point.row for point in curve.points[length].values()), None)
    if losses is None or row is None:
        return None
    contexts = row.what.contexts(len(losses))
    # Bins end at powers of the root of two, so that a window's last tokens stand with many others.
    numbers = np.ceil(2 * np.log2(contexts)).astype(int)
    found = []
    for here in (numbers == number for number in np.unique(numbers)):
        first, last = int(contexts[here].min()), int(contexts[here].max())
        found.append(Bin(first, last, int(here.sum()), float(losses[here].mean())))
    return found


def has_positions(curves: Sequence[Curve]) -> bool:
    """Whether token losses were kept of any of them."""
    return any(
        point.has_losses
        for curve in curves
        for seeds in curve.points.values()
        for point in seeds.values()
    )
