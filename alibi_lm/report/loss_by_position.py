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
    contexts = row.measurement.protocol.contexts(len(losses))
    # Bins end at powers of the root of two, so that a window's last tokens stand with many others.
    numbers = np.ceil(2 * np.log2(contexts)).astype(int)
    found = []
    for here in (numbers == number for number in np.unique(numbers)):
        first, last = int(contexts[here].min()), int(contexts[here].max())
        found.append(Bin(first, last, int(here.sum()), float(losses[here].mean())))
    return found


def bins_to_draw(curve: Curve) -> list[Bin]:
    """Those of the longest evaluation length with as much context as every full window offers.

    Sliding gives at least length - stride + 1 tokens of context, but at the text's start; the few
    tokens there are one passage, which says nothing of position.
    """
    if not curve.points:
        return []
    length = curve.lengths[-1]
    row = next(point.row for point in curve.points[length].values())
    least = length - row.stride + 1 if row and row.stride else 1
    bins = loss_by_position(curve, length) or []
    return [found for found in bins if found.context_to >= least]


def has_positions(curves: Sequence[Curve]) -> bool:
    """Whether there is a curve to draw."""
    return any(len(bins_to_draw(curve)) > 1 for curve in curves)
