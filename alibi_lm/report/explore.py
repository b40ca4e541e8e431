"""Curves that a reader of the page explores: Bokeh draws them, from data that the page holds.

A click on a name in the legend hides its curve, pointing at a mark tells its value, the range of
its seeds and its runs; wheel and box zoom. One figure shows all metrics of a comparison, one at a
time: its sources have a column for each, and the page's script names the column that is drawn.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from alibi_lm.report.comparisons import METRICS, Curve
from alibi_lm.report.figures import Panel, apart, drawable, label_of, line_of, shade_of
from alibi_lm.report.legend import Style, less_shared, style
from alibi_lm.report.loss_by_position import bins_to_draw

if TYPE_CHECKING:
    from bokeh.plotting import figure

# Bokeh's names of the markers and dashes of legend.py.
MARKERS = {
    "v": "inverted_triangle", "o": "circle", "s": "square", "D": "diamond", "^": "triangle",
    "P": "plus", "X": "square_x", "x": "x", "<": "star", ">": "hex", "p": "square_pin",
    "h": "circle_dot",
}  # fmt: skip
DASHES = {"-": "solid", "-.": "dashdot"}
HEIGHT = 420  # pixels of the axes
LEGEND_COLUMNS = 4


def lengths_figure(panels: Mapping[str, Panel]) -> "figure":
    """Every metric of a comparison against evaluation length; the page's script chooses one.

    panels: of each metric; what is published may compare in one metric and not in another.
    """
    metrics = [*panels]
    panel = panels[metrics[0]]
    fig = _figure(panel, panel.length_label, metrics[0])
    own = panel.styles()
    train_lengths = sorted({curve.train_length for curve in panel.curves})
    theirs: dict[tuple[str, str, int], tuple[Curve, list[str]]] = {}
    for metric, of_metric in panels.items():
        for source, curve in ((p.source, c) for p in of_metric.published for c in p.curves):
            key = (source, curve.name, curve.train_length)
            theirs.setdefault(key, (curve, []))[1].append(metric)
    for (source, _, length), (curve, shown) in theirs.items():
        data = _columns(curve, metrics, f"{curve.name} ({source})", shown)
        _draw(fig, data, metrics[0], curve, style(curve.read_as), [length])
    for curve in panel.curves:
        data = _columns(curve, metrics, label_of(curve, train_lengths), metrics)
        _draw(fig, data, metrics[0], curve, own[id(curve)], train_lengths)
    _shorten_legend(fig)
    lengths = sorted({at for curve in panel.curves for at in curve.points})
    multiples = sorted({at / c.train_length for c in panel.curves for at in c.points})
    ticks = {metric: apart(lengths, train_lengths) for metric in metrics}
    ticks["relative"] = apart([m for m in multiples if m >= 1], [1])
    fig.xaxis.ticker = ticks[metrics[0]]
    relative = "Evaluation length / training length"
    fig.tags = [
        {
            metric: {
                "x": "multiple" if metric == "relative" else "at",
                "x_label": relative if metric == "relative" else panel.length_label,
                "y_label": METRICS[metric],
                "ticks": ticks[metric],
                "tooltips": tooltips(metric),
            }
            for metric in metrics
        }
    ]
    return fig


def positions_figure(panel: Panel) -> "figure":
    """Loss against tokens of context, each curve at its longest evaluation length."""
    fig = _figure(panel, "Context (tokens)", "loss")
    own = panel.styles()
    train_lengths = sorted({curve.train_length for curve in panel.curves})
    for curve in panel.curves:
        if not (bins := bins_to_draw(curve)):
            continue
        data: dict[str, list[Any]] = {
            "at": [math.sqrt(found.context_from * found.context_to) for found in bins],
            "loss": [found.loss for found in bins],
            "where": [f"{f.context_from:,} to {f.context_to:,} tokens before it" for f in bins],
            "loss said": [f"{found.loss:.4g}" for found in bins],
            "more": [f"{found.tokens:,} tokens" for found in bins],
            "name": [label_of(curve, train_lengths)] * len(bins),
        }
        _draw(fig, data, "loss", curve, own[id(curve)], train_lengths)
    _shorten_legend(fig)
    return fig


def components(figures: dict[str, "figure"]) -> tuple[str, dict[str, str]]:
    """What the page must hold: scripts (Bokeh and the data), and a <div> for each figure."""
    from bokeh.embed import components as embedded
    from bokeh.resources import Resources

    if not figures:
        return "", {}
    library = Resources(mode="inline", components=["bokeh"]).render_js()
    script, places = embedded(figures)
    return library + script, places


def _columns(
    curve: Curve, metrics: Sequence[str], name: str, shown: Sequence[str]
) -> dict[str, list[Any]]:
    """By column, a value for each evaluation length; NaN of metrics that are not shown."""
    lengths = curve.lengths
    data: dict[str, list[Any]] = {
        "at": list(lengths),
        "multiple": [at / curve.train_length for at in lengths],
        "name": [name] * len(lengths),
        "where": [f"trained at {curve.train_length:,}, at {at:,}" for at in lengths],
        "more": [_runs(curve, at) for at in lengths],
    }
    for metric in metrics:
        means, by_seed = drawable(curve, metric) if metric in shown else {}, curve.values(metric)
        seeds = [by_seed[at] if at in means else [math.nan] for at in lengths]
        data[metric] = [means.get(at, math.nan) for at in lengths]
        data[f"{metric} low"] = [min(values) for values in seeds]
        data[f"{metric} high"] = [max(values) for values in seeds]
        data[f"{metric} said"] = [_said(values) for values in seeds]
    return data


def _said(seeds: Sequence[float]) -> str:
    mean = f"{sum(seeds) / len(seeds):.4g}"
    if len(seeds) == 1:
        return mean
    return f"{mean}, mean of {len(seeds)} seeds from {min(seeds):.4g} to {max(seeds):.4g}"


def _runs(curve: Curve, length: int) -> str:
    rows = [point.row for point in curve.points[length].values()]
    return ", ".join(row.run for row in rows if row is not None)


def _figure(panel: Panel, x_label: str, metric: str) -> "figure":
    from bokeh.models import DataRange1d, HoverTool, Legend, NumeralTickFormatter
    from bokeh.plotting import figure

    fig = figure(
        frame_height=HEIGHT,
        sizing_mode="stretch_width",
        x_axis_type="log",
        y_axis_type="log",
        x_axis_label=x_label,
        y_axis_label=METRICS[metric],
        x_range=DataRange1d(only_visible=True),
        y_range=DataRange1d(only_visible=True),
        tools="pan,wheel_zoom,box_zoom,reset,save",
    )
    fig.toolbar.logo = None
    fig.xgrid.visible, fig.axis.minor_tick_line_color = False, None
    fig.xaxis.axis_label_text_font_style = fig.yaxis.axis_label_text_font_style = "normal"
    fig.xaxis.formatter = NumeralTickFormatter(format="0,0[.]0")
    fig.yaxis.formatter = NumeralTickFormatter(format="0,0[.][0000]")
    fig.add_layout(
        Legend(ncols=LEGEND_COLUMNS, click_policy="hide", border_line_color=None), "below"
    )
    fig.add_tools(HoverTool(tooltips=tooltips(metric), renderers=[]))
    return fig


def tooltips(metric: str) -> list[tuple[str, str]]:
    """What is told of a mark; the page's script tells it of another metric in the same way."""
    return [("", "@name"), ("", f"@where: @{{{metric} said}}"), ("", "@more")]


