"""The report as one HTML page that opens from disk, without network.

The reader chooses data, protocol and metric; every view is drawn beforehand, and the page's few
lines of script show one of them. Without script, all are shown.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from alibi_lm.evaluation.rows import Result, csv_text
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
from alibi_lm.report.figures import BEST, FIGURES, MANY, drawable, lengths_figure, panel, svg
from alibi_lm.report.published import SOURCE, claimed_on, perplexities
from alibi_lm.report.speed import speed_note, speed_table
from alibi_lm.report.tables import Table, lengths_table, notes, paper_speeds_table, paper_table

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.figure import Figure


BY_FAMILY = ("ppl", "relative")  # metrics whose curves have a panel for each family, if many


@dataclass(frozen=True)
class MetricView:
    """One metric of a comparison: the figure and the table."""

    metric: str
    svg: str | None  # None where there is nothing to draw
    table: Table


@dataclass(frozen=True)
class View:
    """All that the page shows of one comparison."""

    study: str  # title
    protocol: str
    note: str
    n_seeds: str  # empty if one
    metrics: list[MetricView]
    differences: Table | None
    figures: list[tuple[str, str, str]]  # heading, note, drawing
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
    rows = [result.row for result in analysis.results]
    return _template().render(
        views=views,
        claims=claims,
        metrics=METRICS,
        source=SOURCE,
        speeds=paper_speeds_table() if published else None,
        measured=speed_table(analysis.benchmark) if analysis.benchmark else None,
        measured_note=speed_note(analysis.benchmark) if analysis.benchmark else None,
        downloads={
            "results.csv": _data(csv_text(rows)),
            "loss_by_position.csv": _data(analysis.positions_csv),
            "differences.csv": _data(analysis.differences_csv),
        },
        provenance=_provenance(groups, named, analysis.results),
    )


def _view(group: Comparison, curves: list[Curve], title: str, published: bool) -> View:
    metrics = []
    for metric in METRICS:
        drawn = None
        if any(drawable(curve, metric) for curve in curves):
            whole = panel(group, curves, title, metric, published)
            if metric not in BY_FAMILY and len(curves) > MANY:
                whole = replace(
                    whole, named=BEST
                )  # its families would make the page twice as large
            drawn = lengths_figure([whole], metric)
        # Perplexity has a table always: it may say that memory ran out.
        if drawn or metric == "ppl" or any(curve.values(metric) for curve in curves):
            drawing = _inline(drawn) if drawn else None
            metrics.append(MetricView(metric, drawing, lengths_table(curves, metric)))
    one = {group: curves}
    return View(
        study=title,
        protocol=group.label,
        note=group.protocol.note,
        n_seeds=several_seeds(curves),
        metrics=metrics,
        differences=to_the_best(curves),
        figures=[
            (figure.title, figure.note, _inline(drawn))
            for figure in FIGURES.values()
            if figure.title and (drawn := figure.make(one, {group.study: title}, published))
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
        values = dict.fromkeys(str(getattr(result.row, key)) for result in results)
        return ", ".join(values)

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


def _inline(figure: "Figure") -> str:
    """The <svg> element without what stands before it in a file."""
    drawing = svg(figure)
    return drawing[drawing.index("<svg") :]


def _data(text: str) -> str:
    return "data:text/csv;base64," + base64.b64encode(text.encode()).decode()


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
