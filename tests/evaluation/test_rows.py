import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from samples import ROW

from alibi_lm.errors import UserError
from alibi_lm.evaluation.protocols import Protocol
from alibi_lm.evaluation.rows import (
    csv_text,
    losses_file,
    read_results,
    read_rows,
    write_csv,
    write_jsonl,
)

BROKEN = dataclasses.replace(
    ROW, loss=math.nan, ppl=math.inf, nonfinite=3, commit="abc", dirty=True, seed=1
)


def test_the_contract_comes_first() -> None:
    assert csv_text([]).strip().split(",")[:16] == [
        "position", "train_length", "eval_length", "protocol", "stride", "seed", "dataset",
        "split", "tokenizer", "tokens", "words", "bytes", "loss", "ppl", "word_ppl", "bpb",
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_nothing_is_lost(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"results.{suffix}"
    {"csv": write_csv, "jsonl": write_jsonl}[suffix](path, [ROW, BROKEN])
    first, second = read_rows(path)
    assert first == ROW
    assert math.isnan(second.loss)
    assert dataclasses.replace(second, loss=0.0) == dataclasses.replace(BROKEN, loss=0.0)


def test_a_run_folder_is_read_by_its_results(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "results.jsonl", [ROW])
    assert [result.row for result in read_results(tmp_path)] == [ROW]
    report = tmp_path / "report"
    report.mkdir()
    write_csv(report / "results.csv", [ROW, ROW])
    assert [result.row for result in read_results(report)] == [ROW, ROW]


def test_a_sweeps_folder_is_read_by_its_runs(tmp_path: Path) -> None:
    """They may have been evaluated further since the sweep wrote its results.csv."""
    write_csv(tmp_path / "results.csv", [ROW])
    for name in ("b", "a"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        write_jsonl(
            tmp_path / "runs" / name / "results.jsonl", [dataclasses.replace(ROW, run=name)] * 2
        )
    (tmp_path / "runs" / "not-evaluated").mkdir()
    assert [result.row.run for result in read_results(tmp_path)] == ["a", "a", "b", "b"]
    assert len(read_results(tmp_path / "results.csv")) == 1


def test_folders_without_results(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    (run / "manifest.json").write_text("{}")
    assert read_results(run) == []  # trained, not yet evaluated
    write_csv(tmp_path / "results.csv", [ROW])
    assert len(read_results(tmp_path)) == 1  # its runs are gone or empty


def test_losses_are_found_beside_their_rows_and_checked(tmp_path: Path) -> None:
    losses = np.array([3.0, 3.5], np.float32)
    row = dataclasses.replace(ROW, loss=3.25, tokens=2)
    run = tmp_path / "runs" / row.run
    file = losses_file(run, row.what)
    file.parent.mkdir(parents=True)
    np.save(file, losses)
    write_jsonl(run / "results.jsonl", [row])
    write_csv(tmp_path / "results.csv", [row])
    for source in (run, run / "results.jsonl", tmp_path, tmp_path / "results.csv"):
        (result,) = read_results(source)
        assert result.losses() is not None
        assert (result.losses() == losses).all()
    elsewhere = tmp_path / "elsewhere.csv"
    write_csv(elsewhere, [dataclasses.replace(row, run="gone")])
    assert read_results(elsewhere)[0].losses() is None
    write_jsonl(run / "results.jsonl", [dataclasses.replace(row, loss=3.25 * (1 + 1e-12))])
    assert read_results(run)[0].losses() is not None  # another machine's last digit
    np.save(file, losses[:1])
    with pytest.raises(UserError, match="does not belong to its row"):
        read_results(run)[0].losses()
    file.write_bytes(b"no array")
    with pytest.raises(UserError, match="is damaged"):
        read_results(run)[0].losses()


def test_what_names_the_measurement() -> None:
    assert ROW.what == Protocol("nonoverlapping", 128, "validation", stride=128)
    sampled = dataclasses.replace(ROW, protocol="same_targets", stride=None, tokens=9, window=4)
    assert sampled.what == Protocol("same_targets", 128, "validation", sample=9, window=4)


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.csv", "a,b\n1,2\n"), ("x.jsonl", '{"position": "alibi"}\n'), ("y.jsonl", "not json\n")],
)
def test_files_of_something_else(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match="does not hold rows"):
        read_rows(tmp_path / name)
    with pytest.raises(UserError, match="cannot read"):
        read_rows(tmp_path / "gone.csv")
