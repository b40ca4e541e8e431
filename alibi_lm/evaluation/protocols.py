"""Evaluation protocols: which tokens are scored with how much context, and how it is written down.

* `nonoverlapping`, the paper's default (section 2.1): blocks of the length, every token once.
* `sliding` with stride S (appendix B): every token once, with at least length - S tokens of context
  but at the text's start.
* `same_targets` (after Kazemnejad et al. 2023): a fixed sample of targets, each with exactly
  `length` tokens of context. Nonoverlapping evaluation improves with length because fewer tokens
  have little context; this protocol leaves that out.

Each may be combined with a window on attention: no query sees more than the last w keys, in any
layer. That is the baseline for whoever claims to gain from attending further. What lies further
back can still arrive through the layers below, from n_layers (w - 1) tokens away; `same_targets`
with w tokens of context is the model that knows no more than w tokens. No torch here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alibi_lm.evaluation.spans import Window, first_sampled, same_targets, sliding

PROTOCOLS = ("nonoverlapping", "sliding", "same_targets")


@dataclass(frozen=True)
class Protocol:
    """One way to score a split; a run has at most one result for each."""

    name: str
    length: int  # of the windows; same_targets: tokens of context
    split: str
    stride: int | None = None  # new tokens per window; None for same_targets
    sample: int | None = None  # same_targets: how many targets
    window: int | None = None  # keys that a query sees at most; None: all before it

    @property
    def label(self) -> str:
        """All of it in one word, as files are named."""
        return "-".join([self.split, self._kind, str(self.length), *self._window])

    @property
    def curve(self) -> str:
        """All but the length: what is one curve over lengths."""
        return "-".join([self.split, self._kind, *self._window])

    @property
    def _kind(self) -> str:
        kind = {"sliding": f"sliding{self.stride}", "same_targets": f"same_targets{self.sample}"}
        return kind.get(self.name, self.name)

    @property
    def _window(self) -> list[str]:
        return [f"window{self.window}"] if self.window else []

    def windows(self, n_targets: int) -> Iterator[Window]:
        """The windows over a split of that many targets."""
        if self.sample is not None:
            return same_targets(n_targets, self.length, self.sample)
        return sliding(n_targets, self.length, self.stride or self.length)

    def scores(self, n_targets: int) -> int:
        """How many targets are scored: all of the split's, or the sample."""
        return self.sample if self.sample is not None else n_targets

    def reads(self, n_targets: int) -> int:
        """How many tokens are read for it, some at the ends of the text less."""
        n_windows = self.sample or -(-n_targets // (self.stride or self.length))
        return n_windows * self.length

    def contexts(self, n_targets: int) -> npt.NDArray[np.int64]:
        """The tokens of context of each scored target, in the order of the losses."""
        return np.concatenate(
            [
                np.arange(window.scored_from, window.stop) - window.start + 1
                for window in self.windows(n_targets)
            ]
        )

    def problem(self, n_targets: int) -> str | None:
        """Why a split of that many tokens cannot be scored so, as `... given, but ...`."""
        if self.sample is None:
            if self.length > n_targets:
                return (
                    f"evaluation.lengths: given {self.length}, but the {self.split} split has "
                    f"{n_targets} tokens"
                )
            return None
        earliest = first_sampled(n_targets)
        if self.length > earliest:
            return (
                f"evaluation.lengths: given {self.length}, but same_targets draws from the later "
                f"half of the {self.split} split and leaves {earliest} tokens of context"
            )
        if self.sample > n_targets - earliest:
            return (
                f"evaluation.targets: given {self.sample}, but same_targets can draw "
                f"{n_targets - earliest} from the {self.split} split"
            )
        return None
