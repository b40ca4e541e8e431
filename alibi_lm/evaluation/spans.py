"""Evaluation windows: which tokens are scored, with which context. Pure arithmetic, no torch.

Targets are numbered 0 to N - 1 over the whole split. A window's first target is predicted from one
token, the one before it in the stream, so the context of a target is 1 + (its number - the number
of the window's first target) tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# same_targets draws from the later part of the split, so that any context up to the earlier part
# can stand before any target: the set never depends on which contexts are asked for.
EARLIEST_TARGET = 0.5
TARGETS_SEED = 0


@dataclass(frozen=True)
class Window:
    """Targets start to stop - 1 are predicted together; those from `scored_from` on are scored."""

    start: int
    scored_from: int
    stop: int


def sliding(n_targets: int, length: int, stride: int) -> Iterator[Window]:
    """Windows of at most `length` that each score the next `stride` targets, so each target once.

    The targets before them, up to length - stride, are context only; the last window may be
    shorter. The paper's sliding window (appendix B); its nonoverlapping evaluation (section 2.1)
    is the case stride = length.
    """
    for scored_from in range(0, n_targets, stride):
        yield Window(
            start=max(0, scored_from + stride - length),
            scored_from=scored_from,
            stop=min(scored_from + stride, n_targets),
        )


def same_targets(n_targets: int, context: int, sample: int) -> Iterator[Window]:
    """One window for each of `sample` targets: the target and exactly `context` tokens before it.

    After Kazemnejad et al. (2023). The targets are the same for every context, in the order of the
    text; a smaller sample is a part of a larger one.
    """
    earliest = first_sampled(n_targets)
    drawn = np.random.default_rng(TARGETS_SEED).permutation(np.arange(earliest, n_targets))
    for target in sorted(drawn[:sample].tolist()):
        yield Window(start=target + 1 - context, scored_from=target, stop=target + 1)


def first_sampled(n_targets: int) -> int:
    """The first target that `same_targets` may draw; no context may be longer than its number."""
    return int(n_targets * EARLIEST_TARGET)