def _draw(
    fig: "figure",
    data: dict[str, list[Any]],
    metric: str,
    curve: Curve,
    drawn_as: Style,
    train_lengths: Sequence[int],
) -> None:
    """A line with marks, and the range of its seeds as a band; the legend hides them together."""
    from bokeh.models import ColumnDataSource, HoverTool

    if not data["at"]:
        return
    as_ = replace(drawn_as, dash=line_of(curve, drawn_as))
    colour = _hex(shade_of(curve, drawn_as, train_lengths))
    shared: dict[str, Any] = {
        "source": ColumnDataSource(data),
        "color": colour,
        "legend_label": data["name"][0],
    }
    if f"{metric} low" in data and len(next(iter(curve.points.values()))) > 1:
        fig.varea("at", f"{metric} low", f"{metric} high", fill_alpha=0.15, **shared)
    dash = DASHES.get(as_.dash) if isinstance(as_.dash, str) else None
    pixels = [max(1, round(2 * length)) for length in as_.dash[1]] if dash is None else dash
    fig.line("at", metric, line_width=2, line_dash=pixels, **shared)
    marks = fig.scatter("at", metric, marker=MARKERS[as_.marker], size=8, **shared)
    (hover,) = (tool for tool in fig.tools if isinstance(tool, HoverTool))
    hover.renderers.append(marks)


def _shorten_legend(fig: "figure") -> None:
    """Leave out the settings that all curves share; the table and the tooltips have them."""
    from bokeh.core.properties import value

    items = [item for legend in fig.legend for item in legend.items]
    names, _ = less_shared([item.label.value for item in items])
    for item, name in zip(items, names, strict=True):
        item.label = value(name)


def _hex(colour: Sequence[float]) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour)
