"""Training batches as a pure function of (seed, step).

The training stream is cut into blocks of train_length tokens, as fairseq does it for the paper
(`sample-break-mode none`); a remainder shorter than a block is left out. Each epoch visits every
block once in a new order. Nothing is remembered between steps, so any step can be asked for first.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from alibi_lm.data.tokens import Split
from alibi_lm.errors import UserError


class Batches:
    """Batches of `sequences` blocks of `length` tokens."""

    def __init__(self, split: Split, length: int, sequences: int, seed: int) -> None:
        self.stream = split.stream
        self.length = length
        self.sequences = sequences
        self.seed = seed
        self.n_blocks = split.tokens // length
        if self.n_blocks == 0:
            raise UserError(
                f"train_length: given {length}, but the training split has {split.tokens} tokens"
            )

    def __getitem__(self, step: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Inputs and targets of an optimizer step, counted from 0. (B, T), (B, T)."""
        starts = np.array(self.blocks(step))[:, None] * self.length
        rows = self.stream[starts + np.arange(self.length + 1)].astype(np.int64)
        return rows[:, :-1], rows[:, 1:]

    def blocks(self, step: int) -> list[int]:
        """The B blocks of an optimizer step; block b starts at token b * length of the stream."""
        places = range(step * self.sequences, (step + 1) * self.sequences)
        return [
            int(_order(self.seed, place // self.n_blocks, self.n_blocks)[place % self.n_blocks])
            for place in places
        ]


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, n_blocks: int) -> npt.NDArray[np.int64]:
    """The order in which an epoch visits the blocks."""
    return np.random.default_rng((seed, epoch)).permutation(n_blocks)
