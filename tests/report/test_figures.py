import dataclasses
import itertools
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from samples import ROW, bare, study

from alibi_lm.evaluation.rows import Result
from alibi_lm.positions import SCHEMES
from alibi_lm.report.comparisons import comparisons, titles
from alibi_lm.report.figures import (
    Panel,
    apart,
    lengths_figure,
    panel,
    panels_of,
    positions_figure,
    save,
    svg,
)
from alibi_lm.report.legend import style
from alibi_lm.report.published import curves_to_compare


def panels(results: list[Result], metric: str, published: bool = False) -> list[Panel]:
    groups = comparisons(results)
    named = titles(group.study for group in groups)
    return [panel(g, groups[g], named[g.study], metric, published) for g in groups]


@pytest.mark.parametrize("case", ["one", "many", "broken", "lonely"])
@pytest.mark.parametrize("metric", ["ppl", "relative"])
def test_is_drawn_as_png_svg_and_pdf(tmp_path: Path, case: str, metric: str) -> None:
    some = study(tmp_path)
    if case == "many":
        some += study(tmp_path, dataset="novels") + study(tmp_path, train_length=128)
        some += study(tmp_path, window=64) + study(tmp_path, position="mine")
    if case == "broken":
        some = [Result(dataclasses.replace(r.row, ppl=math.inf, loss=math.inf)) for r in some]
    if case == "lonely":
        some = some[:1]
    figure = lengths_figure(panels(some, metric), metric)
    png, vector, paper = save(figure, tmp_path / "figure")
    assert paper.read_bytes().startswith(b"%PDF")
    image = imread(png)
    assert image.shape[0] > 500
    assert len({tuple(pixel) for pixel in image[::7, ::7].reshape(-1, image.shape[2])}) > 4
    assert ET.parse(vector).getroot().tag.endswith("svg")


@given(st.lists(st.integers(1, 70_000), min_size=1, max_size=40), st.integers(0, 39))
@settings(deadline=None)
def test_lengths_that_are_named_do_not_cover_each_other(lengths: list[int], at: int) -> None:
    lengths = sorted({*lengths, *(n + 1 for n in lengths)})
    first = lengths[at % len(lengths)]
    shown = apart(lengths, [first])
    assert first in shown
    assert set(shown) <= set(lengths)
    whole = max(math.log2(lengths[-1] / lengths[0]), 1)
    gaps = [math.log2(b / a) / whole for a, b in itertools.pairwise(shown)]
    assert all(gap > 0.099 for gap in gaps)
    if len(lengths) > 1 and not gaps:
        assert lengths[-1] / lengths[0] < 2


def test_ticks_of_close_lengths_do_not_overlap(tmp_path: Path) -> None:
    """L and L + 1, and all the lengths of the paper's tables."""
    past = [0, 1, *range(10, 101, 10), *range(200, 1001, 100), *range(2000, 15001, 1000)]
    for lengths in ([64, 128, 129, 4096], [512 + more for more in past]):
        row = dataclasses.replace(ROW, train_length=lengths[0])
        some = [Result(dataclasses.replace(row, eval_length=at)) for at in lengths]
        for metric in ("ppl", "relative"):
            figure = lengths_figure(panels(some, metric), metric)
            figure.draw_without_rendering()
            labels = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
            assert len(labels) >= 3 or metric == "relative"
            assert all(a.x1 < b.x0 for a, b in itertools.pairwise(labels))


def test_names_are_no_formulas(tmp_path: Path) -> None:
    some = study(tmp_path, dataset="x$^$y")
    assert "x$^$y" in svg(lengths_figure(panels(some, "ppl"), "ppl"))


def test_an_infinite_value_at_the_training_length(tmp_path: Path) -> None:
    row = study(tmp_path)[0].row
    some = [
        Result(dataclasses.replace(row, eval_length=32)),
        Result(dataclasses.replace(row, ppl=math.inf, loss=math.inf)),
    ]
    svg(lengths_figure(panels(some, "relative"), "relative"))


def test_training_lengths_are_told_apart(tmp_path: Path) -> None:
    some = study(tmp_path) + study(tmp_path, train_length=128)
    for figure in (
        lengths_figure(panels(some, "relative"), "relative"),
        positions_figure(panels(some, "loss")),
    ):
        text = svg(figure)
        assert "ALiBi, L = 64<" in text
        assert "ALiBi, L = 128<" in text


def test_every_point_tells_its_value(tmp_path: Path) -> None:
    figure = lengths_figure(panels(study(tmp_path), "ppl"), "ppl")
    tips = re.findall(r"<title>(.*?)</title>", svg(figure))
    ((_, (_, alibi)),) = comparisons(study(tmp_path)).items()
    assert f"ALiBi, L = 64, at 256: {alibi.means('ppl')[256]:.4g}" in tips
    assert len(tips) == 6
    assert "tip:" not in svg(figure)


