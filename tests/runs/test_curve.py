from pathlib import Path

import pytest

from alibi_lm.errors import UserError
from alibi_lm.runs.curve import CurveFile, read_curve


def test_what_came_after_the_checkpoint_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = CurveFile(path, 0)
    for step in (10, 20, 30):
        file.write({"step": step, "loss": 1 / step})
    file.sync()
    file.close()
    with path.open("a") as cut:  # a kill amid a line
        cut.write('{"step": 40, "lo')
    with pytest.raises(UserError, match="is damaged"):
        read_curve(path)
    file = CurveFile(path, 25)
    assert [line["step"] for line in read_curve(path)] == [10, 20]
    file.write({"step": 30, "loss": 0.5})
    file.close()
    assert read_curve(path)[-1] == {"step": 30, "loss": 0.5}
    with path.open("ab") as zeros:  # a loss of power
        zeros.write(bytes(100) + b"\n")
    CurveFile(path, 30).close()
    assert [line["step"] for line in read_curve(path)] == [10, 20, 30]
    CurveFile(path, 0).close()
    assert read_curve(path) == []


def test_no_curve(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        read_curve(tmp_path / "gone")
