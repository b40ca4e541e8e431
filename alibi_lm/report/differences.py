"""Differences between curves on the same tokens, with intervals and the range over seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from alibi_lm.report.comparisons import Curve
from alibi_lm.report.intervals import Interval, difference
from alibi_lm.report.tables import Table


@dataclass(frozen=True)
class Difference:
    """How much more a token costs in one result than in another, over the seeds that both have."""

    interval: Interval  # nats per token
    known: bool  # whether the interval is one: token losses were kept
    by_seed: tuple[float, ...]

    @property
    def low(self) -> float:
        """The lowest value of the interval and of any seed; NaN if any is NaN."""
        return _lowest([self.interval.low, *self.by_seed])

    @property
    def high(self) -> float:
        """The highest value of the interval and of any seed; NaN if any is NaN."""
        return -_lowest([-self.interval.high, *(-x for x in self.by_seed)])

    def __str__(self) -> str:
        ratio = self.interval.ratio
        words = str(ratio) if self.known else f"{ratio.estimate:.3f}"
        if len(self.by_seed) > 1:
            ends = (min(self.by_seed), max(self.by_seed))
            low, high = (Interval(x, x, x).ratio.estimate for x in ends)
            words += f", seeds {low:.3f} to {high:.3f}"
        return words


def _lowest(values: list[float]) -> float:
    return math.nan if any(map(math.isnan, values)) else min(values)


def compare(a: Curve, at_a: int, b: Curve, at_b: int) -> Difference | None:
    """Curve a at one length less curve b at another; None without a seed that both have."""
    of_a, of_b = a.points.get(at_a, {}), b.points.get(at_b, {})
    seeds = [seed for seed in of_a if seed in of_b]
    if not seeds:
        return None
    by_seed = tuple(of_a[s].metrics["loss"] - of_b[s].metrics["loss"] for s in seeds)
    losses_a, losses_b = a.losses(at_a, seeds), b.losses(at_b, seeds)
    if losses_a is not None and losses_b is not None and losses_a.shape == losses_b.shape:
        return Difference(difference(losses_a, losses_b), True, by_seed)
    plain = sum(by_seed) / len(by_seed)
    return Difference(Interval(plain, plain, plain), False, by_seed)


def differences(curves: Sequence[Curve]) -> list[tuple[int, Curve, Curve, Difference]]:
    """Every pair of curves at every length that both have, where token losses were kept."""
    lengths = sorted({at for curve in curves for at in curve.points})
    pairs = [(at, a, b) for at in lengths for a, b in combinations(curves, 2)]
    found = [(at, a, b, compare(a, at, b, at)) for at, a, b in pairs]
    return [(at, a, b, d) for at, a, b, d in found if d is not None and d.known]


def to_the_best(curves: Sequence[Curve]) -> Table | None:
    """Perplexity over that of the best curve at each length, with the interval of the ratio.

    None where there is nothing to compare or no token losses were kept.
    """
    lengths = sorted({at for curve in curves for at in curve.points})
    body = [[curve.scheme, str(curve.train_length)] for curve in curves]
    best, compared = set(), False
    for column, at in enumerate(lengths):
        means = {i: c.means("loss").get(at, math.nan) for i, c in enumerate(curves)}
        finite = {i: mean for i, mean in means.items() if math.isfinite(mean)}
        lowest = min(finite, key=lambda i: finite[i], default=None)
        for i, curve in enumerate(curves):
            if i == lowest:
                body[i].append("1")
                best.add((i, 2 + column))
                continue
            found = None if lowest is None else compare(curve, at, curves[lowest], at)
            known = found is not None and found.known
            body[i].append(str(found.interval.ratio) if found and known else "-")
            compared |= known
    return Table(["position", "L", *map(str, lengths)], body, frozenset(best)) if compared else None
