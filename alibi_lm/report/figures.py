"""Figures: a metric by evaluation length, and loss by position in the window.

A figure has a panel for each comparison; seeds are averaged, with their range as a band. Saved as
PNG, as PDF, and as SVG, in which every point tells its value when pointed at.
"""

import io
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alibi_lm.machine.files import write_atomically
from alibi_lm.report.comparisons import METRICS, Comparison, Curve, Study, in_order, several_seeds
from alibi_lm.report.legend import Style, family_of, less_shared, mix, style, styles
from alibi_lm.report.loss_by_position import bins_to_draw, has_positions
from alibi_lm.report.published import (
    SOURCE,
    Published,
    curves_to_compare,
    is_the_papers_data,
    scheme_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LIGHTEST = 0.55  # how white the shortest of several training lengths is drawn; the longest is full
WINDOW_LINE = (0, (1, 1.5))
CHANGED_LINE = "-."  # read in another dtype, or with other settings
PANELS_IN_A_ROW = 3
MANY = 10  # curves; of more, each family has a panel of its own
BEST = 8  # that are named among many
BACKGROUND = "0.85"  # of curves of other families
LOG_SCALE_FROM = 3.0  # ratio of largest to smallest value
End = tuple[float, str, tuple[float, ...]]  # a curve's last value, its name and its shade
PANEL = (6.4, 4.0)  # inches; higher where the names of many curves need it
AROUND = 0.95  # inches of a panel's height for its title and what stands below its axes
LINE_OF_TEXT = 0.17  # inches
HEADING = 80  # letters of a heading in a line, which then fits its panel
TICK_GAP = 0.1  # of an axis, between two values that are both named
NEAR = 1.9  # ratio of lengths whose labels would cover each other


@dataclass(frozen=True)
class Panel:
    """One set of axes: what is compared, published curves to lay under it, others in grey."""

    heading: str
    curves: Sequence[Curve]
    published: Sequence[Published] = field(default=())
    length_label: str = ""
    others: Sequence[Curve] = field(default=())
    named: int | None = None  # the best so many are; None for all

    def styles(self) -> dict[int, Style]:
        """By id, how each curve is drawn, the same in all panels of a comparison."""
        everything = in_order([*self.curves, *self.others])
        keys = {id(curve): (curve.read_as, _changed(curve)) for curve in everything}
        found = styles(keys.values())
        return {id(curve): found[keys[id(curve)]] for curve in everything}


def _changed(curve: Curve) -> str:
    window = f"window={curve.window}" if curve.window else ""
    return " ".join(filter(None, (curve.variant, window, curve.changes)))


def panel(
    group: Comparison, curves: Sequence[Curve], title: str, metric: str, published: bool
) -> Panel:
    """The panel of a comparison; `published`: with published curves where they compare.

    Relative to the training length they always do, as plain numbers only on the paper's own text.
    """
    found = curves_to_compare(group, curves) if published and metric != "bpb" else []
    if metric != "relative":
        same_text = is_the_papers_data(group.study)
        found = [theirs for theirs in found if same_text and theirs.source == SOURCE]
    return Panel(f"{title}, {group.label}", curves, found, group.protocol.axis)


def panels_of(whole: Panel) -> list[Panel]:
    """The panel; of many curves also one for each family."""
    if len(whole.curves) <= MANY:
        return [whole]
    families: dict[str, list[Curve]] = {}
    for curve in whole.curves:
        families.setdefault(family_of(curve.read_as), []).append(curve)
    panels = [replace(whole, heading=f"{whole.heading}: the best {BEST} are named", named=BEST)]
    for family, members in families.items():
        schemes = {scheme_of(curve) for curve in members}
        published = [
            Published(theirs.source, found)
            for theirs in whole.published
            if (found := [curve for curve in theirs.curves if scheme_of(curve) in schemes])
        ]
        others = [curve for curve in whole.curves if family_of(curve.read_as) != family]
        panels.append(
            replace(
                whole,
                heading=family or "of your own",
                curves=members,
                published=published,
                others=others,
            )
        )
    return panels


def lengths_figure(panels: Sequence[Panel], metric: str) -> "Figure":
    """A metric against evaluation length."""
    drawn, in_a_row = _by_family(panels)
    fig, all_axes = _grid(drawn, in_a_row)
    for axes, panel in zip(all_axes, drawn, strict=True):
        _draw_lengths(axes, panel, metric)
    return fig


def _by_family(panels: Sequence[Panel]) -> tuple[list[Panel], int]:
    """All panels with those of families, and how many stand in a row."""
    several = [panels_of(panel) for panel in panels]
    split = any(len(of_one) > 1 for of_one in several)
    return [p for of_one in several for p in of_one], 2 if split else PANELS_IN_A_ROW


def positions_figure(panels: Sequence[Panel]) -> "Figure":
    """Loss against tokens of context, each curve at its longest evaluation length."""
    drawn, in_a_row = _by_family(panels)
    fig, all_axes = _grid(drawn, in_a_row)
    for axes, panel in zip(all_axes, drawn, strict=True):
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


@figure()
def loss_by_position(groups: Groups, titles: Titles, published: bool) -> "Figure | None":
    """Loss by tokens of context."""
    panels = [
        panel(group, curves, titles[group.study], "loss", published)
        for group, curves in groups.items()
        if group.protocol.by_position and has_positions(curves)
    ]
    return positions_figure(panels) if panels else None


def save(fig: "Figure", path: Path) -> list[Path]:
    """Write PATH.png, PATH.svg and PATH.pdf; returns their paths."""
    image, paper = io.BytesIO(), io.BytesIO()
    fig.savefig(image, format="png", dpi=200)
    fig.savefig(paper, format="pdf", metadata={"CreationDate": None})
    contents: dict[str, bytes | str] = {
        ".png": image.getvalue(),
        ".svg": svg(fig),
        ".pdf": paper.getvalue(),
    }
    for suffix, content in contents.items():
        write_atomically(path.with_suffix(suffix), content)
    return [path.with_suffix(suffix) for suffix in contents]


def svg(fig: "Figure") -> str:
    """The figure as SVG: text stays text, and what is marked as a tip becomes one."""
    from matplotlib import rc_context

    text = io.StringIO()
    salt = " ".join(axes.get_title(loc="left") + axes.get_ylabel() for axes in fig.axes)
    # A page holds many figures; the salt keeps their inner names apart and the file reproducible.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        fig.savefig(text, format="svg", metadata={"Date": None})
    return re.sub(r'<g id="tip:([^"]*?)( #\d+)?">', r"<g><title>\1</title>", text.getvalue())


def _grid(panels: Sequence[Panel], in_a_row: int = PANELS_IN_A_ROW) -> "tuple[Figure, list[Axes]]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_panels = len(panels)
    n_columns = min(n_panels, in_a_row)
    n_rows = -(-n_panels // n_columns)
    names = max(panel.named or len(panel.curves) for panel in panels) + 1
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
    for curve in panel.others:
        means = drawable(curve, metric)
        unit = curve.train_length if relative else 1
        drawn += means.values()
        axes.plot(
            [at / unit for at in means],
            list(means.values()),
            color=BACKGROUND,
            linewidth=0.8,
            zorder=1,
        )
    everything = {at for curve in [*panel.curves, *panel.others] for at in curve.points}
    own_styles = panel.styles()
    theirs = [curve for published in panel.published for curve in published.curves]
    for curve in [*theirs, *panel.curves]:
        ours = id(curve) in own_styles
        means = drawable(curve, metric)
        if not means:
            continue
        unit = curve.train_length if relative else 1
        if ours:
            drawn += means.values()
        x = [at / unit for at in means]
        drawn_as = own_styles[id(curve)] if ours else style(curve.read_as)
        shade = shade_of(curve, drawn_as, train_lengths if ours else [curve.train_length])
        axes.plot(
            x,
            list(means.values()),
            color=shade,
            marker=drawn_as.marker if ours else None,
            linestyle=line_of(curve, drawn_as),
            markersize=5,
            linewidth=1.6 if ours else 0.8,
            alpha=1.0 if ours else 0.6,
        )
        if ours:
            seeds = [curve.values(metric)[at] for at in means]
            low, high = [min(s) for s in seeds], [max(s) for s in seeds]
            axes.fill_between(x, low, high, color=shade, alpha=0.18, linewidth=0)
            label = label_of(curve, train_lengths)
            # Of many, those that end earlier are not among the best.
            if panel.named is None or max(means) == max(everything):
                ends.append((list(means.values())[-1], label, shade))
        source = "" if ours else "published: "
        for at, y in means.items() if panel.named is None else ():
            tip = f"{source}{curve.name}, L = {curve.train_length}, at {at:,}: {y:.4g}"
            _tip(axes, at / unit, y, tip)
    lengths = sorted(everything)
    axes.set_xscale("log", base=2)
    if relative:
        curves = [*panel.curves, *panel.others]
        multiples = sorted({at / c.train_length for c in curves for at in c.points})
        shown = apart([multiple for multiple in multiples if multiple >= 1])
        axes.set_xticks(shown, [f"{multiple:.3g}" for multiple in shown])
        axes.axhline(1, color="0.6", linewidth=0.8, zorder=0)
        axes.set_xlabel("Evaluation length / training length")
    else:
        ticks = apart(lengths, train_lengths)
        axes.set_xticks(ticks, [f"{length:,}" for length in ticks])
        _mark_training(axes, train_lengths, lengths[-1])
        axes.set_xlabel(panel.length_label)
    axes.minorticks_off()
    _scale_values(axes, drawn)
    if theirs and drawn:  # published curves may leave the panel, ours do not
        least, most = min(drawn), max(drawn)
        margin = (most / least) ** 0.3 * 1.02
        axes.set_ylim(least / margin, most * margin)
    axes.set_ylabel(METRICS[metric])
    _finish(axes, panel, sorted(ends)[: panel.named], "mean and range")


def _draw_positions(axes: "Axes", panel: Panel) -> None:
    ends: list[End] = []
    shown = set()
    train_lengths = sorted({curve.train_length for curve in panel.curves})
    own_styles = panel.styles()
    for curve in panel.others:
        bins = bins_to_draw(curve)
        x = [math.sqrt(found.context_from * found.context_to) for found in bins]
        y = [found.loss for found in bins]
        axes.plot(x, y, color=BACKGROUND, linewidth=0.8, zorder=1)
    for curve in panel.curves:
        if not (bins := bins_to_draw(curve)):
            continue
        shown.add(curve.lengths[-1])
        x = [math.sqrt(found.context_from * found.context_to) for found in bins]
        y = [found.loss for found in bins]
        drawn_as = own_styles[id(curve)]
        shade = shade_of(curve, drawn_as, train_lengths)
        axes.plot(
            x,
            y,
            color=shade,
            linestyle=line_of(curve, drawn_as),
            marker=drawn_as.marker,
            markersize=3.5,
            linewidth=1.4,
        )
        ends.append((y[-1], label_of(curve, train_lengths), shade))
        for found, place in zip(bins, x, strict=True) if panel.named is None else ():
            tip = f"{curve.name}, {found.context_from:,} to {found.context_to:,} tokens of context"
            _tip(axes, place, found.loss, f"{tip}: {found.loss:.3f} ({found.tokens:,} tokens)")
    axes.set_xscale("log", base=2)
    longest = max(shown, default=1)
    ticks = [2**i for i in range(0, int(math.log2(longest)) + 1, 2)]
    axes.set_xticks(ticks, [f"{context:,}" for context in ticks])
    axes.minorticks_off()
    _mark_training(axes, train_lengths, longest)
    at = " and ".join(f"{length:,}" for length in sorted(shown))
    axes.set_xlabel(f"Context (tokens) in windows of {at}")
    axes.set_ylabel("Loss (nats per token)")
    _finish(axes, panel, sorted(ends)[: panel.named], "mean")


def drawable(curve: Curve, metric: str) -> dict[int, float]:
    """By evaluation length, the means that can be drawn; relative ones from the training length."""
    return {
        at: y
        for at, y in curve.means(metric).items()
        if math.isfinite(y) and (metric != "relative" or at >= curve.train_length)
    }


def shade_of(curve: Curve, drawn_as: Style, train_lengths: Sequence[int]) -> tuple[float, ...]:
    """The scheme's colour, lighter for shorter training lengths where there are several."""
    n_longer = len(train_lengths) - 1 - train_lengths.index(curve.train_length)
    white = LIGHTEST * n_longer / max(len(train_lengths) - 1, 1)
    return mix(drawn_as.colour, white)


def line_of(curve: Curve, drawn_as: Style) -> Any:
    """Dotted in a window, dash-dotted where something else was changed for the evaluation."""
    if curve.window:
        return WINDOW_LINE
    return CHANGED_LINE if curve.changes else drawn_as.dash


def label_of(curve: Curve, train_lengths: Sequence[int]) -> str:
    """The curve's name, with its training length where there are several."""
    several = len(train_lengths) > 1
    return f"{curve.name}, L = {curve.train_length:,}" if several else curve.name


def _tip(axes: "Axes", x: float, y: float, text: str) -> None:
    """An unseen disc that tells `text` in the SVG; the number keeps equal texts apart."""
    number = len(axes.lines)
    axes.plot([x], [y], "o", markersize=9, alpha=0, gid=f"tip:{text} #{number}")


def apart(values: Sequence[float], first: Sequence[float] = ()) -> list[float]:
    """The values that can be named along a logarithmic axis without covering each other.

    `first` go before others, then the ends, then the rest from the left.
    """
    if not values:
        return []
    gap = TICK_GAP * max(math.log2(values[-1] / values[0]), 1.0)
    kept: list[float] = []
    for value in [*(v for v in first if v in values), values[0], values[-1], *values]:
        if all(abs(math.log2(value / other)) >= gap for other in kept):
            kept.append(value)
    return sorted(kept)


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
    names, shared = less_shared([name for _, name, _ in ends])
    ends = [(y, name, shade) for (y, _, shade), name in zip(ends, names, strict=True)]
    heading = textwrap.fill(", ".join([panel.heading, *shared]) + seeds, HEADING)
    if panel.published:
        sources = (f"{p.source}, L = {p.curves[0].train_length:,}" for p in panel.published)
        heading += "\nthin lines: " + ";\n".join(sources)
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
    panel_height = axes.figure.get_figheight() / axes.get_gridspec().nrows  # type: ignore[union-attr]
    line = LINE_OF_TEXT / (panel_height - AROUND)
    places: list[float] = []
    for height, _, _ in placed:
        places.append(max(height, places[-1] + line) if places else height)
    highest = 1.0
    for number in reversed(range(len(places))):  # down again, where they would leave the panel
        places[number] = min(places[number], highest)
        highest = places[number] - line
    for place, (_, label, shade) in zip(places, placed, strict=True):
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
