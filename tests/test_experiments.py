"""Every experiment of the paper at scale=smoke, from the command to the report; and their index."""

import random
import runpy
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from samples import composed

from alibi_lm.cli import CONFIGS
from alibi_lm.errors import UserError
from alibi_lm.evaluation.rows import read_results
from alibi_lm.positions import SCHEMES
from alibi_lm.positions.rerotated import Rerotated
from alibi_lm.runs.plan import plan_member
from alibi_lm.runs.sweep import run_member

ROOT = CONFIGS.parent
SCALED = sorted(
    path.stem for path in CONFIGS.glob("experiment/*.yaml") if path.with_suffix("").is_dir()
)
SWEEPS = [name for name in SCALED if name != "speed"]


@pytest.fixture
def book(tmp_path: Path) -> list[str]:
    """Settings that name a text of a few thousand words, enough for the smallest cutoffs."""
    rng = random.Random(0)
    words = [f"w{int(rng.expovariate(1 / 400))}" for _ in range(9000)]
    lines = [" ".join(words[i : i + 9]) for i in range(0, len(words), 9)]
    path = tmp_path / "book.txt"
    path.write_text("\n".join(lines) + "\n")
    files = [f"data.{split}=[{path}.{split}]" for split in ("train", "validation", "test")]
    for split, part in (
        ("train", slice(800)),
        ("validation", slice(800, 900)),
        ("test", slice(900, None)),
    ):
        Path(f"{path}.{split}").write_text("\n".join(lines[part]) + "\n")
    return ["data=text", *files, "tracking=off"]


def test_there_are_the_papers() -> None:
    assert SCALED == [
        "books", "every_token", "extrapolation", "large", "novels", "speed", "test_split",
    ]  # fmt: skip
    for name in SCALED:
        scales = {path.stem for path in (CONFIGS / "experiment" / name).glob("*.yaml")}
        assert scales == {"smoke", "small", "paper"}
        assert (ROOT / "experiments" / name / "README.md").exists()


def test_the_zoo_has_all_that_can_be_trained() -> None:
    """But for the ways to read a rotary model, and the layers of models of more than two."""
    text = (CONFIGS / "experiment" / "zoo.yaml").read_text()
    listed = text.partition("position: >-")[2].replace("\n", "").replace(" ", "").split(",")
    presets = {n for n, named in SCHEMES.named.items() if named.settings.kind == "layered"}
    ways = {n for n, made in SCHEMES.made.items() if issubclass(made, Rerotated)}
    ways |= {n for n, named in SCHEMES.named.items() if named.settings.kind in ways}
    assert sorted(listed) == sorted({*SCHEMES.choices} - presets - ways)


def test_smoke(book: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One model of each, trained and evaluated; `make smoke` runs them whole."""
    monkeypatch.chdir(tmp_path)
    for name in SWEEPS:
        config = composed(f"experiment={name}", "position=alibi", "train_length=16", *book)
        run_member(plan_member(config))
    rows = [result.row for result in read_results(tmp_path / "outputs" / "smoke")]
    assert {row.split for row in rows} == {"validation", "test"}
    assert {(row.protocol, row.stride) for row in rows} >= {("sliding", 1), ("sliding", 16)}
    assert len({row.run for row in rows}) == 1  # trained once for the three of WikiText-103
    for output in ("smoke", "books-smoke", "large-smoke", "novels-smoke"):
        assert read_results(tmp_path / "outputs" / output)


def test_smoke_of_the_benchmark(
    in_process: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    less = ["rounds=1", "lengths=[16]", "positions=[alibi]", "phases=[training]"]
    done = in_process("benchmark", "experiment=speed", *less)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs" / "speed-smoke" / "results.csv").exists()


def test_index_is_that_of_the_folders(tmp_path: Path) -> None:
    index = runpy.run_path(str(ROOT / "scripts" / "index.py"))["index"]
    assert (ROOT / "experiments" / "README.md").read_text() == index(ROOT / "experiments")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("# Mine\n\n**Question.** Why?\n")
    with pytest.raises(UserError, match=r'has no paragraph that begins with "\*\*Answer'):
        index(tmp_path)


def test_kneser_ney_is_a_distribution() -> None:
    """Of every context, seen or not, the probabilities of all words add up to 1."""
    study = runpy.run_path(str(ROOT / "experiments" / "wikitext2" / "kneser_ney.py"))
    random = np.random.default_rng(0)
    size = 300
    stream = random.zipf(1.3, 4000) % size
    grams = study["count"](stream, size)
    for context in (stream[50:56], stream[:1], random.integers(0, size, 6)):
        texts = [np.append(context, word) for word in range(size)]
        total = sum(study["probabilities"](grams, text)[-1] for text in texts)
        assert total == pytest.approx(1)
