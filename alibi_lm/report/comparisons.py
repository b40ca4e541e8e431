"""Which results may be compared, as curves by evaluation length.

A study is one text, one tokenizer and one recipe; within it, results of one protocol are comparable
if they differ only in scheme, training length, seed, evaluation length, and in what was changed for
the evaluation (window, dtype, other settings). Two runs are never merged into one point.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from alibi_lm.errors import UserError
from alibi_lm.evaluation.protocols import Protocol
from alibi_lm.evaluation.rows import COMPLETE, Result, Row
from alibi_lm.report.legend import in_legend_order, variant_title

METRICS = {
    "ppl": "Perplexity per token",
    "word_ppl": "Perplexity per word",
    "bpb": "Bits per byte",
    "loss": "Loss (nats per token)",
    "relative": "Perplexity / perplexity at the training length",
}


@dataclass(frozen=True)
class Study:
    """What comparable results have in common, whatever the protocol."""

    dataset: str
    split: str
    tokenizer: str
    settings: str
    recipe: str  # stands for the settings and the text that was trained on
    text: str = ""  # hash of the text that was read

    @property
    def title(self) -> str:
        """For headings, where no other study bears the same."""
        return f"{self.dataset} {self.split}, {self.tokenizer} tokens"


@dataclass(frozen=True)
class Comparison:
    """A study under one protocol."""

    study: Study
    protocol: Protocol  # at any length

    @property
    def label(self) -> str:
        """The protocol in words."""
        return self.protocol.words


@dataclass(frozen=True)
class Point:
    """What one model scored at one length."""

    metrics: dict[str, float]
    result: Result | None = None  # None for numbers that were not measured here

    @property
    def row(self) -> Row | None:
        """The row of results that it comes from."""
        return self.result.row if self.result else None

    def losses(self) -> npt.NDArray[np.float64] | None:
        """The loss of each token, if it was kept."""
        return self.result.losses() if self.result else None


@dataclass(frozen=True)
class Curve:
    """One scheme at one training length: by evaluation length and seed, what was scored."""

    position: str
    train_length: int
    variant: str = ""  # the scheme's settings that are not its defaults
    window: int | None = None  # keys that a query saw at most
    changes: str = ""  # what else was changed for the evaluation alone, unless for all
    points: dict[int, dict[int, Point]] = field(default_factory=dict)
    unscored: dict[int, Row] = field(default_factory=dict)  # lengths at which nothing was scored

    @property
    def scheme(self) -> str:
        """The scheme's word with everything that is not the default."""
        window = f"window={self.window}" if self.window else ""
        return " ".join(filter(None, (self.position, self.variant, window, self.changes)))

    @property
    def name(self) -> str:
        """The scheme's name for readers."""
        scheme = variant_title(self.position, self.variant)
        window = f"window {self.window}" if self.window else ""
        words = self.changes.split()
        others = " ".join(word for word in words if not word.startswith("position"))
        as_read = [word.removeprefix("position.") for word in words if word.startswith("position")]
        read = " ".join(["read", *as_read]).replace("position=", "as ") if as_read else ""
        return ", ".join(filter(None, (scheme, window, others, read)))

    @property
    def read_as(self) -> str:
        """The scheme that the weights were read by: that which was trained, unless changed."""
        words = (word for word in self.changes.split() if word.startswith("position="))
        return next(words, self.position).removeprefix("position=")

    @property
    def is_plain(self) -> bool:
        """Whether it is the scheme as it is by default, evaluated as the others are."""
        return not (self.window or self.variant or self.changes)

    @property
    def lengths(self) -> list[int]:
        """The evaluation lengths with results, ascending."""
        return sorted(self.points)

    def values(self, metric: str) -> dict[int, list[float]]:
        """By evaluation length, the metric of each seed that has it."""
        values = {}
        for length in self.lengths:
            by_seed = self.points[length]
            if metric == "relative":
                base = self.points.get(self.train_length, {})
                both = [seed for seed in by_seed if seed in base]
                found = [by_seed[s].metrics["ppl"] / base[s].metrics["ppl"] for s in both]
            else:
                found = [p.metrics[metric] for p in by_seed.values() if metric in p.metrics]
            if found:
                values[length] = found
        return values

    def means(self, metric: str) -> dict[int, float]:
        """By evaluation length, the mean of the metric over seeds."""
        return {at: sum(seeds) / len(seeds) for at, seeds in self.values(metric).items()}

    def losses(self, length: int, seeds: Sequence[int]) -> npt.NDArray[np.float64] | None:
        """The loss of each token, averaged over these seeds; None if any's were not kept."""
        found = [self.points[length][seed].losses() for seed in seeds]
        kept = [losses for losses in found if losses is not None]
        if len(kept) < len(found):
            return None
        mean: npt.NDArray[np.float64] = np.stack(kept).mean(axis=0)
        return mean