def test_the_same_figure_is_the_same_file(tmp_path: Path) -> None:
    figures = [lengths_figure(panels(study(tmp_path), "ppl"), "ppl") for _ in range(2)]
    first, second = (svg(figure) for figure in figures)
    assert first == second


def test_loss_by_position(tmp_path: Path) -> None:
    figure = positions_figure(panels(study(tmp_path), "loss"))
    text = svg(figure)
    assert "Context (tokens) in windows of 256" in text
    assert "tokens of context" in text


def test_the_papers_curves_where_they_compare(tmp_path: Path) -> None:
    (relative,) = panels(study(tmp_path), "relative", published=True)
    (theirs,) = relative.published
    assert {curve.position for curve in theirs.curves} == {"sinusoidal", "alibi"}
    assert {curve.train_length for curve in theirs.curves} == {512}
    figure = lengths_figure([relative], "relative")
    assert "published: Sinusoidal, L = 512, at 1,012: 2.172" in svg(figure)
    # Plain perplexities compare on the paper's own tokens alone.
    (plain,) = panels(study(tmp_path), "ppl", published=True)
    assert plain.published == []
    on_wikitext = study(tmp_path, dataset="wikitext103", tokenizer="words", train_length=1000)
    (same,) = panels(on_wikitext, "ppl", published=True)
    assert {curve.train_length for curve in same.published[0].curves} == {1024}
    assert panels(study(tmp_path), "relative")[0].published == []


def test_other_papers_curves_of_schemes_that_the_paper_has_not(tmp_path: Path) -> None:
    rows = [
        bare(position=position, variant=variant, eval_length=at, ppl=ppl)
        for position, variant in (("alibi", ""), ("cable", "weights=True scaled=True"), ("fox", ""))
        for at, ppl in ((64, 20.0), (1024, 19.0))
    ]
    ((group, curves),) = comparisons(rows).items()
    paper, others = curves_to_compare(group, curves)
    assert (paper.source, [c.position for c in paper.curves]) == ("Press et al. 2022", ["alibi"])
    assert "Veisi et al. 2025" in others.source
    assert [(c.position, c.variant) for c in others.curves] == [
        ("cable", "weights=True scaled=True")
    ]


def test_of_many_curves_each_family_has_a_panel(tmp_path: Path) -> None:
    """All curves are in every panel; those of other families are grey and not named."""
    names = [*SCHEMES.settings][:30]
    rows = [
        bare(position=name, eval_length=at, ppl=20 + place + at / 64)
        for place, name in enumerate(names)
        for at in (64, 1024)
    ]
    rows += [
        Result(replace(r.row, changes="position.scaling=yarn"))
        for r in rows
        if r.row.position == "rotary"
    ]
    ((group, curves),) = comparisons(rows).items()
    (whole,) = [panel(group, curves, "title", "ppl", False)]
    overview, *families = panels_of(whole)
    assert len(overview.curves) == 31 and overview.named == 8
    assert sum(len(family.curves) for family in families) == 31
    assert all(len(f.curves) + len(f.others) == 31 for f in families)
    assert len({family.heading for family in families}) == len(families)
    # No two of a family are drawn alike.
    for family in families:
        found = family.styles()
        drawn = {
            (found[id(c)].marker, found[id(c)].colour, str(found[id(c)].dash))
            for c in family.curves
        }
        assert len(drawn) == len(family.curves)
    text = svg(lengths_figure([whole], "ppl"))
    assert text.count(">Rotary, read scaling=yarn<") == 2  # in its family, and among the best


def test_names_do_not_cover_each_other(tmp_path: Path) -> None:
    rows = [
        bare(position=name, eval_length=at, ppl=20.0 + place / 1000)
        for place, name in enumerate([*SCHEMES.settings][:30])
        for at in (64, 128)
    ]
    ((group, curves),) = comparisons(rows).items()
    figure = lengths_figure([panel(group, curves, "title", "ppl", False)], "ppl")
    figure.canvas.draw()
    for axes in figure.axes:
        boxes = [t.get_window_extent() for t in axes.texts if t.get_position()[0] == 1.01]
        boxes.sort(key=lambda box: box.y0)
        for below, above in itertools.pairwise(boxes):
            assert above.y0 >= below.y1 - 3  # of 9 points


def test_read_as_another_scheme_it_is_not_drawn_as_that() -> None:
    rows = [
        bare(position=position, changes=changes, eval_length=at)
        for position, changes in (
            ("none", ""),
            ("rotary", "position=none"),
            ("rotary", "position=alibi"),
            ("alibi", ""),
        )
        for at in (64, 128)
    ]
    ((group, curves),) = comparisons(rows).items()
    drawn = panel(group, curves, "title", "ppl", False).styles()
    assert len({(drawn[id(c)].marker, drawn[id(c)].colour) for c in curves}) == 4
    plain = {c.position: drawn[id(c)] for c in curves if not c.changes}
    assert plain == {name: style(name) for name in ("none", "alibi")}
