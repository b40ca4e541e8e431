"""Small text, small settings and a way to call the scripts, shared by the tests."""

import contextlib
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import save_model

from alibi_lm.config import Config
from alibi_lm.data.sources.text import TextConfig
from alibi_lm.data.tokenizers import BpeConfig
from alibi_lm.evaluation.protocols import EvaluationConfig
from alibi_lm.model.config import ModelConfig
from alibi_lm.positions.spec import read_spec
from alibi_lm.tracking import TrackingConfig
from alibi_lm.training.optim import AdamwConfig

if "PYTEST_XDIST_WORKER" in os.environ:  # the tests beside this one use the other cores
    torch.set_num_threads(1)

pytest_plugins = ["authors"]

ROOT = Path(__file__).resolve().parent.parent
# What scripts import, and training when it needs it.
PRELOADED = [
    "alibi_lm.runs.sweep",
    "alibi_lm.runs.reproduce",
    "alibi_lm.benchmark.costs",
    "datasets",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "pandas",
    "torch._dynamo",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
]
# A model, recipe and evaluation that take about a second.
SMALL = [
    "model.n_layers=1",
    "model.n_heads=2",
    "model.d_model=16",
    "model.d_ff=32",
    "tokenizer.vocab_size=300",
    "train_length=16",
    "optim.steps=6",
    "optim.warmup_steps=2",
    "optim.tokens_per_step=64",
    "evaluation.lengths=[16,40]",
    "tracking=off",
]


class ForkedScript:
    """A script in a real process, with the methods of subprocess.Popen that tests use."""

    def __init__(self, process: Any, out: Path, err: Path) -> None:
        self.process, self.out, self.err = process, out, err
        self.pid: int = process.pid

    def poll(self) -> int | None:
        return self.returncode

    @property
    def returncode(self) -> int | None:
        code: int | None = self.process.exitcode
        return code

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float) -> int | None:
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(self.out.read_text() + self.err.read_text())
        return self.returncode

    def communicate(self, timeout: float = 60) -> tuple[str, str]:
        self.wait(timeout)
        return self.out.read_text(), self.err.read_text()


@dataclass(frozen=True)
class Fork:
    """Starts real processes, forked from a server that has torch loaded.

    So a process costs a test what it does and not an import.
    """

    context: Any

    def start(self, config: Config, environment: dict[str, str] | None = None) -> Any:
        """A process that does with a configuration what a sweep does for each run."""
        process = self.context.Process(target=_run_member, args=(config, environment or {}))
        process.start()
        return process

    def start_together(self, config: Config, count: int = 2) -> list[Any]:
        """As many processes that do it together, as torchrun starts them."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
        ranks = [where | {"RANK": str(i), "LOCAL_RANK": str(i)} for i in range(count)]
        return [self.start(config, rank) for rank in ranks]

    def script(self, name: str, *arguments: str, folder: Path) -> ForkedScript:
        """A script of the project with its arguments, in a folder."""
        streams = [Path(tempfile.mkstemp(prefix=f"{name}-")[1]) for _ in range(2)]
        target = (name, arguments, folder, dict(os.environ), *streams)
        process = self.context.Process(target=_run_script, args=target)
        process.start()
        return ForkedScript(process, *streams)


def _run_member(config: Config, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    from alibi_lm.runs.plan import plan_member
    from alibi_lm.runs.sweep import run_member

    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(Path(os.devnull).open("w"))
        stack.enter_context(contextlib.redirect_stdout(silent))
        stack.enter_context(contextlib.redirect_stderr(silent))
        run_member(plan_member(config))


def _run_script(
    name: str,
    arguments: tuple[str, ...],
    folder: Path,
    environment: dict[str, str],
    out: Path,
    err: Path,
) -> None:
    """What Python does with a script: its own streams, arguments, folder and signals."""
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY), number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    # A shell's `make test &` has SIGINT ignored in everything that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    sys.argv = [str(ROOT / "scripts" / f"{name}.py"), *arguments]
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


@pytest.fixture(scope="session")
def fork() -> Fork:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return Fork(context)


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 20 KB of lines in which words follow each other with some regularity."""
    rng = random.Random(0)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "twenty", "birds", "fly", "über"]
    lines = []
    for _ in range(600):
        start = rng.randrange(len(words))
        lines.append(" ".join(words[(start + i) % len(words)] for i in range(rng.randrange(1, 9))))
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def small_config(text_file: Path, tmp_path: Path) -> Callable[..., Config]:
    """A configuration that trains in a second, with the named settings replaced.

    position: a scheme's name, or a mapping with its settings.
    """

    def make(position: Any = "alibi", **changes: object) -> Config:
        settings = {
            "position": read_spec(position, "position"),
            "model": ModelConfig(n_layers=1, n_heads=2, d_model=16, d_ff=32),
            "data": TextConfig(train=[str(text_file)], held_out=0.2),
            "tokenizer": BpeConfig(vocab_size=300),
            "optim": AdamwConfig(steps=6, warmup_steps=2, tokens_per_step=64),
            "evaluation": EvaluationConfig(lengths=[16, 40]),
            "train_length": 16,
            "device": "cpu",
            "tracking": TrackingConfig(mode="off"),
            "output": str(tmp_path / "out"),
            "cache": str(tmp_path / "cache"),
        }
        config = Config(**(settings | changes))  # type: ignore[arg-type]
        assert config.problems() == []
        return config

    return make


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a small model of an architecture of transformers; tests must not change it."""
    made: dict[str, Path] = {}

    def call(name: str) -> Path:
        if name not in made:
            made[name] = save_model(tmp_path_factory.mktemp("models") / name, name)
        return made[name]

    return call


@pytest.fixture
def script(fork: Fork, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Call a script of the project in a process of its own, in an empty folder."""

    def call(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        process = fork.script(name, *arguments, folder=tmp_path)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess([name, *arguments], process.returncode, out, err)

    return call


@pytest.fixture
def cold_script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The same from nothing: Python, torch and all are loaded anew, as when a user starts it."""

    def call(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *arguments],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return call


@pytest.fixture
def read_only() -> Iterator[Callable[[Path], None]]:
    """Mount a folder onto itself so that nobody can write to it."""
    mounted: list[Path] = []

    def mount(folder: Path) -> None:
        bind = ["mount", "--bind", str(folder), str(folder)]
        if shutil.which("mount") is None or subprocess.run(bind, capture_output=True).returncode:
            pytest.skip("needs the right to mount")
        mounted.append(folder)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def in_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Call a script as `script` does, but in this process, which has torch loaded already."""

    def call(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()
        status = run_script(name, *arguments, monkeypatch=monkeypatch)
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess([name, *arguments], status, out, err)

    return call


def run_script(name: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a script's own code in this process; returns its exit status."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    try:
        runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="__main__")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    return 0


@pytest.fixture
def on_text(text_file: Path) -> list[str]:
    """Arguments that select the small text and the small model."""
    return ["data=text", f"data.train=[{text_file}]", "data.held_out=0.2", *SMALL]
