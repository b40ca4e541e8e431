"""Protocols: which tokens of a split are scored, with how much context.

* `nonoverlapping`, the paper's default (section 2.1): blocks of the length, every token once.
* `sliding` with stride S (appendix B): every token once, with at least length - S tokens of
  context, except at the start of the text.
* `same_targets` (after Kazemnejad et al. 2023): a fixed sample of targets, each with exactly
  `length` tokens of context. Nonoverlapping evaluation improves with length because fewer tokens
  have little context; this protocol removes that effect.

A protocol is a class, found by its registered name. Each may be combined with a window on
attention: no query sees more than the last w keys, in any layer. That is the baseline for a claim
to gain from attending further. Tokens further back can still have an effect through the layers
below, up to n_layers (w - 1) tokens away; `same_targets` with w tokens of context is the model that
knows no more than w tokens. No torch here.
"""

import hashlib
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from alibi_lm.data.corpus import SPLITS
from alibi_lm.errors import UserError
from alibi_lm.evaluation.spans import Spans, first_sampled, same_targets, sliding
from alibi_lm.machine.names import DTYPES
from alibi_lm.settings import missing, setting, unknown

ATTENTION = ("full", "window")
BOS = ("none", "start", "window")
LONGEST_NAME = 100  # letters of changes that stand in a file's name as they are
PROTOCOLS: dict[str, "type[Protocol]"] = {}


@dataclass
class EvaluationConfig:
    """Which lengths are evaluated, on what, and how."""

    protocols: list[str] = setting(
        ["nonoverlapping"], "which tokens are scored with how much context"
    )
    lengths: list[int] = setting(
        [64, 128, 256, 512, 1024],
        "evaluation lengths (L_valid in the paper); same_targets: tokens of context",
        at_least=1,
    )
    lengths_past_training: list[int] = setting(
        [], "extra lengths, given as tokens past train_length", at_least=0
    )
    skip_shorter: bool = setting(False, "leave out lengths that are shorter than train_length")
    stride: int | None = setting(None, "sliding: new tokens per window", at_least=1)
    targets: int = setting(256, "same_targets: how many are drawn", at_least=1)
    attention: list[str] = setting(
        ["full"], "window: a query sees only the last keys, a baseline", choices=ATTENTION
    )
    window: int | None = setting(
        None, "keys that a query sees with attention=[window]; null: train_length", at_least=1
    )
    position: Any = setting(
        None,
        "read the weights by other settings: {scaling:yarn,factor:4}, or a list; {}: as trained",
    )
    bos: str | None = setting(
        None,
        "beginning-of-text token of pretrained models: none, in place of the token before the text "
        "(start) or before every window; null: as the run says",
        choices=BOS,
    )
    split: str = setting("validation", "split that is scored", choices=SPLITS)
    batch_tokens: int = setting(8192, "tokens per forward pass, at least one window", at_least=1)
    dtype: str | None = setting(None, "null: as in training", choices=DTYPES)

    def problems(self) -> list[str]:
        """There must be something to measure, and every setting must have an effect."""
        examples = {"protocols": "[sliding]", "attention": "[full,window]"}
        problems = missing(self, examples, "evaluation.")
        if not self.lengths_past_training:
            problems += missing(self, {"lengths": "[64,128]"}, "evaluation.")
        for name in self.protocols:
            if name in PROTOCOLS:
                problems += PROTOCOLS[name].problems(self)
            else:
                problems.append(
                    f"evaluation.protocols: given {name!r}, but it must be one of "
                    + ", ".join(PROTOCOLS)
                )
        if self.stride is not None and not any(
            PROTOCOLS[name].takes_stride for name in self.protocols if name in PROTOCOLS
        ):
            problems.append(
                f"evaluation.stride: given {self.stride}, but only sliding has a stride; add "
                "evaluation.protocols=[sliding]"
            )
        if self.window is not None and "window" not in self.attention:
            problems.append(
                f"evaluation.window: given {self.window}, but evaluation.attention is "
                f"[{','.join(self.attention)}]; add evaluation.attention=[window]"
            )
        return problems

    def lengths_of(self, train_length: int) -> list[int]:
        """The lengths at which a model trained at that length is evaluated, each once."""
        past = (train_length + more for more in self.lengths_past_training)
        wanted = dict.fromkeys([*self.lengths, *past])
        return [n for n in wanted if n >= train_length or not self.skip_shorter]

    def length_problems(self, train_length: int) -> list[str]:
        """Lengths must be left for a model trained at that length, and the protocols fit them."""
        if lengths := self.lengths_of(train_length):
            protocols = (PROTOCOLS[name] for name in self.protocols)
            return [line for p in protocols for line in p.length_problems(self, lengths)]
        return [
            f"evaluation.lengths: given {self.lengths}, but with evaluation.skip_shorter=true none "
            f"is at least train_length = {train_length}"
        ]


