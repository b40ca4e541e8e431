"""Figures: a metric by evaluation length, and loss by position in the window.

A figure has a panel for each comparison; seeds are averaged, with their range as a band. Saved as
PNG and as SVG, in which every point tells its value when pointed at.
"""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alibi_lm.machine.files import write_atomically
from alibi_lm.report.comparisons import METRICS, Comparison, Curve, Study, several_seeds
from alibi_lm.report.legend import mix, style
from alibi_lm.report.loss_by_position import bins_to_draw, has_positions
from alibi_lm.report.published import SOURCE, curves_to_compare, is_the_papers_data

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LIGHTEST = 0.55  # how white the shortest of several training lengths is drawn; the longest is full
WINDOW_LINE = (0, (1, 1.5))
CHANGED_LINE = "-."  # read in another dtype, or with other settings
PANELS_IN_A_ROW = 3
LOG_SCALE_FROM = 3.0  # ratio of largest to smallest value
End = tuple[float, str, tuple[float, ...]]  # a curve's last value, its name and its shade
PANEL = (6.4, 4.0)  # inches; higher where the names of many curves need it
AROUND = 0.95  # inches of a panel's height for its title and what stands below its axes
LINE_OF_TEXT = 0.17  # inches
NEAR = 1.9  # ratio of lengths whose labels would cover each other


@dataclass(frozen=True)
class Panel:
    """One set of axes: what is compared, and the paper's curves to lay under it."""

    heading: str
    curves: Sequence[Curve]
    paper: Sequence[Curve] = field(default=())
    length_label: str = ""


def panel(
    group: Comparison, curves: Sequence[Curve], title: str, metric: str, published: bool
) -> Panel:
    """The panel of a comparison; `published`: with the paper's curves where they compare.

    Relative to the training length they always do, as plain numbers only on the paper's own text.
    """
    comparable = metric == "relative" or (metric != "bpb" and is_the_papers_data(group.study))
    paper = curves_to_compare(group, curves) if published and comparable else []
    return Panel(f"{title}, {group.label}", curves, paper, group.protocol.axis)


def lengths_figure(panels: Sequence[Panel], metric: str) -> "Figure":
    """A metric against evaluation length."""
    fig, all_axes = _grid(panels)
    for axes, panel in zip(all_axes, panels, strict=True):
        _draw_lengths(axes, panel, metric)
    return fig


def positions_figure(panels: Sequence[Panel]) -> "Figure":
    """Loss against tokens of context, each curve at its longest evaluation length."""
    fig, all_axes = _grid(panels)
    for axes, panel in zip(all_axes, panels, strict=True):
        _draw_positions(axes, panel)
    return fig


@dataclass(frozen=True)
class Drawing:
    """A figure of a report. One with a title also stands under each view of the page."""

    make: "Callable[[Groups, Titles, bool], Figure | None]"
    title: str
    note: str


Groups = Mapping[Comparison, list[Curve]]
Titles = Mapping[Study, str]
FIGURES: dict[str, Drawing] = {}  # by file name


def figure(title: str = "", note: str = "") -> Callable[[Any], Any]:
    """Register a function of (groups, titles, published) that draws a figure, or None."""

    def keep(make: Any) -> Any:
        FIGURES[make.__name__] = Drawing(make, title, note)
        return make

    return keep


def _of_metric(
    groups: Groups, titles: Titles, published: bool, metric: str, by_position: bool
) -> "Figure | None":
    """A metric of all groups that have it, under protocols with or without loss by position."""
    panels = [
        panel(group, curves, titles[group.study], metric, published)
        for group, curves in groups.items()
        if group.protocol.by_position == by_position
        and any(drawable(curve, metric) for curve in curves)
    ]
    return lengths_figure(panels, metric) if panels else None


@figure()
def extrapolation(groups: Groups, titles: Titles, published: bool) -> "Figure | None":
    """Perplexity by evaluation length."""
    return _of_metric(groups, titles, published, "ppl", by_position=True)


@figure()
def relative(groups: Groups, titles: Titles, published: bool) -> "Figure | None":
    """Perplexity relative to that at the training length."""
    return _of_metric(groups, titles, published, "relative", by_position=True)


@figure()
def same_targets(groups: Groups, titles: Titles, published: bool) -> "Figure | None":
    """Perplexity of the same targets by tokens of context."""
    return _of_metric(groups, titles, published, "ppl", by_position=False)


@figure(
    "Loss by position",
    "The loss of a token by how many tokens of context it had, in windows of the longest "
    "evaluation length.",
)
def loss_by_position(groups: Groups, titles: Titles, published: bool) -> "Figure | None":
    """Loss by tokens of context."""
    panels = [
        panel(group, curves, titles[group.study], "loss", published)
        for group, curves in groups.items()
        if group.protocol.by_position and has_positions(curves)
    ]
    return positions_figure(panels) if panels else None


