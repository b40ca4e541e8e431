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
    # Nothing is fetched: addresses are names of XML dialects or data of its own.
    for address in re.findall(r'(?:src|href)="([^"]*)"', text):
        assert address.startswith(("#", "data:")), address
    assert "url(http" not in text
    assert "@import" not in text


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
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = chromium.new_page(viewport={"width": 1100, "height": 900})
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("console", lambda line: complaints.append(line.text))
        tab.on(
            "request",
            lambda r: None if r.url.startswith(("file:", "data:")) else complaints.append(r.url),
        )
        tab.goto(file.as_uri())
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
    # One view with one metric is shown: a figure and its table, differences, positions, paper.
    assert shown(tab, ".view") == 1
    assert shown(tab, ".metric") == 1
    assert shown(tab, "figure svg") == 2
    assert "Perplexity per token" in tab.locator("figure svg:visible").first.text_content()
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
    assert "Bits per byte" in tab.locator("figure svg:visible").first.text_content()
    assert tab.locator(".metric:visible td").all_inner_texts() != before
    tab.select_option("#protocol", "same_targets, 50 targets")
    assert tab.input_value("#metric") == "bpb"
    assert shown(tab, "figure svg") == 1
    assert "Context (tokens)" in tab.locator("figure svg:visible").first.text_content()

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
    assert tab.input_value("#metric") == "word_ppl"
    assert tab.locator("#study").input_value().startswith("<b>novels")

    picture = tmp_path / "page.png"
    tab.screenshot(path=picture)
    image = imread(picture)
    # The middle of the picture is the figure: ink on white, not an empty frame.
    assert len({tuple(pixel) for pixel in image[300:800, 100:1000].reshape(-1, 4)[::97]}) > 10
    assert complaints == []


def test_pointing_at_a_mark_finds_its_value(opened: tuple[Any, list[str]]) -> None:
    tab, _ = opened
    mark = tab.locator(".metric:visible svg g", has=tab.locator("title")).last
    box = mark.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    told = tab.evaluate(
        "([x, y]) => document.elementFromPoint(x, y).closest('g:has(> title)')?.textContent", [x, y]
    )
    assert re.search(r"L = 64, at \d+: [\d.]+", told)
