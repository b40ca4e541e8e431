"""What is added is one thing in one place: it is then found everywhere else by itself."""

import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from samples import composed, evaluated, study, trained
from torch import Tensor

from alibi_lm.cli import help_text
from alibi_lm.config import Config
from alibi_lm.data.corpus import SOURCES, Corpus, DataConfig
from alibi_lm.evaluation.protocols import PROTOCOLS, EvaluationConfig, Protocol, register
from alibi_lm.evaluation.rows import read_results
from alibi_lm.evaluation.spans import Spans, sliding
from alibi_lm.positions import SCHEMES
from alibi_lm.report import summary, write_report
from alibi_lm.report.figures import FIGURES, figure
from alibi_lm.report.legend import FAMILIES, style, title
from alibi_lm.settings import REGISTRIES, setting
from alibi_lm.training.optim import OPTIMIZERS, OptimConfig

IMPORTS = """
from dataclasses import dataclass
import torch
from alibi_lm.attention.bias import Bias, Form
from alibi_lm.positions.base import SCHEMES, Position, PositionConfig, Sizes
from alibi_lm.settings import setting
"""


@pytest.fixture(autouse=True)
def _forgotten_after() -> Iterator[None]:
    kept = {group: (dict(r.settings), dict(r.made)) for group, r in REGISTRIES.items()}
    protocols, figures = dict(PROTOCOLS), dict(FIGURES)
    yield
    for group, (settings, made) in kept.items():
        REGISTRIES[group].settings, REGISTRIES[group].made = settings, made
    for registry, before in ((PROTOCOLS, protocols), (FIGURES, figures)):
        registry.clear()
        registry.update(before)


def test_the_scheme_of_the_readme(small_config: Callable[..., Config], tmp_path: Path) -> None:
    """README's ten lines are trained, evaluated, reported, explained by --help, and resumable."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    mine = types.ModuleType("mine")
    sys.modules["mine"] = mine
    exec(IMPORTS + code, mine.__dict__)
    config = composed("position=mine", "position.scale=0.2")
    assert (config.position.kind, config.position.scale) == ("mine", 0.2)
    assert "position.scale=0.1" in help_text("", Config)
    run = trained(small_config("mine"))
    results = evaluated(run)
    assert {result.row.backend for result in results} == {"row"}
    assert title("mine") == "Mine" and style("mine") != style("alibi")
    assert "mine" in summary(results)
    write_report(results, tmp_path / "report")
    assert "Mine" in (tmp_path / "report" / "extrapolation.svg").read_text()


def test_a_data_source(small_config: Callable[..., Config], text_file: Path) -> None:
    @dataclass
    class TwiceConfig(DataConfig):
        name: str = setting("twice", "what result rows call the data set")
        file: str = setting("", "a text file")

    @SOURCES.add("twice", TwiceConfig)
    def load_twice(config: TwiceConfig) -> Corpus:
        text = Path(config.file).read_text()
        return Corpus(config.name, {s: lambda: iter([text]) for s in ("train", "validation")})

    assert isinstance(composed("data=twice").data, TwiceConfig)
    run = trained(small_config(data=TwiceConfig(file=str(text_file))))
    assert {result.row.dataset for result in evaluated(run)} == {"twice"}


def test_an_optimizer(small_config: Callable[..., Config]) -> None:
    @OPTIMIZERS.register("sign")
    @dataclass
    class SignConfig(OptimConfig):
        momentum: float = setting(0.9, "of the gradients")

        def build(self, decayed: list[Tensor], others: list[Tensor]) -> torch.optim.Optimizer:
            return torch.optim.RMSprop([*decayed, *others], self.lr, momentum=self.momentum)

    assert composed("optim=sign", "optim.momentum=0.5").optim.momentum == 0.5
    run = trained(small_config(optim=SignConfig(steps=6, warmup_steps=2, tokens_per_step=64)))
    assert run.identity.values["optim"] == "sign"
    assert evaluated(run)[0].row.settings.startswith("optim=sign ")


def test_a_protocol(small_config: Callable[..., Config], tmp_path: Path) -> None:
    @register("second_half")
    class SecondHalf(Protocol):
        """Blocks of which only the second half is scored; the first is context."""

        scores = "the second half of every block"
        by_position = False

        def spans(self, n_targets: int) -> Spans:
            spans = sliding(n_targets, self.length, self.length)
            spans = spans[spans[:, 2] - spans[:, 0] == self.length]
            spans[:, 1] += self.length // 2
            return spans

        def n_scored(self, n_targets: int) -> int:
            return n_targets // self.length * (self.length - self.length // 2)

    run = trained(small_config("t5"))
    both = EvaluationConfig(protocols=["nonoverlapping", "second_half"], lengths=[16, 40])
    assert both.problems() == []
    results = evaluated(run, both)
    assert [r.row.protocol for r in results] == ["nonoverlapping"] * 2 + ["second_half"] * 2
    assert results[0].row.loss != results[2].row.loss
    assert read_results(run.path)[2].row.measurement.protocol == SecondHalf(16)
    write_report(results, tmp_path / "report")
    assert "the second half of every block" in (tmp_path / "report" / "table.md").read_text()


def test_a_figure(tmp_path: Path) -> None:
    @figure("Nothing", "An empty figure.")
    def nothing(groups: Any, titles: Any, published: bool) -> Any:
        from matplotlib.figure import Figure

        return Figure()

    write_report(study(tmp_path), tmp_path / "report")
    assert (tmp_path / "report" / "nothing.png").exists()
    assert "An empty figure." in (tmp_path / "report" / "report.html").read_text()


def test_forty_schemes_look_different() -> None:
    """Families by hue, members by shade, marker and dash."""
    families = list(FAMILIES)
    for number in range(40):
        made = type("Made", (), {"family": families[number % len(families)], "title": f"{number}"})
        SCHEMES.made[f"scheme{number}"] = made
    styles = [style(name) for name in SCHEMES.made]
    assert len(set(styles)) == len(styles) == 45
    # The first of a family keeps its colour whoever comes after.
    assert style("alibi").marker == "^" and style("rotary").marker == "s"


def test_nothing_else_knows_them() -> None:
    """No list of names beside the registries: of schemes, say, in configs/ or the report."""
    assert not (ROOT / "configs" / "position").exists()
    names = [name for name in SCHEMES.settings if name not in ("none", "alibi")]
    found = subprocess.run(
        ["grep", "-rlE", "|".join(f'"{name}"' for name in names), "alibi_lm", "--include=*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    outside = {Path(line).parts[1] for line in found.stdout.split()} - {"positions"}
    # What the paper says of schemes, what peers can be, what the benchmark measures by default.
    assert outside <= {"report", "benchmark"}


def test_a_setting(small_config: Callable[..., Config]) -> None:
    """One line in its dataclass: the command line, --help and identity know it."""

    @OPTIMIZERS.register("adamw2")
    @dataclass
    class Later(type(small_config().optim)):  # type: ignore[misc]
        added: float = setting(0.5, "a setting that was added")

    assert "optim.added=0.5" in help_text("", Config)
    assert composed("optim=adamw2", "optim.added=0.25").optim.added == 0.25
    config = small_config(optim=Later(steps=6, warmup_steps=2, tokens_per_step=64))
    run = trained(config)
    assert "optim.added" not in run.identity.values
    changed = trained(replace(config, optim=replace(config.optim, added=0.25)))
    assert changed.identity.values["optim.added"] == 0.25