def save(fig: "Figure", path: Path) -> list[Path]:
    """Write PATH.png and PATH.svg; returns their paths."""
    image = io.BytesIO()
    fig.savefig(image, format="png", dpi=200)
    png, vector = path.with_suffix(".png"), path.with_suffix(".svg")
    write_atomically(png, image.getvalue())
    write_atomically(vector, svg(fig))
    return [png, vector]


def svg(fig: "Figure") -> str:
    """The figure as SVG: text stays text, and what is marked as a tip becomes one."""
    from matplotlib import rc_context

    text = io.StringIO()
    salt = " ".join(axes.get_title(loc="left") + axes.get_ylabel() for axes in fig.axes)
    # A page holds many figures; the salt keeps their inner names apart and the file reproducible.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        fig.savefig(text, format="svg", metadata={"Date": None})
    return re.sub(r'<g id="tip:([^"]*?)( #\d+)?">', r"<g><title>\1</title>", text.getvalue())


def _grid(panels: Sequence[Panel]) -> "tuple[Figure, list[Axes]]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_panels = len(panels)
    n_columns = min(n_panels, PANELS_IN_A_ROW)
    n_rows = -(-n_panels // n_columns)
    names = max(len(panel.curves) for panel in panels) + 1
    width, height = PANEL[0], max(PANEL[1], AROUND + names * LINE_OF_TEXT)
    fig = Figure(figsize=(width * n_columns, height * n_rows), layout="constrained")
    FigureCanvasAgg(fig)
    all_axes = list(fig.subplots(n_rows, n_columns, squeeze=False).flatten())
    for axes in all_axes[n_panels:]:
        axes.set_visible(False)
    return fig, all_axes[:n_panels]


def _draw_lengths(axes: "Axes", panel: Panel, metric: str) -> None:
    relative = metric == "relative"
    train_lengths = sorted({curve.train_length for curve in panel.curves})
    ends: list[End] = []
    drawn: list[float] = []
    for curve in [*panel.paper, *panel.curves]:
        ours = curve in panel.curves
        means = drawable(curve, metric)
        if not means:
            continue
        unit = curve.train_length if relative else 1
        drawn += means.values()
        x = [at / unit for at in means]
        shade = _shade(curve, train_lengths if ours else [curve.train_length])
        axes.plot(
            x,
            list(means.values()),
            color=shade,
            marker=style(curve.position).marker if ours else None,
            linestyle=_line(curve),
            markersize=5,
            linewidth=1.6 if ours else 0.8,
            alpha=1.0 if ours else 0.6,
        )
        if ours:
            seeds = [curve.values(metric)[at] for at in means]
            low, high = [min(s) for s in seeds], [max(s) for s in seeds]
            axes.fill_between(x, low, high, color=shade, alpha=0.18, linewidth=0)
            label = _label(curve, train_lengths)
            ends.append((list(means.values())[-1], label, shade))
        source = "" if ours else "paper: "
        for at, y in means.items():
            tip = f"{source}{curve.name}, L = {curve.train_length}, at {at:,}: {y:.4g}"
            _tip(axes, at / unit, y, tip)
    lengths = sorted({at for curve in panel.curves for at in curve.points})
    axes.set_xscale("log", base=2)
    if relative:
        multiples = sorted({at / c.train_length for c in panel.curves for at in c.points})
        shown = [multiple for multiple in multiples if multiple >= 1]
        axes.set_xticks(shown, [f"{multiple:g}" for multiple in shown])
        axes.axhline(1, color="0.6", linewidth=0.8, zorder=0)
        axes.set_xlabel("Evaluation length / training length")
    else:
        _length_ticks(axes, lengths)
        _mark_training(axes, train_lengths, lengths[-1])
        axes.set_xlabel(panel.length_label)
    axes.minorticks_off()
    _scale_values(axes, drawn)
    axes.set_ylabel(METRICS[metric])
    _finish(axes, panel, ends, "mean and range")


def _draw_positions(axes: "Axes", panel: Panel) -> None:
    ends: list[End] = []
    shown = set()
    train_lengths = sorted({curve.train_length for curve in panel.curves})
    for curve in panel.curves:
        if not (bins := bins_to_draw(curve)):
            continue
        shown.add(curve.lengths[-1])
        x = [math.sqrt(found.context_from * found.context_to) for found in bins]
        y = [found.loss for found in bins]
        axes.plot(
            x,
            y,
            color=_shade(curve, train_lengths),
            linestyle=_line(curve),
            marker=style(curve.position).marker,
            markersize=3.5,
            linewidth=1.4,
        )
        ends.append((y[-1], _label(curve, train_lengths), _shade(curve, train_lengths)))
        for found, place in zip(bins, x, strict=True):
            tip = f"{curve.name}, {found.context_from:,} to {found.context_to:,} tokens of context"
            _tip(axes, place, found.loss, f"{tip}: {found.loss:.3f} ({found.tokens:,} tokens)")
    axes.set_xscale("log", base=2)
    longest = max(shown, default=1)
    _length_ticks(axes, [2**i for i in range(0, int(math.log2(longest)) + 1, 2)])
    axes.minorticks_off()
    _mark_training(axes, train_lengths, longest)
    at = " and ".join(f"{length:,}" for length in sorted(shown))
    axes.set_xlabel(f"Context (tokens) in windows of {at}")
    axes.set_ylabel("Loss (nats per token)")
    _finish(axes, panel, ends, "mean")


def drawable(curve: Curve, metric: str) -> dict[int, float]:
    """By evaluation length, the means that can be drawn; relative ones from the training length."""
    return {
        at: y
        for at, y in curve.means(metric).items()
        if math.isfinite(y) and (metric != "relative" or at >= curve.train_length)
    }


def _shade(curve: Curve, train_lengths: Sequence[int]) -> tuple[float, ...]:
    """The scheme's colour, lighter for shorter training lengths where there are several."""
    n_longer = len(train_lengths) - 1 - train_lengths.index(curve.train_length)
    white = LIGHTEST * n_longer / max(len(train_lengths) - 1, 1)
    return mix(style(curve.position).colour, white)


def _line(curve: Curve) -> Any:
    """Dotted in a window, dash-dotted where something else was changed for the evaluation."""
    if curve.window:
        return WINDOW_LINE
    return CHANGED_LINE if curve.changes else style(curve.position).dash


def _label(curve: Curve, train_lengths: Sequence[int]) -> str:
    several = len(train_lengths) > 1
    return f"{curve.name}, L = {curve.train_length:,}" if several else curve.name


def _tip(axes: "Axes", x: float, y: float, text: str) -> None:
    """An unseen disc that tells `text` in the SVG; the number keeps equal texts apart."""
    number = len(axes.lines)
    axes.plot([x], [y], "o", markersize=9, alpha=0, gid=f"tip:{text} #{number}")


def _length_ticks(axes: "Axes", lengths: Sequence[int]) -> None:
    """A tick for each length, or for powers of two where lengths are many."""
    if len(lengths) > 9:
        first, last = math.log2(lengths[0]), math.log2(lengths[-1])
        lengths = [2**i for i in range(math.ceil(first), math.floor(last) + 1)]
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])


