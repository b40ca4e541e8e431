"""Spans of text: which tokens are scored, with which context. Pure arithmetic, no torch.

Targets are numbered 0 to N - 1 over the whole split. A span is three numbers: targets `start` to
`stop` - 1 are predicted together, and those from `scored_from` on are scored. A span's first target
is predicted from one token, the one before it in the stream, so the context of a target is
1 + (its number - start) tokens.
"""

import numpy as np
import numpy.typing as npt

Spans = npt.NDArray[np.int64]  # (number of spans, 3): start, scored_from, stop

# same_targets draws from the later part of the split, so that any context up to the earlier part
# can stand before any target: the set never depends on which contexts are asked for.
EARLIEST_TARGET = 0.5
TARGETS_SEED = 0


def sliding(n_targets: int, length: int, stride: int) -> Spans:
    """Spans of at most `length` that each score the next `stride` targets, so each target once.

    The targets before them, up to length - stride, are context only; the last span may be
    shorter. The paper's sliding window (appendix B); its nonoverlapping evaluation (section 2.1)
    is the case stride = length.
    """
    scored_from = np.arange(0, n_targets, stride)
    start = np.maximum(0, scored_from + stride - length)
    return np.stack([start, scored_from, np.minimum(scored_from + stride, n_targets)], axis=1)


def same_targets(n_targets: int, context: int, sample: int) -> Spans:
    """One span for each of `sample` targets: the target and exactly `context` tokens before it.

    After Kazemnejad et al. (2023). The targets are the same for every context, in the order of the
    text; a smaller sample is part of a larger one.
    """
    earliest = first_sampled(n_targets)
    drawn = np.random.default_rng(TARGETS_SEED).permutation(np.arange(earliest, n_targets))
    target = np.sort(drawn[:sample])
    return np.stack([target + 1 - context, target, target + 1], axis=1)


def first_sampled(n_targets: int) -> int:
    """The first target that `same_targets` may draw; no context may be longer than its number."""
    return int(n_targets * EARLIEST_TARGET)
