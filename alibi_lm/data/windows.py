"""Evaluation windows: which tokens are scored, with which context. Pure arithmetic.

Targets are numbered 0 to N - 1 over the whole split. Whatever the length and stride, every target
is scored exactly once, and the last window may be shorter. The paper's nonoverlapping evaluation
(section 2.1) is the case stride = length; its sliding window is stride < length (appendix B).
"""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """Targets start to stop - 1 are predicted together; those from `scored_from` on are scored."""

    start: int
    scored_from: int
    stop: int


def windows(n_targets: int, length: int, stride: int) -> Iterator[Window]:
    """Windows of at most `length` that each score the next `stride` targets.

    The targets before them, up to length - stride, are context only. A window's first target is
    predicted from one token, the one before it in the stream.
    """
    for scored_from in range(0, n_targets, stride):
        yield Window(
            start=max(0, scored_from + stride - length),
            scored_from=scored_from,
            stop=min(scored_from + stride, n_targets),
        )
