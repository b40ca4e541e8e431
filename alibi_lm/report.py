"""From rows to a table and a figure. Reads rows and nothing else; needs no torch.

Rows are comparable when they differ only in positional scheme, training length, seed and
evaluation length. A table or panel shows one such group; seeds are averaged (the mean perplexity,
with the range over seeds as a band).
"""

import io
import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alibi_lm.errors import UserError
from alibi_lm.files import write_atomically
from alibi_lm.results import Row, write_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Field names, and colours that colour-blind readers tell apart (Okabe and Ito).
NAMES = {
    "none": "NoPE",
    "sinusoidal": "Sinusoidal",
    "rotary": "Rotary",
    "t5": "T5 bias",
    "alibi": "ALiBi",
}
COLOURS = {
    "none": "#777777",
    "sinusoidal": "#D55E00",
    "rotary": "#E69F00",
    "t5": "#009E73",
    "alibi": "#0072B2",
}
SPARE_COLOURS = ("#CC79A7", "#000000", "#8C564B", "#7B4FB5")
MARKERS = {"none": "v", "sinusoidal": "o", "rotary": "s", "t5": "D", "alibi": "^"}
LINE_STYLES = ("-", "--", ":", "-.")
PANELS_IN_A_ROW = 3
LOG_SCALE_FROM = 3.0  # ratio of largest to smallest perplexity


@dataclass(frozen=True)
class Comparison:
    """What a group of comparable rows has in common."""

    dataset: str
    split: str
    tokenizer: str
    protocol: str
    recipe: str  # stands for all other settings, the text included

    @property
    def title(self) -> str:
        """For headings."""
        return f"{self.dataset} {self.split}, {self.tokenizer} tokens, {self.protocol}"


@dataclass(frozen=True)
class Curve:
    """One scheme at one training length: by evaluation length, the perplexities of its seeds."""

    position: str
    train_length: int
    points: dict[int, list[float]]

    @property
    def label(self) -> str:
        """The scheme's name and, as the paper writes it, the training length."""
        return f"{NAMES.get(self.position, self.position)}, L = {self.train_length}"

    @property
    def means(self) -> dict[int, float]:
        """By evaluation length, the mean perplexity over seeds."""
        return {length: sum(seeds) / len(seeds) for length, seeds in self.points.items()}


def comparisons(rows: Sequence[Row]) -> dict[Comparison, list[Curve]]:
    """The rows in comparable groups, each as curves in the order of their first appearance."""
    points: dict[Comparison, dict[tuple[str, int], dict[int, dict[int, float]]]] = {}
    for row in rows:
        sliding = f"sliding, stride {row.stride}"
        group = Comparison(
            row.dataset,
            row.split,
            row.tokenizer,
            "nonoverlapping" if row.protocol == "nonoverlapping" else sliding,
            row.recipe,
        )
        curves = points.setdefault(group, {})
        curve = curves.setdefault((row.position, row.train_length), defaultdict(dict))
        curve[row.eval_length][row.seed] = row.ppl  # a later row replaces an earlier one
    return {
        group: [
            Curve(position, length, {at: [*by_length[at].values()] for at in sorted(by_length)})
            for (position, length), by_length in curves.items()
        ]
        for group, curves in points.items()
    }


def table(rows: Sequence[Row]) -> str:
    """Perplexity per token, schemes by lengths, in Markdown; a table for each comparison."""
    groups = comparisons(rows)
    return "\n\n".join(
        f"Perplexity per token; {heading}{_seeds_note(groups[group])}\n\n{_table(groups[group])}"
        for group, heading in headings(groups).items()
    )


def headings(groups: Iterable[Comparison]) -> dict[Comparison, str]:
    """The title of each comparison, with its recipe where titles alone do not tell them apart."""
    shared = Counter(group.title for group in groups)
    return {
        group: group.title + (f", recipe {group.recipe}" if shared[group.title] > 1 else "")
        for group in groups
    }


def _seeds_note(curves: list[Curve]) -> str:
    n_seeds = _count_seeds(curves)
    return f"; mean of {n_seeds} seeds ± half their range" if n_seeds != "1" else ""


def _count_seeds(curves: list[Curve]) -> str:
    counts = {len(seeds) for curve in curves for seeds in curve.points.values()}
    return f"{min(counts)} to {max(counts)}" if len(counts) > 1 else str(min(counts))


def _table(curves: list[Curve]) -> str:
    lengths = sorted({length for curve in curves for length in curve.points})
    head = ["position", "L", *map(str, lengths)]
    body = [
        [curve.position, str(curve.train_length), *(_cell(curve, length) for length in lengths)]
        for curve in curves
    ]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]

    def line(cells: list[str]) -> str:
        first, *rest = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *rest]) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(head), line(rule), *map(line, body)])


