import dataclasses
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from matplotlib.image import imread
from samples import study

from alibi_lm.evaluation.rows import Result
from alibi_lm.report.comparisons import comparisons, titles
from alibi_lm.report.figures import Panel, lengths_figure, panel, positions_figure, save, svg


def panels(results: list[Result], metric: str, published: bool = False) -> list[Panel]:
    groups = comparisons(results)
    named = titles(group.study for group in groups)
    return [panel(g, groups[g], named[g.study], metric, published) for g in groups]


@pytest.mark.parametrize("case", ["one", "many", "broken", "lonely"])
@pytest.mark.parametrize("metric", ["ppl", "relative"])
def test_is_drawn_as_png_and_svg(tmp_path: Path, case: str, metric: str) -> None:
    some = study(tmp_path)
    if case == "many":
        some += study(tmp_path, dataset="novels") + study(tmp_path, train_length=128)
        some += study(tmp_path, window=64) + study(tmp_path, position="mine")
    if case == "broken":
        some = [Result(dataclasses.replace(r.row, ppl=math.inf, loss=math.inf)) for r in some]
    if case == "lonely":
        some = some[:1]
    figure = lengths_figure(panels(some, metric), metric)
    png, vector = save(figure, tmp_path / "figure")
    image = imread(png)
    assert image.shape[0] > 500
    assert len({tuple(pixel) for pixel in image[::7, ::7].reshape(-1, image.shape[2])}) > 4
    assert ET.parse(vector).getroot().tag.endswith("svg")


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
    assert {curve.position for curve in relative.paper} == {"sinusoidal", "alibi"}
    assert {curve.train_length for curve in relative.paper} == {512}
    figure = lengths_figure([relative], "relative")
    assert "paper: Sinusoidal, L = 512, at 1,012: 2.172" in svg(figure)
    # Plain perplexities compare on the paper's own tokens alone.
    (plain,) = panels(study(tmp_path), "ppl", published=True)
    assert plain.paper == []
    on_wikitext = study(tmp_path, dataset="wikitext103", tokenizer="words", train_length=1000)
    (same,) = panels(on_wikitext, "ppl", published=True)
    assert {curve.train_length for curve in same.paper} == {1024}
    assert panels(study(tmp_path), "relative")[0].paper == []