def register(name: str) -> "Callable[[type[Protocol]], type[Protocol]]":
    """Register a protocol's class under the name that settings and rows call it by."""

    def keep(protocol: "type[Protocol]") -> "type[Protocol]":
        protocol.name = name
        PROTOCOLS[name] = protocol
        return protocol

    return keep


@dataclass(frozen=True)
class Protocol:
    """One way to score a split; a subclass says at least which spans it scores."""

    length: int  # of the spans, at most; same_targets: tokens of context
    stride: int | None = None  # new tokens per span
    sample: int | None = None  # how many targets are drawn; None: all are scored
    bos: str = "none"  # where a beginning-of-text token stands, one of BOS

    name: ClassVar[str]
    takes_stride: ClassVar[bool] = False  # whether evaluation.stride is for it
    # Whether every target is scored, with different amounts of context.
    by_position: ClassVar[bool] = True
    axis: ClassVar[str] = "Evaluation length (tokens)"
    scores: ClassVar[str] = ""  # what it scores, with {stride} and {sample}

    @classmethod
    def of(cls, settings: EvaluationConfig, length: int) -> "Protocol":
        """The protocol at a length, as the settings want it."""
        return cls(length)

    @classmethod
    def problems(cls, settings: EvaluationConfig) -> list[str]:
        """A line for each setting that the protocol lacks or cannot take."""
        return []

    @classmethod
    def length_problems(cls, settings: EvaluationConfig, lengths: list[int]) -> list[str]:
        """A line for each setting that does not fit the lengths at which a model is evaluated."""
        return []

    @property
    def label(self) -> str:
        """The protocol in one word, without its length."""
        bos = "" if self.bos == "none" else f"-bos_{self.bos}"
        return f"{self.name}{(self.stride if self.takes_stride else self.sample) or ''}{bos}"

    @property
    def words(self) -> str:
        """The protocol as figures and tables name it."""
        words = [self.name]
        words += [f"stride {self.stride}"] if self.takes_stride else []
        words += [f"{self.sample} targets"] if self.sample else []
        words += {"none": [], "start": ["BOS first"], "window": ["BOS in every window"]}[self.bos]
        return ", ".join(words)

    @property
    def note(self) -> str:
        """What the protocol scores, for readers of a table."""
        return self.scores.format(stride=self.stride, sample=self.sample)

    def at_any_length(self) -> "Protocol":
        """The protocol less its length: equal for all points of one curve."""
        return replace(self, length=0)

    def spans(self, n_targets: int) -> Spans:
        """The spans over a split of that many targets."""
        raise NotImplementedError

    def n_scored(self, n_targets: int) -> int:
        """How many targets are scored."""
        return self.sample or n_targets

    def n_read(self, n_targets: int) -> int:
        """About how many tokens are read, for progress and plans."""
        return -(-self.n_scored(n_targets) // (self.stride or 1)) * self.length

    def contexts(self, n_targets: int) -> npt.NDArray[np.int64]:
        """The tokens of context of each scored target, in the order of the losses."""
        start, scored_from, stop = self.spans(n_targets).T
        counts = stop - scored_from
        before = counts.cumsum() - counts  # targets that earlier spans scored
        targets = np.arange(counts.sum()) + np.repeat(scored_from - before, counts)
        contexts: npt.NDArray[np.int64] = targets - np.repeat(start, counts) + 1
        return contexts

    def unfit(self, n_targets: int, split: str) -> str | None:
        """Why a split of that many tokens cannot be scored, as `... given, but ...`."""
        if self.length > n_targets:
            return (
                f"evaluation.lengths: given {self.length}, but the {split} split has {n_targets} "
                "tokens"
            )
        return None


@register("nonoverlapping")
class Nonoverlapping(Protocol):
    """Blocks of the length, every token once; the last block may be shorter."""

    scores = "every token once, in blocks of the evaluation length"

    @classmethod
    def of(cls, settings: EvaluationConfig, length: int) -> Protocol:
        """Every token of a block is new."""
        return cls(length, stride=length)

    def at_any_length(self) -> Protocol:
        """The stride is the length, and goes with it."""
        return Nonoverlapping(0, bos=self.bos)

    def spans(self, n_targets: int) -> Spans:
        """Sliding with the length as stride, to the last digit."""
        return sliding(n_targets, self.length, self.length)


@register("sliding")
class Sliding(Protocol):
    """Windows that overlap: every token once, with almost the whole length as context."""

    takes_stride = True
    scores = "every token once, {stride} new per window"

    @classmethod
    def of(cls, settings: EvaluationConfig, length: int) -> Protocol:
        """With evaluation.stride."""
        return cls(length, stride=settings.stride)

    @classmethod
    def problems(cls, settings: EvaluationConfig) -> list[str]:
        """It must have a stride."""
        if settings.stride is None:
            return [
                "evaluation.stride: not given; evaluation.protocols has sliding, which needs the "
                "new tokens per window, e.g. evaluation.stride=16"
            ]
        return []

    @classmethod
    def length_problems(cls, settings: EvaluationConfig, lengths: list[int]) -> list[str]:
        """Tokens between windows would not be scored."""
        if settings.stride is None or settings.stride <= min(lengths):
            return []
        return [
            f"evaluation.stride: given {settings.stride}, but it must be at most the shortest of "
            f"the evaluation lengths, {lengths}"
        ]

    def spans(self, n_targets: int) -> Spans:
        """The next `stride` tokens in each window."""
        assert self.stride is not None
        return sliding(n_targets, self.length, self.stride)


@register("same_targets")
class SameTargets(Protocol):
    """The same targets at every length, each with exactly that much context."""

    by_position = False
    axis = "Context (tokens)"
    scores = "the same {sample} tokens at every length, each with exactly that much context"

    @classmethod
    def of(cls, settings: EvaluationConfig, length: int) -> Protocol:
        """With evaluation.targets."""
        return cls(length, sample=settings.targets)

    def spans(self, n_targets: int) -> Spans:
        """One for each target."""
        assert self.sample is not None
        return same_targets(n_targets, self.length, self.sample)

    def unfit(self, n_targets: int, split: str) -> str | None:
        """Enough context must stand before the first target that may be drawn."""
        assert self.sample is not None
        earliest = first_sampled(n_targets)
        if self.length > earliest:
            return (
                f"evaluation.lengths: given {self.length}, but same_targets draws from the later "
                f"half of the {split} split and leaves {earliest} tokens of context"
            )
        if self.sample > n_targets - earliest:
            return (
                f"evaluation.targets: given {self.sample}, but same_targets can draw "
                f"{n_targets - earliest} from the {split} split"
            )
        return None


@dataclass(frozen=True)
class Measurement:
    """What is measured of a run: the key of a row. A run has one result for each."""

    protocol: Protocol
    split: str
    text: str  # hash of the text that is scored
    dtype: str
    window: int | None = None  # keys that a query sees at most; None: all before it
    changes: str = ""  # settings changed for this evaluation alone, as `key=value ...`

    @property
    def curve(self) -> str:
        """Everything but the length and the text: one curve over lengths."""
        words = [self.split, self.protocol.label]
        words += [f"window{self.window}"] if self.window else []
        words += [self.dtype] if self.dtype != "float32" else []
        changes = self.changes
        if len(changes) > LONGEST_NAME or re.search(r"[^\w=. +-]", changes):  # no file's name
            changes = hashlib.sha256(changes.encode()).hexdigest()[:8]
        return "-".join([*words, *changes.split()])

    @property
    def label(self) -> str:
        """The name of the file with its token losses, without the ending."""
        return f"{self.curve}-{self.protocol.length}-{self.text[:8]}"


def measurements(
    settings: EvaluationConfig,
    train_length: int,
    text: str,
    dtype: str,
    changes: str = "",
    bos: str = "none",
) -> list[Measurement]:
    """Every measurement that the settings ask for of a model trained at that length, each once."""
    windows = {"full": None, "window": settings.window or train_length}
    wanted = (
        Measurement(
            replace(PROTOCOLS[name].of(settings, length), bos=bos),
            settings.split,
            text,
            dtype,
            windows[attention],
            changes,
        )
        for name, attention, length in itertools.product(
            settings.protocols, settings.attention, settings.lengths_of(train_length)
        )
    )
    return list(dict.fromkeys(wanted))


def protocol_named(name: str, **values: Any) -> Protocol:
    """The protocol of a row; a UserError if no protocol of that name is registered."""
    if name not in PROTOCOLS:
        raise UserError(unknown("protocol", name, list(PROTOCOLS)))
    return PROTOCOLS[name](**values)