def _cell(curve: Curve, length: int) -> str:
    if length not in curve.points:
        return "-"
    seeds, mean = curve.points[length], curve.means[length]
    spread = f" ± {_number((max(seeds) - min(seeds)) / 2)}" if len(seeds) > 1 else ""
    return _number(mean) + spread


def _number(x: float) -> str:
    return f"{x:.2f}" if x < 1e5 else f"{x:.2e}"


def figure(rows: Sequence[Row], path: Path) -> None:
    """Perplexity against evaluation length, a panel for each comparison, saved at `path`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = comparisons(rows)
    n_columns = min(len(groups), PANELS_IN_A_ROW)
    n_rows = -(-len(groups) // n_columns)
    fig = Figure(figsize=(6.0 * n_columns, 3.8 * n_rows), layout="constrained")
    FigureCanvasAgg(fig)
    panels = fig.subplots(n_rows, n_columns, squeeze=False).flatten()
    for axes, (group, heading) in zip(panels, headings(groups).items(), strict=False):
        _panel(axes, heading, groups[group])
    for axes in panels[len(groups) :]:
        axes.set_visible(False)
    image = io.BytesIO()
    fig.savefig(image, format=path.suffix[1:], dpi=200)
    write_atomically(path, image.getvalue())


def _colour(position: str) -> str:
    """The scheme's colour; one that is not listed keeps the same spare colour everywhere."""
    spare = SPARE_COLOURS[zlib.crc32(position.encode()) % len(SPARE_COLOURS)]
    return COLOURS.get(position, spare)


def _panel(axes: "Axes", heading: str, curves: list[Curve]) -> None:
    train_lengths = sorted({curve.train_length for curve in curves})
    lengths = sorted({length for curve in curves for length in curve.points})
    n_seeds = _count_seeds(curves)
    for curve in curves:
        x = list(curve.points)
        axes.plot(
            x,
            list(curve.means.values()),
            color=_colour(curve.position),
            marker=MARKERS.get(curve.position, "x"),
            linestyle=LINE_STYLES[train_lengths.index(curve.train_length) % len(LINE_STYLES)],
            markersize=5,
            linewidth=1.6,
        )
        low = [min(seeds) for seeds in curve.points.values()]
        high = [max(seeds) for seeds in curve.points.values()]
        axes.fill_between(x, low, high, color=_colour(curve.position), alpha=0.18, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.minorticks_off()
    _scale_perplexity(axes, curves)
    for length in train_lengths:
        axes.axvline(length, color="0.6", linestyle=(0, (2, 2)), linewidth=1, zorder=0)
        axes.annotate(
            f"trained at {length}",
            (length, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(4, -2),
            textcoords="offset points",
            color="0.4",
            fontsize=8,
            va="top",
        )
    seeds_note = f"; mean and range of {n_seeds} seeds" if n_seeds != "1" else ""
    axes.set_title(heading + seeds_note, fontsize=9, color="0.3")
    axes.set_xlabel("Evaluation length (tokens)")
    axes.set_ylabel("Perplexity per token")
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    _name_curves(axes, curves, with_length=len(train_lengths) > 1)


def _name_curves(axes: "Axes", curves: list[Curve], with_length: bool) -> None:
    """Write each curve's name at its right end, moved apart where ends lie close."""
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]  # settles the limits
    to_axes = axes.transData + axes.transAxes.inverted()
    gap = 0.062  # of the axes' height: a line of text
    ends = []
    for curve in curves:
        finite = [point for point in curve.means.items() if math.isfinite(point[1])]
        if finite:
            ends.append((float(to_axes.transform(finite[-1])[1]), curve))
    place = -math.inf
    for height, curve in sorted(ends, key=lambda end: end[0]):
        place = max(height, place + gap)
        axes.annotate(
            curve.label if with_length else NAMES.get(curve.position, curve.position),
            (1.01, place),
            xycoords="axes fraction",
            color=_colour(curve.position),
            va="center",
            annotation_clip=False,
        )


def _scale_perplexity(axes: "Axes", curves: list[Curve]) -> None:
    """Logarithmic where the curves part by more than a small factor, with plain numbers on it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    values = [p for curve in curves for seeds in curve.points.values() for p in seeds]
    finite = [value for value in values if math.isfinite(value)]
    if not finite or max(finite) / min(finite) < LOG_SCALE_FROM:
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def write_report(rows: Sequence[Row], folder: Path) -> list[Path]:
    """results.csv, table.md and extrapolation.png in the folder; returns their paths."""
    if not rows:
        raise UserError("there are no rows to report on")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("results.csv", "table.md", "extrapolation.png")]
    write_csv(paths[0], rows)
    write_atomically(paths[1], table(rows) + "\n")
    figure(rows, paths[2])
    return paths