def comparisons(results: Iterable[Result]) -> dict[Comparison, list[Curve]]:
    """The results in comparable groups, in the order of their first appearance."""
    groups: dict[Comparison, list[Result]] = {}
    for result in results:
        groups.setdefault(_group(result.row), []).append(result)
    return {group: in_order(_curves(found)) for group, found in groups.items()}


def _curves(results: Sequence[Result]) -> Iterable[Curve]:
    """The curves of one comparison."""
    changes = [_changes(result.row) for result in results]
    # What was changed for all tells nothing apart; but for how weights were read, which makes
    # another model of them.
    for_all = {w for w in set.intersection(*map(set, changes)) if not w.startswith("position")}
    curves: dict[tuple[object, ...], Curve] = {}
    for result, changed in zip(results, changes, strict=True):
        row, own = result.row, " ".join(word for word in changed if word not in for_all)
        key = (row.position, row.train_length, row.variant, row.window, own)
        curve = curves.setdefault(key, Curve(*key))
        if row.status != COMPLETE:
            curve.unscored[row.eval_length] = row
            continue
        found = ((name, getattr(row, name, None)) for name in METRICS)
        metrics = {name: float(value) for name, value in found if value is not None}
        seeds = curve.points.setdefault(row.eval_length, {})
        if row.seed in seeds:
            _check_same_run(seeds[row.seed].row, row)
        seeds[row.seed] = Point(metrics, result)
    return curves.values()


def _group(row: Row) -> Comparison:
    settings = row.settings
    study = Study(row.dataset, row.split, row.tokenizer, settings, row.recipe, row.data_hash)
    return Comparison(study, row.measurement.protocol.at_any_length())


def _changes(row: Row) -> list[str]:
    """What was changed for the evaluation: the dtype, if it is not that of training, and more."""
    given = [word for word in row.settings.split() if word.startswith("dtype=")]
    trained = given[0].removeprefix("dtype=") if given else "float32"
    return [row.dtype] * (row.dtype != trained) + row.changes.split()


def _check_same_run(there: Row | None, row: Row) -> None:
    """A later row of the same run replaces an earlier one; that of another run must not."""
    if there is None or (there.identity or there.run) == (row.identity or row.run):
        return
    raise UserError(
        f"the runs {there.run} and {row.run} differ, but their rows do not say in what, and fall "
        f"on one point ({row.position}, L = {row.train_length}, seed {row.seed}, "
        f"{row.measurement.label}); report on one of them at a time"
    )


def in_order(curves: Iterable[Curve]) -> list[Curve]:
    """In the order of the legend, then by training length, what was changed last."""
    curves = list(curves)
    order = in_legend_order([*{curve.position for curve in curves}])

    def place(curve: Curve) -> tuple[object, ...]:
        changed = (curve.window or 0, curve.changes)
        return (order.index(curve.position), curve.variant, curve.train_length, *changed)

    return sorted(curves, key=place)


def titles(studies: Iterable[Study]) -> dict[Study, str]:
    """The title of each study, with the settings that differ where titles alone are shared."""
    studies = list(dict.fromkeys(studies))
    shared = Counter(study.title for study in studies)
    named = {}
    for study in studies:
        same = [other for other in studies if other.title == study.title]
        named[study] = study.title
        if shared[study.title] > 1:
            mine = study.settings.split()
            differ = [w for w in mine if not all(w in o.settings.split() for o in same)]
            keys = {w.partition("=")[0]: None for o in same for w in o.settings.split()}
            absent = [k for k in keys if not any(w.startswith(k + "=") for w in mine)]
            default = f"default {', '.join(absent)}" if absent else ""
            tokens = "tokenizer" if all(other.text == study.text for other in same) else "text"
            named[study] += ", " + (" ".join(differ) or default or f"another {tokens}")
    # What settings do not tell apart, a hash does: that of the recipe, or of the text.
    for of in ("recipe", "text"):
        again = Counter(named.values())
        told = {study: f"{name}, {getattr(study, of)[:8]}" for study, name in named.items()}
        named = {s: name if again[name] == 1 else told[s] for s, name in named.items()}
    return named


def several_seeds(curves: Sequence[Curve]) -> str:
    """How many seeds stand behind the points, as `3` or `1 to 3`; empty if no more than one."""
    counts = {len(seeds) for curve in curves for seeds in curve.points.values()} or {0}
    if max(counts) <= 1:
        return ""
    return f"{min(counts)} to {max(counts)}" if len(counts) > 1 else str(min(counts))
