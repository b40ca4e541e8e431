"""Bad input ends in plain lines on stderr and status 2, before any work; --help is worth reading.

Most cases run a script's own code in this process (the start of Python and torch is the slow part);
some of each kind run as real processes in `test_scripts.py`.
"""

from pathlib import Path

import pytest
from conftest import run_script

from alibi_lm.positions import SCHEMES

CASES = {
    "scheme": ("sweep", ["position=alibi,alibo"], "did you mean alibi?"),
    "group": ("sweep", ["positon=alibi"], "setting 'positon' does not exist (did you mean posit"),
    "key": ("train", ["model.n_layer=3"], "setting 'model.n_layer' does not exist"),
    "plus key": ("sweep", ["+model.n_layer=3"], "setting 'model.n_layer' does not exist"),
    "plus known key": ("train", ["+train_length=64"], "'train_length' exists; set it without"),
    "removed": ("train", ["~train_length"], "'~train_length' removes a setting"),
    "removed group": ("sweep", ["~position"], "'~position' removes a setting"),
    "no choice": ("sweep", ["position=null"], "position 'null' does not exist"),
    "quotes": ("sweep", ["data.train=[a (1).txt]"], "and in quotes what holds more than letters"),
    "other scheme's key": ("train", ["position.theta=5"], "only position=rotary or "),
    "type": (
        "train",
        ["train_length=abc"],
        "train_length: given abc, but it must be a whole number",
    ),
    "list": ("train", ["evaluation.lengths=64"], "must be a list, 'evaluation.lengths=[a,b]'"),
    "typo in a sweep": (
        "sweep",
        ["position=none,alibi", "optim.stesp=3"],
        "setting 'optim.stesp' does not exist (did you mean optim.steps?)",
    ),
    "kind in a sweep": ("plan", ["seed=0,1", "data=nope"], "data 'nope' does not exist"),
    "sweeper": ("sweep", ["hydra/sweeper=basic"], "hydra/sweeper: cannot be set"),
    "name with a folder": ("train", ["run=a/b"], "run: given a/b, but it must be a name"),
    "options": ("sweep", ["--cfg", "job", "-m"], "Only one of --run, --multirun, --cfg"),
    "several": ("train", ["position=none,alibi"], "names several runs; use -m"),
    "grammar": ("train", ["position=[a"], "cannot read 'position=[a'; write key=value"),
    "heads": ("train", ["model.n_heads=5"], "model.n_heads: given 5, but it must divide"),
    "head size": ("train", ["position=rotary", "model.d_model=12"], "needs an even head size"),
    "length": ("train", ["train_length=0"], "train_length: given 0, but it must be at least 1"),
    "eval length": ("sweep", ["evaluation.lengths=[0]"], "evaluation.lengths: given 0"),
    "batch": ("train", ["optim.micro_batch_size=0"], "optim.micro_batch_size: given 0"),
    "dtype": ("train", ["dtype=float8"], "dtype: given 'float8', but it must be one of float32"),
    "last member": ("sweep", ["seed=0,1,-2"], "seed: given -2, but it must be at least 0"),
    "no files": ("train", ["data=text"], "data.train: given no file"),
    "missing file": (
        "train",
        ["data=text", "data.train=[gone.txt]", "data.held_out=0.1"],
        "data.train: gone.txt matches no file",
    ),
    "no tokenizer": ("prepare", ["tokenizer=file"], "tokenizer.path: not given"),
    "no run": ("evaluate", [], "run: not given"),
    "gone run": ("evaluate", ["run=gone"], "run: gone is not a run folder"),
    "evaluate key": ("evaluate", ["run=x", "evaluation.length=4"], "evaluation.lengths?)"),
    "picture": ("report", ["results=[picture.png]"], "picture.png does not hold rows"),
    "no rows": ("report", ["results=[gone.csv]"], "cannot read gone.csv"),
    "output": ("sweep", ["output=file/below"], "cannot use file/below"),
    "cache": ("prepare", ["cache=file/below"], "cannot use file/below"),
    "experiment": ("sweep", ["experiment=slowstart"], "allowed: books"),
    "launcher": ("sweep", ["hydra/launcher=ray"], "for joblib: pip install -r requirements-joblib"),
    "tracking": (
        "sweep",
        ["tracking=on"],
        "tracking 'on' does not exist; allowed: off, offline, online",
    ),
    "project": ("train", ["tracking.project=''"], "tracking.project: given ''"),
    "parallel": ("train", ["parallel=tp"], "parallel: given 'tp', but it must be one of ddp, fsdp"),
    "seconds": ("train", ["checkpoint_seconds=-1"], "checkpoint_seconds: given -1.0, but it must"),
    "tracking of evaluate": ("evaluate", ["run=x", "tracking=on"], "tracking 'on' does not exist"),
    "no run again": ("reproduce", ["run=gone"], "run: gone is not a run folder"),
    "nothing for a dashboard": ("dashboard", ["results=[gone]", "dry_run=1"], "cannot read gone"),
    "backend": ("sweep", ["backend=flash"], "backend: given 'flash', but it must be one of auto"),
    "backend of scheme": (
        "sweep",
        ["position=alibi,t5", "backend=row"],
        "given row, but row cannot compute a bias by distance; use blocks, scored, reference",
    ),
    "backend and window": (
        "sweep",
        ["backend=row", "evaluation.attention=[window]"],
        "backend: given row, but row cannot compute a window; use blocks, scored, flex, reference",
    ),
    "benchmark of nothing": ("benchmark", ["lengths=[]"], "lengths: given none; name at least one"),
    "scheme of a benchmark": (
        "benchmark",
        ["positions=[none,albi]"],
        "positions: position 'albi' does not exist (did you mean alibi?)",
    ),
    "peer": ("benchmark", ["peers=[fairseq]"], "must be one of x-transformers, transformers"),
    "benchmark of one": (
        "benchmark",
        ["position=t5"],
        "setting 'position' does not exist (did you mean positions?)",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(
    case: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff")
    name, arguments, message = CASES[case]
    assert run_script(name, *arguments, monkeypatch=monkeypatch) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert all(line.startswith("error: ") for line in lines), lines
    assert message in lines[0]
    assert len(lines) <= 2
    # Nothing is trained and no folder is made.
    assert {path.name for path in tmp_path.iterdir()} == {"file", "picture.png"}


@pytest.mark.parametrize(
    "name",
    ["train", "sweep", "evaluate", "prepare", "report", "benchmark", "reproduce", "dashboard"],
)
def test_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script(name, "--help", monkeypatch=monkeypatch) == 0
    text = capsys.readouterr().out
    assert f"python scripts/{name}.py" in text
    if name in ("train", "sweep"):
        assert all(scheme in text for scheme in SCHEMES.settings)
        assert "tokens per training sequence (L in the paper)" in text
        assert "position.max_distance=128" in text
    if name == "evaluate":
        assert "evaluation.lengths=[64,128,256,512,1024]" in text
