"""Differences between curves on the same tokens, with intervals and the spread over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from alibi_lm.report.comparisons import Curve
from alibi_lm.report.intervals import Interval, difference
from alibi_lm.report.tables import Table


@dataclass(frozen=True)
class Difference:
    """How much more a token costs with curve a than with curve b at an evaluation length."""

    length: int
    a: Curve
    b: Curve
    interval: Interval  # nats per token
    by_seed: tuple[float, ...]  # the same of each seed that both have


def differences(curves: Sequence[Curve]) -> list[Difference]:
    """Every pair of curves at every length that both have, where token losses were kept."""
    found = []
    for length in sorted({at for curve in curves for at in curve.points}):
        losses = {i: c.losses(length) for i, c in enumerate(curves) if length in c.points}
        for (i, of_a), (j, of_b) in combinations(losses.items(), 2):
            if of_a is not None and of_b is not None:
                a, b = curves[i], curves[j]
                by_seed = seed_differences(a, length, b, length)
                found.append(Difference(length, a, b, difference(of_a, of_b), by_seed))
    return found


def seed_differences(a: Curve, at_a: int, b: Curve, at_b: int) -> tuple[float, ...]:
    """Loss of a at one length less that of b at another, for each seed that both have."""
    of_a, of_b = a.points[at_a], b.points[at_b]
    common = [seed for seed in of_a if seed in of_b]
    return tuple(of_a[seed].metrics["loss"] - of_b[seed].metrics["loss"] for seed in common)


def to_the_best(curves: Sequence[Curve]) -> Table | None:
    """Perplexity over that of the best curve at each length, with the interval of the ratio.

    None where token losses of fewer than two curves were kept.
    """
    lengths = sorted({at for curve in curves for at in curve.points})
    body = [[curve.scheme, str(curve.train_length)] for curve in curves]
    best, compared = set(), False
    for column, length in enumerate(lengths):
        losses = [curve.losses(length) if length in curve.points else None for curve in curves]
        means = {i: float(kept.mean()) for i, kept in enumerate(losses) if kept is not None}
        lowest = min(means, key=lambda i: means[i], default=None)
        for i, kept in enumerate(losses):
            if kept is None or lowest is None:
                body[i].append("-")
            elif i == lowest:
                body[i].append("1")
                best.add((i, 2 + column))
            else:
                of_best = losses[lowest]
                assert of_best is not None
                body[i].append(str(difference(kept, of_best).ratio))
                compared = True
    return Table(["position", "L", *map(str, lengths)], body, frozenset(best)) if compared else None
