import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import pytest
from samples import ROW, study

from alibi_lm.errors import UserError
from alibi_lm.evaluation.rows import Result, Row, read_rows
from alibi_lm.report import summary, write_report
from alibi_lm.report.claims import CLAIMS

DATA = {
    "report.html",
    "results.csv",
    "table.md",
    "table.tex",
    "claims.md",
    "loss_by_position.csv",
    "differences.csv",
}


def both(*names: str) -> set[str]:
    return {f"{name}.{suffix}" for name in names for suffix in ("png", "svg", "pdf")}


def test_all_in_one_folder(tmp_path: Path) -> None:
    results = study(tmp_path) + study(tmp_path, protocol="same_targets", stride=None, tokens=50)
    folder = tmp_path / "new" / "folder"
    paths = write_report(results, folder)
    figures = both("extrapolation", "relative", "loss_by_position", "same_targets")
    assert {path.name for path in paths} == {p.name for p in folder.iterdir()} == DATA | figures
    assert all(path.parent == folder and path.stat().st_size > 0 for path in paths)
    assert read_rows(folder / "results.csv", Row, "results") == [result.row for result in results]
    assert (folder / "table.md").read_text() == summary(results) + "\n"


def test_rows_alone_give_what_rows_can(tmp_path: Path) -> None:
    paths = write_report([Result(ROW)], tmp_path)
    # One length that is not the training length: nothing is relative to it.
    assert {path.name for path in paths} == DATA | both("extrapolation")
    assert (tmp_path / "differences.csv").read_text() == ""


def test_memory_that_ran_out_everywhere(tmp_path: Path) -> None:
    row = dataclasses.replace(ROW, loss=math.nan, ppl=math.nan, status="out of memory")
    paths = write_report([Result(row)], tmp_path)
    assert {path.name for path in paths} == DATA
    assert "<td>OOM</td>" in (tmp_path / "report.html").read_text()


def test_names_that_break_tables(tmp_path: Path) -> None:
    write_report([Result(dataclasses.replace(ROW, dataset="a|b\nc"))], tmp_path)
    lines = (tmp_path / "claims.md").read_text().splitlines()
    assert len(lines) == 2 + len(CLAIMS)
    assert all("a\\|b c validation" in line for line in lines[2:])


def test_the_papers_numbers_are_added_if_wanted(tmp_path: Path) -> None:
    results = study(tmp_path)
    assert "theirs: ppl" not in summary(results)
    assert "theirs: ppl" in summary(results, published=True)


def test_no_rows() -> None:
    with pytest.raises(UserError, match="no rows"):
        write_report([], Path("nowhere"))
    assert not Path("nowhere").exists()


def test_needs_no_torch() -> None:
    code = (
        "import alibi_lm.report, alibi_lm.evaluation.spans, sys; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
