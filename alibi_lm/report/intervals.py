"""How sure a difference is: a paired bootstrap over contiguous pieces of the text.

Two models, or one model at two lengths, scored the same tokens; what counts is the difference token
by token. Neighbouring tokens are not independent, so whole pieces of the text are drawn. The
interval says how the difference might come out on other text of the kind; what another seed would
change it does not say.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from alibi_lm.evaluation.rows import perplexity

PIECES = 100
DRAWS = 10_000
COVERAGE = 0.95


@dataclass(frozen=True)
class Interval:
    """A difference in nats per token, with the ends of its interval (equal to it if unknown)."""

    estimate: float
    low: float
    high: float

    @property
    def ratio(self) -> "Interval":
        """The same as a ratio of perplexities."""
        return Interval(*(perplexity(x) for x in (self.estimate, self.low, self.high)))

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


def difference(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> Interval:
    """The mean of a - b with its 95 % interval. a, b: losses of the same tokens in text order.

    Infinite if one of the two is; NaN if both are, or if a loss is NaN.
    """
    if a.shape != b.shape:
        raise ValueError(f"not the same tokens: {a.shape} and {b.shape}")
    pieces = min(PIECES, len(a))
    starts = np.arange(pieces) * len(a) // pieces
    with np.errstate(invalid="ignore"):  # inf - inf
        sums = np.add.reduceat(a - b, starts)
    sizes = np.diff(starts, append=len(a)).astype(np.float64)
    if not np.isfinite(sums).all():
        broken = float(sums.sum())
        return Interval(broken, broken, broken)
    draws = _draws(pieces)
    means = (draws @ sums) / (draws @ sizes)
    low, high = np.quantile(means, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Interval(float(sums.sum() / len(a)), float(low), float(high))


@cache
def _draws(pieces: int) -> npt.NDArray[np.float64]:
    """How often each piece is drawn, in each draw of as many pieces. (DRAWS, pieces)."""
    rng = np.random.default_rng(0)
    return rng.multinomial(pieces, np.full(pieces, 1 / pieces), size=DRAWS).astype(np.float64)