def _mark_training(axes: "Axes", train_lengths: Sequence[int], longest: int) -> None:
    several, named = len(train_lengths) > 1, 0.0
    for length in train_lengths:
        axes.axvline(length, color="0.6", linestyle=(0, (2, 2)), linewidth=1, zorder=0)
        side = -1 if length >= longest else 1  # right of the axes stand the names of the curves
        if length < named * (NEAR if side == 1 else 2 * NEAR):
            continue
        named = length
        axes.annotate(
            f"L = {length:,}" if several else f"trained at {length:,}",
            (length, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3 * side, -2),
            ha="left" if side == 1 else "right",
            textcoords="offset points",
            color="0.4",
            fontsize=8,
            va="top",
        )


def _finish(axes: "Axes", panel: Panel, ends: list[End], shown: str) -> None:
    """The heading (what is shown of several seeds), the grid, the names of the curves."""
    n_seeds = several_seeds(panel.curves)
    seeds = f"; {shown} of {n_seeds} seeds" if n_seeds else ""
    heading = panel.heading + seeds
    if panel.paper:
        at = panel.paper[0].train_length
        heading += f"\nthin lines: {SOURCE}, WikiText-103, L = {at:,}"
    # Names are the user's: a dollar sign does not start a formula.
    axes.set_title(heading, fontsize=9, color="0.3", loc="left", parse_math=False)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    _name_curves(axes, ends)


def _name_curves(axes: "Axes", ends: list[End]) -> None:
    """Write each curve's name at its right end, moved apart where ends lie close."""
    axes.autoscale_view()  # settles the limits
    to_axes = axes.transScale + axes.transLimits
    x = axes.get_xlim()[1]
    placed = sorted((float(to_axes.transform((x, y))[1]), label, shade) for y, label, shade in ends)
    place = -math.inf
    panel_height = axes.figure.get_figheight() / axes.get_gridspec().nrows  # type: ignore[union-attr]
    line = LINE_OF_TEXT / (panel_height - AROUND)
    for height, label, shade in placed:
        place = max(height, place + line)
        axes.annotate(
            label,
            (1.01, place),
            xycoords="axes fraction",
            color=shade,
            fontsize=9,
            va="center",
            annotation_clip=False,
            parse_math=False,
        )


def _scale_values(axes: "Axes", values: list[float]) -> None:
    """Logarithmic where values part by more than a small factor, with plain numbers on it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if not values or min(values) <= 0 or max(values) / min(values) < LOG_SCALE_FROM:
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
