"""What is added is one thing in one place: it is then found everywhere else by itself."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, SMALL
from samples import composed, evaluated, study, trained
from torch import Tensor

from alibi_lm.cli import help_text
from alibi_lm.config import Config
from alibi_lm.data.corpus import SOURCES, Corpus, DataConfig
from alibi_lm.errors import UserError
from alibi_lm.evaluation.protocols import PROTOCOLS, EvaluationConfig, Protocol, register
from alibi_lm.evaluation.rows import read_results
from alibi_lm.evaluation.spans import Spans, sliding
from alibi_lm.machine import plugins
from alibi_lm.positions import SCHEMES
from alibi_lm.report import summary, write_report
from alibi_lm.report.figures import FIGURES, figure
from alibi_lm.report.legend import FAMILIES, style, title
from alibi_lm.runs.plan import plan_run
from alibi_lm.settings import REGISTRIES, setting
from alibi_lm.training.optim import OPTIMIZERS, OptimConfig


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


def readme_scheme() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return str(code)


def test_the_scheme_of_the_readme(
    small_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """README's lines are trained, evaluated, reported, explained by --help, and resumable."""
    (tmp_path / "mine.py").write_text(readme_scheme())
    monkeypatch.setenv(plugins.VARIABLE, str(tmp_path / "mine.py"))
    monkeypatch.setattr(plugins, "FAILURES", [])
    plugins.load_plugins()
    assert plugins.FAILURES == []
    monkeypatch.delitem(sys.modules, "mine")
    config = composed("position=mine", "position.penalty=0.2")
    assert (config.position.kind, config.position.penalty) == ("mine", 0.2)
    assert "position.penalty=0.1" in help_text("", Config)
    run = trained(small_config("mine"))
    results = evaluated(run)
    assert {result.row.backend for result in results} == {"row"}
    assert title("mine") == "Mine" and style("mine") != style("alibi")
    assert "mine" in summary(results)
    write_report(results, tmp_path / "report")
    assert "Mine" in (tmp_path / "report" / "extrapolation.svg").read_text()


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("@dataclass\n", "", "the settings of position 'mine' must be a @dataclass"),
        ('setting(0.1, "penalty per token", above=0)', "0.1", "penalty of position 'mine' needs"),
        (
            "above=0",
            "above=1",
            "the default of position 'mine': penalty: given 0.1, but it must",
        ),
        ("(PositionConfig)", "", "the settings of position 'mine' must be a PositionConfig"),
        ("Mine(Position)", "Mine", "position 'mine' must be a subclass of Position"),
        ("form, title, family", "form, name, family", "position 'mine' must say its title"),
        ('add("mine"', 'add("my scheme"', "'my scheme' must be letters, digits and _"),
        ("def in_layer", "exit(3)\n    def in_layer", "SystemExit: 3"),
    ],
)
def test_mistakes_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, line: str
) -> None:
    load(tmp_path, monkeypatch, readme_scheme().replace(old, new))
    (failure,) = plugins.FAILURES
    assert line in failure


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            ".expand(q.shape[1], -1)",
            "",
            r"by_key of its Bias is \(16,\), but it must be \(2, 16\)",
        ),
        (
            "def in_layer",
            "def in_layers",
            "its Bias holds no bias, but its class declares a bias",
        ),
        (
            "Form.BY_KEY",
            "Form.NONE",
            "its Bias holds a bias by key, but its class declares no",
        ),
        ("return q, k, Bias", "return q, Bias", "in_layer must return q, k and a Bias"),
    ],
)
def test_mistakes_in_a_scheme(
    small_config: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    old: str,
    new: str,
    line: str,
) -> None:
    load(tmp_path, monkeypatch, readme_scheme().replace(old, new))
    assert plugins.FAILURES == []
    with pytest.raises(UserError, match=f"position=mine: {line}"):
        trained(small_config("mine"))


def test_another_formula_is_another_run(
    small_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The identity of a run of one's own scheme holds the hash of its file."""
    names = set()
    for factor in ("self.config", "5 * self.config", "self.config"):
        load(tmp_path, monkeypatch, readme_scheme().replace("self.config", factor))
        names.add(plan_run(small_config("mine")).path.name)
        del SCHEMES.settings["mine"], SCHEMES.made["mine"]
    assert len(names) == 2
    assert "position_hash" not in plan_run(small_config("alibi")).identity.values


def load(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """As if ALIBI_LM_PLUGINS had named a file with the code."""
    (folder / "mine.py").write_text(code)
    monkeypatch.setenv(plugins.VARIABLE, str(folder / "mine.py"))
    monkeypatch.setattr(plugins, "FAILURES", [])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    plugins.load_plugins()


def test_a_scheme_in_a_file_is_found_by_every_process(tmp_path: Path, text_file: Path) -> None:
    """A sweep by two workers of joblib, then the report, as a user starts them."""
    (tmp_path / "mine.py").write_text(readme_scheme())
    data = ["data=text", f"data.train=[{text_file}]", "data.held_out=0.2"]
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = script("sweep", "position=mine,none", *data, *SMALL, *launcher, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "mine" in done.stdout
    done = script("report", "results=[outputs]", cwd=tmp_path)
    assert done.returncode == 0 and "mine" in done.stdout
    (tmp_path / "bad.py").write_text("nothing\n")
    (tmp_path / "twice.py").write_text(readme_scheme().replace('"mine", ', '"alibi", '))
    wrong = {
        "gone.py": "given gone.py, which cannot be loaded: no such file",
        "bad.py": "given bad.py, which cannot be loaded: NameError: name 'nothing' is not",
        "twice.py": "ValueError: position 'alibi' is registered already",
        "no.such.module": "ModuleNotFoundError: No module named 'no'",
    }
    done = script("train", "--help", cwd=tmp_path, plugins=",".join(wrong))
    assert done.returncode == 2
    for said, line in zip(done.stderr.splitlines(), wrong.values(), strict=True):
        assert said.startswith("error: ALIBI_LM_PLUGINS: ") and line in said


def script(
    name: str, *words: str, cwd: Path, plugins: str = "mine.py"
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *words]
    environment = os.environ | {"ALIBI_LM_PLUGINS": plugins, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


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
    families, n_ours = list(FAMILIES), len(SCHEMES.made)
    for number in range(40):
        made = type("Made", (), {"family": families[number % len(families)], "title": f"{number}"})
        SCHEMES.made[f"scheme{number}"] = made
    styles = [style(name) for name in SCHEMES.made]
    assert len(set(styles)) == len(styles) == 40 + n_ours
    # The first of a family keeps its colour whoever comes after.
    assert style("alibi").marker == "^" and style("rotary").marker == "s"


def test_nothing_else_knows_them() -> None:
    """No list of names beside the registries: of schemes, say, in configs/ or the report."""
    assert not (ROOT / "configs" / "position").exists()
    names = [name for name in SCHEMES.settings if name not in ("none", "alibi", "path")]
    found = subprocess.run(
        ["grep", "-rlE", "|".join(f'"{name}"' for name in names), "alibi_lm", "--include=*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    outside = {Path(line).parts[1] for line in found.stdout.split()} - {"positions"}
    # What the paper says of schemes, what peers can be, what the benchmark measures by default, and
    # which class of another library has which scheme.
    assert outside <= {"report", "benchmark", "interop"}


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
