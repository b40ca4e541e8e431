"""Every command of the README, run: as it stands, but on a small text with a small model.

`make repro` and `make test` are what the Makefile says; the lines of "Add a scheme" are run in
test_adding.py, and what `pip install .` installs in test_installation.py.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest
from conftest import ROOT
from tiny_models import save_model

README = (ROOT / "README.md").read_text(encoding="utf-8")
MODEL = ["model.n_layers=1", "model.n_heads=2", "model.d_model=16", "model.d_ff=32"]
STEPS = ["optim.steps=4", "optim.warmup_steps=0", "optim.tokens_per_step=128"]
READS = ["evaluation.lengths=[16,24]", "tracking=off", "cache=outputs/cache"]
SMALL = [*MODEL, *STEPS, *READS]
TEXT = ["data=text", "data.train=[*.md]", "data.held_out=0.2"]
HELD_OUT = ["data=text", "data.validation=[other.txt]"]
PAPER = ["model.cutoffs=[4,8]", "train_length=16", "position=alibi", "data.name=mine"]
PAPER += ["evaluation.lengths_past_training=[]"]
# What is added to a command that has these words, the first that are found.
ADDED = {
    "scripts/plan.py": ["train_length=512", "position=alibi"],
    "scripts/evaluate.py": READS,
    "train_length=64,128": [*SMALL, *TEXT],
    "experiment=extrapolation": [*SMALL, *TEXT, *PAPER],
    "data=hub": [*SMALL, "train_length=16", "data.path=hub"],
    "data=text": [*SMALL, "train_length=16"],
    "scripts/train.py": [*SMALL, *TEXT, "train_length=16", "model.cutoffs=[20,60]"],
}


def commands() -> list[list[str]]:
    """The words of each command of the README's shell blocks, less comments."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    text = "\n".join(blocks).replace("\\\n", " ")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


@pytest.fixture
def folder(tmp_path: Path, text_file: Path) -> Path:
    """What the README takes for granted: pages, another text, a data set of the hub's."""
    (tmp_path / "docs").mkdir()
    text = text_file.read_text()
    (tmp_path / "a.md").write_text(text)
    (tmp_path / "docs" / "b.md").write_text(text[::-1])
    (tmp_path / "other.txt").write_text(text[: len(text) // 2])
    rows = pandas.DataFrame({"text": [f"row {n} of a data set\n" * 20 for n in range(300)]})
    (tmp_path / "hub").mkdir()
    rows.to_parquet(tmp_path / "hub" / "train-00000-of-00001.parquet")
    return tmp_path


def test_every_command(
    folder: Path, script: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    ran = []
    for words in commands():
        if "python" not in words[0] and words[0] != "torchrun":
            continue  # below, or a variable of another test
        name = next(word for word in words if word.startswith("scripts/"))
        given = words[words.index(name) + 1 :]
        if "run=outputs/runs/NAME" in given:
            first = sorted((folder / "outputs" / "runs").glob("text-alibi-*"))[0]
            given = [f"run={first}" if word.startswith("run=") else word for word in given]
        if "model=OWNER/NAME" in given:
            model = save_model(folder / "model", "LlamaConfig")
            given = [*given, "cache=outputs/cache", *HELD_OUT]
            given[given.index("model=OWNER/NAME")] = f"model={model}"
        added = next((more for has, more in ADDED.items() if has in words), [])
        done = script(Path(name).stem, *given, *added)
        assert done.returncode == 0, (words, done.stderr[-2000:])
        ran.append(name)
    assert ran.count("scripts/sweep.py") >= 4
    assert "scripts/evaluate.py" in ran


def test_make_runs_what_it_says() -> None:
    for words in commands():
        if words[0] == "make":
            dry = subprocess.run(
                ["make", "-n", words[1], f"PYTHON={sys.executable}"],
                cwd=ROOT, capture_output=True, text=True, check=True,
            )  # fmt: skip
            wanted = {"repro": "scripts/sweep.py experiment=quickstart", "test": "-m pytest"}
            assert wanted[words[1]] in dry.stdout


def test_is_short() -> None:
    assert len(README.splitlines()) <= 150
