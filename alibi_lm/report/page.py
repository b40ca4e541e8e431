"""The report as one HTML page that opens from disk, without network.

The reader chooses data, protocol and metric; every view is made beforehand, and the page's few
lines of script show one of them. Curves are Bokeh's (see explore.py), which the page holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from alibi_lm.evaluation.rows import Result
from alibi_lm.report.analysis import Analysis
from alibi_lm.report.claims import Checked, Finding
from alibi_lm.report.comparisons import (
    METRICS,
    Comparison,
    Curve,
    Study,
    several_seeds,
)
from alibi_lm.report.differences import to_the_best
from alibi_lm.report.explore import components, lengths_figure, positions_figure
from alibi_lm.report.figures import FIGURES, drawable, panel, svg
from alibi_lm.report.loss_by_position import has_positions
from alibi_lm.report.published import SOURCE, claimed_on, perplexities
from alibi_lm.report.speed import speed_note, speed_table
from alibi_lm.report.tables import Table, lengths_table, notes, paper_speeds_table, paper_table

if TYPE_CHECKING:
    from bokeh.plotting import figure
    from jinja2 import Template
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class MetricView:
    """One metric of a comparison: its table, and whether its curves can be drawn."""

    metric: str
    drawn: bool
    table: Table


@dataclass(frozen=True)
class View:
    """All that the page shows of one comparison."""

    study: str  # title
    protocol: str
    note: str
    n_seeds: str  # empty if one
    metrics: list[MetricView]
    curves: "figure | None"  # by evaluation length; None where there is nothing to draw
    positions: "figure | None"  # loss by tokens of context
    figures: list[tuple[str, str, str]]  # heading, note, drawing: those that have a heading
    differences: Table | None
    paper: Table | None
    notes: list[str]


@dataclass(frozen=True)
class ClaimView:
    """A claim as found in one study."""

    study: str
    checked: Checked
    ours: Finding


def page(analysis: Analysis, published: bool = False) -> str:
    """The whole page; published: the paper's numbers under ours, and all of them to choose."""
    groups, named = analysis.groups, analysis.titles
    views = [_view(group, groups[group], named[group.study], published) for group in groups]
    claims = [
        ClaimView(named[study], claim, ours)
        for claim in analysis.claims
        for study, ours in claim.ours.items()
    ]
    if published:
        views += _paper_views()
        claims += [ClaimView(claimed_on().title, claim, claim.paper) for claim in analysis.claims]
    figures = {f"curves{i}": view.curves for i, view in enumerate(views) if view.curves}
    figures |= {f"positions{i}": view.positions for i, view in enumerate(views) if view.positions}
    script, places = components(figures)
    return _template().render(
        views=views,
        script=script,
        places=places,
        claims=claims,
        metrics=METRICS,
        source=SOURCE,
        speeds=paper_speeds_table() if published else None,
        measured=speed_table(analysis.benchmark) if analysis.benchmark else None,
        measured_note=speed_note(analysis.benchmark) if analysis.benchmark else None,
        provenance=_provenance(groups, named, analysis.results),
    )


def _view(group: Comparison, curves: list[Curve], title: str, published: bool) -> View:
    metrics = []
    for metric in METRICS:
        drawn = any(drawable(curve, metric) for curve in curves)
        # Perplexity has a table always: it may say that memory ran out.
        if drawn or metric == "ppl" or any(curve.values(metric) for curve in curves):
            metrics.append(MetricView(metric, drawn, lengths_table(curves, metric)))
    panels = {
        view.metric: panel(group, curves, title, view.metric, published)
        for view in metrics
        if view.drawn
    }
    by_position = group.protocol.by_position and has_positions(curves)
    return View(
        study=title,
        protocol=group.label,
        note=group.protocol.note,
        n_seeds=several_seeds(curves),
        metrics=metrics,
        differences=to_the_best(curves),
        curves=lengths_figure(panels) if panels else None,
        positions=positions_figure(panel(group, curves, title, "loss", False))
        if by_position
        else None,
        figures=[
            (drawing.title, drawing.note, _inline(made))
            for drawing in FIGURES.values()
            if drawing.title
            and (made := drawing.make({group: curves}, {group.study: title}, published))
        ],
        paper=paper_table(group, curves) if published else None,
        notes=notes(curves),
    )


@cache
def _paper_views() -> list[View]:
    return [_view(g, curves, g.study.title, False) for g, curves in perplexities().items()]


def _provenance(
    groups: Mapping[Comparison, list[Curve]], named: dict[Study, str], results: Sequence[Result]
) -> list[tuple[str, str]]:
    """What the rows say of where they come from, for the foot of the page."""

    def all_of(key: str) -> str:
        values = dict.fromkeys(getattr(result.row, key) for result in results)
        return ", ".join("not known" if value is None else str(value) for value in values)

    keys = {
        "commit": "code (commit)",
        "torch": "torch",
        "device": "device",
        "dtype": "dtype",
        "backend": "attention",
        "n_parameters": "parameters",
        "train_tokens": "training tokens",
        "tokens": "tokens scored",
        "vocab_size": "vocabulary",
    }
    facts = [("rows", str(len(results)))]
    facts += [(name, all_of(key)) for key, name in keys.items()]
    studies = dict.fromkeys(group.study for group in groups)
    facts += [(f"settings of {named[study]}", study.settings) for study in studies]
    return facts


def _inline(drawn: "Figure") -> str:
    """The <svg> element without what stands before it in a file."""
    drawing = svg(drawn)
    return drawing[drawing.index("<svg") :]


@cache
def _template() -> "Template":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("alibi_lm.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")
