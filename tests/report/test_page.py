"""The page in a real browser, opened from disk, its choices made as a reader makes them."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from samples import result, study

from alibi_lm.evaluation.rows import Result
from alibi_lm.report.analysis import analyse
from alibi_lm.report.page import page

DRAWN = "document.querySelector('.view:not([hidden]) .bk-Figure')?.offsetHeight > 0"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def several(folder: Path) -> list[Result]:
    """Two studies, one with two protocols; a name that HTML would misread."""
    sampled = [
        result(folder, lambda c: 3 + c / 1000, protocol="same_targets", stride=None, tokens=50,
               eval_length=length)
        for length in (64, 256)
    ]  # fmt: skip
    return [*study(folder), *sampled, *study(folder, dataset="<b>novels & tales</b>")]


def test_holds_all_it_needs(text: str) -> None:
    assert "<b>novels" not in text
    assert "&lt;b&gt;novels &amp; tales" in text
    # Nothing is fetched; what the library's own code could fetch, the browser would tell below.
    outside = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href)="([^#"][^"]*)"', outside)
    assert "url(http" not in outside
    assert "@import" not in outside
    assert len(text) < 3_000_000


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page(analyse(several(tmp_path_factory.mktemp("page"))), published=True)


@pytest.fixture
def opened(text: str, tmp_path: Path) -> Iterator[tuple[Any, list[str]]]:
    """The page in a browser, and what the browser complains of or asks the network for."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None and not os.environ.get("CI"):
        pytest.skip(f"needs one of {', '.join(BROWSERS)}")
    from playwright.sync_api import sync_playwright

    file = tmp_path / "report.html"
    file.write_text(text, encoding="utf-8")
    complaints: list[str] = []

    def note(kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            complaints.append(text)

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = chromium.new_page(viewport={"width": 1100, "height": 900})
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("console", lambda line: note(line.type, line.text))
        tab.on(
            "request",
            lambda r: None if r.url.startswith(("file:", "data:")) else complaints.append(r.url),
        )
        tab.goto(file.as_uri())
        tab.wait_for_function(DRAWN)
        yield tab, complaints
        chromium.close()


def shown(tab: Any, selector: str) -> int:
    return int(tab.locator(f"{selector}:visible").count())


def test_a_reader_chooses(opened: tuple[Any, list[str]], tmp_path: Path) -> None:
    tab, complaints = opened
    ours = ["stdlib validation, bpe tokens", "<b>novels & tales</b> validation, bpe tokens"]
    theirs = {
        "wikitext103 (Press et al. 2022) validation, the paper's tokens",
        "wikitext103 (Press et al. 2022) test, the paper's tokens",
        "toronto_bookcorpus (Press et al. 2022) validation, the paper's tokens",
        "toronto_bookcorpus (Press et al. 2022) test, the paper's tokens",
        "cc100_roberta (Press et al. 2022) validation, the paper's tokens",
    }
    studies = tab.locator("#study option").all_inner_texts()
    assert studies[:2] == ours
    assert set(studies[2:]) == theirs
    assert tab.locator("#protocol option").all_inner_texts() == [
        "nonoverlapping",
        "same_targets, 50 targets",
    ]
    # One view with one metric is shown: its table, curves, loss by position.
    assert shown(tab, ".view") == 1
    assert shown(tab, ".metric") == 1
    assert shown(tab, "figure") == 2
    assert curves(tab)["y_label"] == "Perplexity per token"
    before = tab.locator(".metric:visible td").all_inner_texts()

    # A click on a column's head sorts by it, another the other way round.
    column = ".metric:visible tbody td:nth-child(3)"
    tab.click(".metric:visible th:nth-child(3) button")
    numbers = [float(text.split(" ")[0]) for text in tab.locator(column).all_inner_texts()]
    assert numbers == sorted(numbers)
    tab.click(".metric:visible th:nth-child(3) button")
    again = [float(text.split(" ")[0]) for text in tab.locator(column).all_inner_texts()]
    assert again == sorted(numbers, reverse=True)

    tab.select_option("#metric", "bpb")
    assert curves(tab)["y_label"] == "Bits per byte"
    assert {glyph["y"] for glyph in curves(tab)["glyphs"]} == {"bpb"}
    assert tab.locator(".metric:visible td").all_inner_texts() != before
    tab.select_option("#protocol", "same_targets, 50 targets")
    assert tab.input_value("#metric") == "bpb"
    assert shown(tab, "figure") == 1
    assert curves(tab)["x_label"] == "Context (tokens)"
    tab.select_option("#metric", "relative")
    assert curves(tab)["x_label"] == "Evaluation length / training length"
    assert {glyph["x"] for glyph in curves(tab)["glyphs"]} == {"multiple"}
    tab.select_option("#metric", "bpb")

    claims = tab.locator(".claim:visible")
    assert claims.count() == 8  # seven of the paper, one of sinusoidal embeddings
    assert "not measured" in claims.nth(3).inner_text()
    tab.select_option("#study", index=1)
    assert tab.locator("#protocol option").all_inner_texts() == ["nonoverlapping"]
    assert shown(tab, ".claim") == 8

    # The paper's own numbers can be chosen too.
    tab.select_option("#study", index=2)
    assert "sliding, stride 1" in tab.locator("#protocol option").all_inner_texts()
    assert "393.71" not in tab.locator(".metric:visible").inner_text()
    tab.select_option("#protocol", "sliding, stride 1")
    assert "393.71" in tab.locator(".metric:visible").inner_text()  # table 13
    verdicts = tab.locator(".claim:visible .verdict").all_inner_texts()
    assert verdicts == ["holds"] * 5 + ["not measured"] * 2 + ["does not hold"]
    tab.select_option("#study", index=1)

    # The choice is in the address: opened again, it is there again.
    tab.select_option("#metric", "word_ppl")
    tab.reload()
    tab.wait_for_function(DRAWN)
    assert tab.input_value("#metric") == "word_ppl"
    assert curves(tab)["y_label"] == "Perplexity per word"
    assert tab.locator("#study").input_value().startswith("<b>novels")

    picture = tmp_path / "page.png"
    tab.screenshot(path=picture)
    image = imread(picture)
    # The middle of the picture is the figure: ink on white, not an empty frame.
    assert len({tuple(pixel) for pixel in image[300:800, 100:1000].reshape(-1, 4)[::97]}) > 10
    assert complaints == []


# What the visible view's figure draws, from Bokeh's own model of it.
CURVES = """() => {
  const place = document.querySelector(".view:not([hidden]) .curves [data-root-id]");
  const { model } = Bokeh.index.get_by_id(place.dataset.rootId);
  const lines = model.renderers.filter(each => each.glyph.type == "Line");
  return {
    x_label: model.below[0].axis_label, y_label: model.left[0].axis_label,
    glyphs: lines.map(({ glyph, visible }) => ({ x: glyph.x.field, y: glyph.y.field, visible })),
    frame: model.inner_height,
  };
}"""


def curves(tab: Any) -> dict[str, Any]:
    found: dict[str, Any] = tab.evaluate(CURVES)
    return found


def test_pointing_at_a_mark_tells_value_seeds_and_runs(opened: tuple[Any, list[str]]) -> None:
    tab, complaints = opened
    place = tab.evaluate(
        """() => {
          const place = document.querySelector(".view:not([hidden]) .curves [data-root-id]");
          const view = Bokeh.index.get_by_id(place.dataset.rootId);
          const marks = view.model.renderers.findLast(each => each.glyph.type == "Scatter");
          const { frame } = view, data = marks.data_source.data;
          const box = view.canvas_view.el.getBoundingClientRect();
          return [box.x + frame.x_scale.compute(data.at[0]),
                  box.y + frame.y_scale.compute(data.ppl[0])];
        }"""
    )
    tab.mouse.move(*place)
    told = "tip => [...tip.shadowRoot.querySelectorAll('div')].map(each => each.innerText).join()"
    tip = tab.wait_for_selector(".bk-Tooltip").evaluate(told)
    assert re.search(r"trained at 64, at \d+: [\d.]+", tip), tip
    assert "mean of 2 seeds from" in tip
    assert complaints == []


def test_published_curves_stand_where_they_compare(opened: tuple[Any, list[str]]) -> None:
    """On another text only relative to the training length."""
    tab, _ = opened
    values = tab.evaluate(
        """() => {
          const place = document.querySelector(".view:not([hidden]) .curves [data-root-id]");
          const { model } = Bokeh.index.get_by_id(place.dataset.rootId);
          const lines = model.renderers.filter(each => each.glyph.type == "Line");
          return lines.map(({ data_source: { data } }) =>
            [data.name[0], ...["ppl", "relative"].map(m => [...data[m]].some(Number.isFinite))]);
        }"""
    )
    published = [have for name, *have in values if "Press et al. 2022" in name]
    assert published
    assert all(have == [False, True] for have in published)
    assert all(have[0] for name, *have in values if "et al." not in name)


def test_a_click_on_a_name_hides_its_curve(opened: tuple[Any, list[str]]) -> None:
    tab, _ = opened
    before = curves(tab)["glyphs"]
    assert all(glyph["visible"] for glyph in before)
    tab.locator(".bk-Legend .bk-item").first.click()
    after = curves(tab)["glyphs"]
    assert [glyph["visible"] for glyph in after] == [False, *[True] * (len(before) - 1)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 1100])
def test_nothing_is_cut_off(opened: tuple[Any, list[str]], width: int, scheme: str) -> None:
    """What is wider than the window scrolls by itself, not the page; figures keep their height."""
    tab, _ = opened
    tab.emulate_media(color_scheme=scheme)
    tab.set_viewport_size({"width": width, "height": 900})
    tab.wait_for_timeout(300)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert curves(tab)["frame"] == 420
    if width > 1000:  # no table is cut off either
        tables = "() => [...document.querySelectorAll('.scroll')].filter(each => each.offsetParent)"
        sizes = tab.evaluate(f"({tables})().map(each => [each.scrollWidth, each.clientWidth])")
        assert all(needed <= there for needed, there in sizes)
    ink, ground = tab.evaluate(
        "() => [getComputedStyle(document.body).color, getComputedStyle(document.body)"
        ".backgroundColor].map(colour => Number(colour.match(/[0-9]+/)[0]))"
    )
    assert (ink < ground) == (scheme == "light")
