import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from samples import ROW

from alibi_lm.errors import UserError
from alibi_lm.evaluation.protocols import Measurement, Nonoverlapping, SameTargets
from alibi_lm.evaluation.rows import (
    Row,
    append_row,
    csv_text,
    losses_file,
    metrics,
    read_results,
    read_rows,
    write_csv,
)


def write_jsonl(path: Path, rows: list[Row]) -> None:
    path.unlink(missing_ok=True)
    for row in rows:
        append_row(path, row)


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
    first, second = read_rows(path, Row, "results")
    assert first == ROW
    assert math.isnan(second.loss)
    assert dataclasses.replace(second, loss=0.0) == dataclasses.replace(BROKEN, loss=0.0)


def test_rows_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """Since the first one, columns were added; where there were none, there was one meaning."""
    added = ["status", "window", "variant", "settings", "sample", "changes", "identity", "reason"]
    added += ["prefix_consistent", "lost"]
    values = {k: v for k, v in dataclasses.asdict(ROW).items() if k not in added}
    (tmp_path / "a.jsonl").write_text(json.dumps(values) + "\n")
    (tmp_path / "a.csv").write_text(
        f"{','.join(values)}\n{','.join(map(str, values.values()))}\n".replace("None", "")
    )
    for name in ("a.jsonl", "a.csv"):
        (row,) = read_rows(tmp_path / name, Row, "results")
        assert (row.status, row.window, row.variant, row.settings) == ("complete", None, "", "")
        assert (row.ppl, row.lost) == (ROW.ppl, None)


def test_rows_that_went_through_a_spreadsheet(tmp_path: Path) -> None:
    text = csv_text([ROW, BROKEN])
    path = tmp_path / "results.csv"
    path.write_text(text.replace("True", "TRUE").replace("False", "FALSE"), encoding="utf-8-sig")
    first, second = read_rows(path, Row, "results")
    assert (first, second.dirty) == (ROW, True)
    for other, said in [
        (text.replace(",", ";"), "no column position; save it with commas between columns"),
        (text.replace("eval_length", "length", 1), "no column eval_length; it has position"),
        (text.replace("window", "windows", 1), "this version knows no column 'windows'"),
        (text.replace("3.25", "3,25"), "column"),
        (text.replace("complete,", "complete,x", 1), "column window holds 'x'"),
    ]:
        path.write_text(other)
        with pytest.raises(UserError, match="does not hold rows of results: ") as caught:
            read_rows(path, Row, "results")
        assert said in str(caught.value)


def test_a_metric_of_another_text_is_left_empty(tmp_path: Path) -> None:
    assert metrics(2.0, 10, 5, 40)[2:] == (math.exp(4.0), 20 / math.log(2) / 40)
    values = metrics(2.0, 10, 5, 40, lost=0.01)
    assert values == (2.0, math.exp(2.0), None, None)
    row = dataclasses.replace(ROW, lost=0.01, **values._asdict())
    for name in ("rows.csv", "rows.jsonl"):
        {"csv": write_csv, "jsonl": write_jsonl}[name[5:]](tmp_path / name, [row])
        assert read_rows(tmp_path / name, Row, "results") == [row]


def test_a_run_folder_is_read_by_its_results(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "results.jsonl", [ROW])
    assert [result.row for result in read_results(tmp_path)] == [ROW]
    report = tmp_path / "report"
    report.mkdir()
    other = dataclasses.replace(ROW, eval_length=9)
    write_csv(report / "results.csv", [ROW, other])
    assert [result.row for result in read_results(report)] == [ROW, other]


def test_a_sweeps_folder_is_read_by_its_runs(tmp_path: Path) -> None:
    """They may have been evaluated further since the sweep wrote its results.csv."""
    write_csv(tmp_path / "results.csv", [ROW])
    for name in ("b", "a"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        write_jsonl(
            tmp_path / "runs" / name / "results.jsonl",
            [dataclasses.replace(ROW, run=name, eval_length=n) for n in (8, 9)],
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
    file = losses_file(run, row.measurement)
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


def test_the_measurement_of_a_row() -> None:
    blocks = Nonoverlapping(128, stride=128)
    assert ROW.measurement == Measurement(blocks, "validation", "d", "float32")
    changes = {"protocol": "same_targets", "stride": None, "sample": 9, "window": 4}
    sampled = dataclasses.replace(ROW, **changes, dtype="bfloat16", changes="backend=flex")
    assert sampled.measurement == Measurement(
        SameTargets(128, sample=9), "validation", "d", "bfloat16", 4, "backend=flex"
    )


def test_a_protocol_that_is_not_registered_is_refused() -> None:
    with pytest.raises(UserError, match=r"protocol 'slding' does not exist \(did you mean sliding"):
        _ = dataclasses.replace(ROW, protocol="slding").measurement


def test_the_last_row_of_a_measurement_counts(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for seconds in (1.0, 2.0):
        append_row(path, dataclasses.replace(ROW, seconds=seconds))
    append_row(path, dataclasses.replace(ROW, dtype="bfloat16"))
    assert [result.row.seconds for result in read_results(path)] == [2.0, ROW.seconds]


def test_a_line_that_a_kill_cut_short_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append_row(path, ROW)
    whole = path.read_bytes()
    for cut in (1, 20, len(whole) - 1):
        path.write_bytes(whole + whole[:-cut])
        assert len(read_rows(path, Row, "results")) == 1
        append_row(path, BROKEN)
        assert [row.seed for row in read_rows(path, Row, "results")] == [ROW.seed, BROKEN.seed]


def test_rows_of_before_a_column_was_added_are_read(tmp_path: Path) -> None:
    later = dataclasses.make_dataclass("Later", [("added", int, 7)], bases=(Row,), frozen=True)
    append_row(tmp_path / "results.jsonl", ROW)
    write_csv(tmp_path / "results.csv", [ROW])
    for name in ("results.jsonl", "results.csv"):
        (row,) = read_rows(tmp_path / name, later, "results")
        assert row.added == 7
        assert dataclasses.asdict(row) == dataclasses.asdict(ROW) | {"added": 7}


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.csv", "a,b\n1,2\n"), ("x.jsonl", '{"position": "alibi"}\n'), ("y.jsonl", "not json\n")],
)
def test_files_of_something_else(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match="does not hold rows"):
        read_rows(tmp_path / name, Row, "results")
    with pytest.raises(UserError, match="cannot read"):
        read_rows(tmp_path / "gone.csv", Row, "results")
