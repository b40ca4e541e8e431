from pathlib import Path

import pytest

from alibi_lm.errors import UserError
from alibi_lm.runs.curve import MetricsFile, read_metrics


def test_what_came_after_the_checkpoint_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, 0)
    for step in (10, 20, 30):
        file.write({"step": step, "loss": 1 / step})
    file.sync()
    file.close()
    with path.open("a") as cut:  # a kill amid a line
        cut.write('{"step": 40, "lo')
    with pytest.raises(UserError, match="is damaged"):
        read_metrics(path)
    file = MetricsFile(path, 25)
    assert [line["step"] for line in read_metrics(path)] == [10, 20]
    file.write({"step": 30, "loss": 0.5})
    file.close()
    assert read_metrics(path)[-1] == {"step": 30, "loss": 0.5}
    with path.open("ab") as zeros:  # a loss of power
        zeros.write(bytes(100) + b"\n")
    MetricsFile(path, 30).close()
    assert [line["step"] for line in read_metrics(path)] == [10, 20, 30]
    MetricsFile(path, 0).close()
    assert read_metrics(path) == []


def test_no_curve(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        read_metrics(tmp_path / "gone")
