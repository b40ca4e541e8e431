"""The scripts as a user runs them: real processes in an empty folder, from text to figure."""

import csv
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT
from samples import ROW

from alibi_lm.evaluation.rows import write_csv

Script = Callable[..., subprocess.CompletedProcess[str]]


def test_sweep_from_text_to_figure_twice(
    cold_script: Script, in_process: Script, on_text: list[str], tmp_path: Path
) -> None:
    arguments = [*on_text, "position=none,sinusoidal,rotary,t5,alibi", "output=out"]
    first = cold_script("sweep", *arguments)
    assert first.returncode == 0, first.stderr
    assert "[5/5] train alibi" in first.stderr
    with (tmp_path / "out" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 * 2
    assert {(row["position"], row["eval_length"]) for row in rows} == {
        (position, length)
        for position in ("none", "sinusoidal", "rotary", "t5", "alibi")
        for length in ("16", "40")
    }
    assert len({row["tokens"] for row in rows}) == 1
    assert len({row["ppl"] for row in rows}) == len(rows)
    assert {row["backend"] for row in rows} == {"causal", "row", "blocks"}
    assert (tmp_path / "out" / "extrapolation.png").stat().st_size > 10_000
    assert (tmp_path / "out" / "table.md").read_text().strip() in first.stdout
    assert "How sure are the differences?" in (tmp_path / "out" / "report.html").read_text()

    again = in_process("sweep", *arguments)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("is already trained") == 5
    assert again.stdout.count("is already evaluated") == 5
    with (tmp_path / "out" / "results.csv").open() as file:
        assert list(csv.DictReader(file)) == rows


def test_train_then_evaluate_then_report(
    script: Script, in_process: Script, on_text: list[str], tmp_path: Path
) -> None:
    trained = script("train", *on_text, "position=t5", "output=out", "run=mine")
    assert trained.returncode == 0, trained.stderr
    folder = tmp_path / "out" / "runs" / "mine"
    assert str(folder.relative_to(tmp_path)) in trained.stdout
    assert not (folder / "results.jsonl").exists()

    evaluated = script(
        "evaluate", f"run={folder}", "evaluation.lengths=[20,33]", "tracking=offline"
    )
    assert evaluated.returncode == 0, evaluated.stderr
    assert len(list(folder.glob("wandb/offline-run-*"))) == 1
    assert "| t5         |  16 | " in evaluated.stdout
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [row["eval_length"] for row in rows] == [20, 33]

    more = in_process(
        "evaluate",
        f"run={folder}",
        "evaluation.lengths=[20,33]",
        "evaluation.protocols=[nonoverlapping,sliding,same_targets]",
        "evaluation.stride=4",
        "evaluation.targets=30",
        "evaluation.attention=[full,window]",
        "tracking=off",
    )
    assert more.returncode == 0, more.stderr
    lines = (folder / "results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines[:2]] == rows  # nothing is computed again
    assert len(lines) == 3 * 2 * 2
    assert len(list(folder.glob("wandb/offline-run-*"))) == 1
    assert "t5 window=16" in more.stdout

    reported = script("report", f"results=[{folder},{folder}/results.jsonl]", "output=report")
    assert reported.returncode == 0, reported.stderr
    assert len((tmp_path / "report" / "results.csv").read_text().splitlines()) == 1 + 12
    assert (tmp_path / "report" / "table.md").read_text().strip() in reported.stdout
    published = in_process("report", f"results=[{folder}]", "published=true", "output=paper")
    assert published.returncode == 0, published.stderr
    assert "Press et al. 2022" in (tmp_path / "paper" / "report.html").read_text()

    pictures = script("bias", f"sources=[{folder},alibi]", "length=40", "output=pictures")
    assert pictures.returncode == 0, pictures.stderr
    assert {p.name for p in (tmp_path / "pictures").iterdir()} == {
        "bias.png",
        "bias.svg",
        "bias.pdf",
    }

    other = in_process("train", *on_text, "position=alibi", "output=out", "run=mine")
    assert other.returncode == 2
    assert other.stderr.startswith("error: run folder out/runs/mine was trained with other")
    assert len(other.stderr.splitlines()) == 1


def test_a_run_reads_another_text_its_own_elsewhere_and_writes_elsewhere(
    script: Script, in_process: Script, text_file: Path, on_text: list[str], tmp_path: Path
) -> None:
    own = tmp_path / "own.txt"
    own.write_text(text_file.read_text())
    on_own = [a.replace(str(text_file), str(own)) for a in on_text]
    trained = script("train", *on_own, "data.name=owner/name", "output=out")
    assert trained.returncode == 0, trained.stderr
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    assert folder.name.startswith("owner-name-alibi-")
    evaluate = ["evaluate", f"run={folder}", "evaluation.lengths=[20]"]

    def rows(output: Path) -> list[tuple[str, str, int]]:
        lines = (output / "runs" / folder.name / "results.jsonl").read_text().splitlines()
        found = map(json.loads, lines)
        return [(row["dataset"], row["split"], row["eval_length"]) for row in found]

    assert in_process(*evaluate).returncode == 0
    (tmp_path / "other.txt").write_text("quite another text\nof two lines\n" * 30)
    for name in ("other", "third"):  # two texts of one name are two rows and two tables
        (tmp_path / f"{name}.txt").write_text(f"quite {name} text\nof two lines\n" * 30)
        data = ["data=text", f"data.test=[{name}.txt]", "evaluation.split=test", "data.name=x"]
        other = in_process(*evaluate, *data)
        assert other.returncode == 0, other.stderr
    assert rows(tmp_path / "out") == [
        ("owner/name", "validation", 20), ("x", "test", 20), ("x", "test", 20)
    ]  # fmt: skip
    report = in_process("report", "results=[out]", "output=report")
    assert report.stdout.count("Perplexity per token; x test") == 2
    lacks = in_process(*evaluate, "data=text", "data.test=[other.txt]")
    assert lacks.stderr.splitlines()[-1] == (
        "error: the data set text has no validation split; it has: test"
    )

    own.rename(tmp_path / "moved.txt")
    gone = in_process(*evaluate, "evaluation.lengths=[33]")
    assert gone.returncode == 2
    assert gone.stderr.endswith("is given as in training, with data=\n")
    moved = ["data=text", "data.train=[moved.txt]", "data.held_out=0.2"]
    there = in_process(*evaluate, *moved, "evaluation.lengths=[20,33]")
    assert there.returncode == 0, there.stderr
    assert rows(tmp_path / "out")[3:] == [("owner/name", "validation", 33)]

    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    mine = in_process(*evaluate, *moved, "evaluation.lengths=[20,33,40]", "output=mine")
    assert mine.returncode == 0, mine.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    here = [("owner/name", "validation", length) for length in (20, 33, 40)]
    assert rows(tmp_path / "mine") == here
    again = in_process("train", *on_text, "seed=1", "output=out", f"run={folder.name}x")
    assert again.returncode == 0, again.stderr
    (tmp_path / "out" / "runs" / f"{folder.name}x").rename(tmp_path / folder.name)
    other = in_process("evaluate", f"run={folder.name}", *evaluate[2:], "output=mine")
    assert other.returncode == 2
    assert other.stderr.endswith("is another run's folder\n")


def test_a_folder_that_cannot_be_written_is_read(
    script: Script, read_only: Callable[[Path], None], on_text: list[str], tmp_path: Path
) -> None:
    """Mounted so; to whoever may do all, rights alone forbid nothing."""
    arguments = [*on_text, "output=out", "run=mine"]
    assert script("train", *arguments).returncode == 0
    evaluate = ["evaluate", "run=out/runs/mine", "evaluation.lengths=[20]"]
    assert script(*evaluate).returncode == 0
    read_only(tmp_path / "out")
    assert script(*evaluate).returncode == 0
    more = script(*evaluate, "evaluation.lengths=[33]")
    assert more.returncode == 2
    assert more.stderr.splitlines()[-1] == (
        "error: out/runs/mine cannot be written; evaluate.py output=FOLDER puts rows elsewhere"
    )
    assert script(*evaluate, "evaluation.lengths=[33]", "output=mine").returncode == 0
    assert len((tmp_path / "mine/runs/mine/results.jsonl").read_text().splitlines()) == 1


def test_an_environment_of_half_a_launcher(
    in_process: Script, on_text: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "2"), ("RANK", "x")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            wrong = in_process("train", *on_text, "output=out")
        assert wrong.returncode == 2
        assert f"the environment has {name}={value}" in wrong.stderr
    assert not (tmp_path / "out").exists()


def test_what_is_printed_may_have_no_reader(
    cold_script: Script, on_text: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = cold_script("sweep", *on_text, "seed=0,1", "output=out")
    assert done.returncode == 0, done.stderr
    assert "mean of 2 seeds ? half their range" in done.stdout
    sweep = [sys.executable, str(ROOT / "scripts" / "sweep.py"), *on_text, "output=piped"]
    with subprocess.Popen(sweep, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1 run\n"
        process.stdout.close()
    assert process.returncode == 0
    assert (tmp_path / "piped" / "report.html").exists()


def test_a_length_beyond_the_split_trains_nothing(
    script: Script, on_text: list[str], tmp_path: Path
) -> None:
    result = script("sweep", *on_text, "evaluation.lengths=[16,1000000]", "output=out")
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "evaluation.lengths: given 1000000, but the validation split has" in errors[0]
    assert not list((tmp_path / "out").rglob("*.*"))


def test_different_runs_in_one_named_folder_are_refused_before_training(
    script: Script, on_text: list[str], tmp_path: Path
) -> None:
    result = script("sweep", *on_text, "position=alibi,t5", "run=mine", "output=out")
    assert result.returncode == 2
    assert "error: run: given mine, but the sweep's runs differ" in result.stderr
    assert not list((tmp_path / "out" / "runs").iterdir())


def test_a_failing_member_does_not_take_the_others_along(
    script: Script, in_process: Script, on_text: list[str], tmp_path: Path
) -> None:
    settings = [a for a in on_text if not a.startswith("optim.warmup")]
    swept = ["position=none,alibi", "optim.lr=1e20,1e-3"]
    result = script("sweep", *settings, "optim.warmup_steps=0", *swept, "output=out")
    assert result.returncode == 1, result.stderr
    with (tmp_path / "out" / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4
    said = result.stdout[result.stdout.index("2 of 4 runs failed:") :]
    lines = [line for line in said.splitlines() if line.startswith("| text-")]
    assert len(lines) == 2
    for line, position in zip(lines, ("none", "alibi"), strict=True):
        _, name, why, log, _ = map(str.strip, line.split("|"))
        assert name.startswith(f"text-{position}-L16-s0-")
        assert why.startswith("training stopped before update 2: the loss is nan")
        assert "NonfiniteError: training stopped" in (tmp_path / log).read_text()
    # The command runs just those again, and they fail again.
    _, command = said.split("to run just these again:\n")
    words = shlex.split(command)
    assert words[:2] == ["python", "scripts/sweep.py"]
    again = in_process("sweep", *words[2:])
    assert again.returncode == 1
    assert again.stdout.startswith("2 runs\n")
    assert "2 of 2 runs failed:" in again.stdout
    # A member whose rows are damaged fails, and the report is that of the rest.
    (damaged,) = (tmp_path / "out" / "runs").glob("text-none-*/results.jsonl")
    damaged.write_text("{\n")
    result = in_process("sweep", *settings, "optim.warmup_steps=0", *swept, "output=out")
    assert result.returncode == 1, result.stderr
    assert "3 of 4 runs failed:" in result.stdout
    assert f"| {damaged.relative_to(tmp_path)} does not hold rows of results" in result.stdout
    with (tmp_path / "out" / "results.csv").open() as file:
        assert {row["position"] for row in csv.DictReader(file)} == {"alibi"}


def test_benchmark(script: Script, tmp_path: Path) -> None:
    sizes = ["model.n_layers=1", "model.n_heads=2", "model.d_model=16", "model.d_ff=64"]
    small = [*sizes, "vocab_size=50", "tokens=64", "rounds=1", "lengths=[16,32]", "output=out"]
    result = script("benchmark", *small, "peers=[x-transformers,transformers]")
    assert result.returncode == 0, result.stderr
    with (tmp_path / "out" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == (5 + 5 + 2) * 2 * 2
    assert (tmp_path / "out" / "table.md").read_text().strip() in result.stdout
    assert (tmp_path / "out" / "speed.png").stat().st_size > 10_000
    # Its rows answer the claim about speed in a report.
    write_csv(tmp_path / "rows.csv", [ROW])
    reported = script("report", "results=[rows.csv]", "speed=out", "output=report")
    assert reported.returncode == 0, reported.stderr
    assert "L = 32: speed " in (tmp_path / "report" / "claims.md").read_text()
    assert "Speed and memory" in (tmp_path / "report" / "report.html").read_text()
    wrong = script("report", "results=[rows.csv]", "speed=rows.csv")
    assert wrong.stderr.startswith("error: rows.csv does not hold rows of a benchmark")
    assert "USDT" not in result.stdout + result.stderr  # the profiler keeps quiet


def test_prepare(script: Script, on_text: list[str]) -> None:
    result = script("prepare", *on_text)
    assert result.returncode == 0, result.stderr
    assert "bytes per token" in result.stdout


def test_reports_and_pictures_of_what_is_not_there(in_process: Script, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.csv").write_text("a,b\n")
    for arguments, line in (
        (("report", "results=[gone]"), "error: cannot read gone: No such file"),
        (("report", "results=[empty]"), "error: empty holds no results; evaluate its runs"),
        (("report", "results=[x.csv]"), "error: x.csv does not hold rows of results: no column"),
        (("bias", "sources=[nome]"), "error: scheme 'nome' does not exist (did you mean none?)"),
        (
            ("bias", "sources=[alibi]", "length=1"),
            "error: length: given 1, but it must",
        ),
    ):
        result = in_process(*arguments)
        assert result.returncode == 2
        assert result.stderr.startswith(line), result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "outputs").exists()
