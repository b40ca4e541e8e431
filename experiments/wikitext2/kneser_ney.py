"""Perplexity of an interpolated modified Kneser-Ney model on the tokens that the runs read.

  python experiments/wikitext2/kneser_ney.py data=wikitext2 data.path=FOLDER tokenizer=words

Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling" (1999), section
3: three discounts for each order, from the counts of counts; each order is interpolated with the
next lower one, which counts how many words an n-gram follows; the lowest with the uniform
distribution. A split is one stream, as the runs read it: n-grams cross the ends of lines.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from alibi_lm.cli import command
from alibi_lm.config import Config
from alibi_lm.data.tokens import prepare
from alibi_lm.machine.progress import say

ORDER = 5
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Grams:
    """The n-grams of one order. An n-gram is known by its number, in the order of its key."""

    keys: Ints  # (n-grams,) number of the first n - 1 words x vocabulary + last word, ascending
    counts: Ints  # (n-grams,) how often it occurs; of lower orders, after how many words
    vocab_size: int

    def find(self, before: Ints, last: Ints) -> Ints:
        """The numbers of n-grams by their first n - 1 words and their last; -1 if there is none."""
        keys = before * self.vocab_size + last
        at = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return np.where((before >= 0) & (self.keys[at] == keys), at, -1)


def count(stream: Ints, vocab_size: int) -> list[Grams]:
    """The n-grams of orders 1 to ORDER."""
    grams: list[Grams] = []
    numbers = [np.zeros(len(stream) + 1, np.int64)]  # of the n-gram that begins at each place
    for order in range(1, ORDER + 1):
        words = stream[order - 1 :]
        keys = numbers[-1][: len(words)] * vocab_size + words
        unique, first, inverse, counts = np.unique(keys, True, True, True)
        if order > 1:  # what the lower order counts: words before it
            fewer = numbers[-1][first + 1]
            after = np.bincount(fewer, minlength=len(grams[-1].keys))
            grams[-1] = Grams(grams[-1].keys, after, vocab_size)
        grams.append(Grams(unique, counts, vocab_size))
        numbers.append(inverse)
    return grams


def probabilities(grams: list[Grams], stream: Ints) -> npt.NDArray[np.float64]:
    """The probability of each token of a stream but its first."""
    targets = stream[1:]
    p = np.full(len(targets), 1 / grams[0].vocab_size)
    for order, level in enumerate(grams, start=1):
        # Of the n - 1 words before each target; at the stream's start there are fewer.
        history = np.zeros(len(targets), np.int64)
        for back, lower in zip(range(order - 1, 0, -1), grams, strict=False):
            word = np.concatenate([np.full(back - 1, -1), stream])[: len(targets)]
            history = np.where(word >= 0, lower.find(history, word), -1)
        found = level.find(history, targets)
        of_counts = np.bincount(level.counts, minlength=5)[1:5]
        step = of_counts[0] / (of_counts[0] + 2 * of_counts[1])
        ratios = of_counts[1:] / of_counts[:3]
        discounts = np.array([0.0, *(n - (n + 1) * step * ratios[n - 1] for n in (1, 2, 3))])
        discount = discounts[level.counts.clip(max=3)]
        before = level.keys // level.vocab_size
        size = int(before.max()) + 1
        totals = np.bincount(before, level.counts, size)
        freed = np.bincount(before, discount, size)
        counted = np.where(found >= 0, (level.counts - discount)[found], 0.0).clip(min=0.0)
        known = (history >= 0) & (history < size)
        known &= totals[np.where(known, history, 0)] > 0
        of = history[known]
        p[known] = counted[known] / totals[of] + freed[of] / totals[of] * p[known]
    return p


def show(config: Config) -> None:
    """Count the training split, score the others."""
    data = prepare(config.data, config.tokenizer, Path(config.cache))
    grams = count(data.split("train").stream.astype(np.int64), data.vocab_size)
    for name, split in data.splits.items():
        if name != "train":
            p = probabilities(grams, split.stream.astype(np.int64))
            ppl = float(np.exp(-np.log(p).mean()))
            say(f"{name}: {len(p):,} tokens, perplexity {ppl:.2f}")


if __name__ == "__main__":
    command(__doc__, Config, show)
