import dataclasses
from pathlib import Path

import pytest
from samples import SPEED as ROW

from alibi_lm.benchmark.rows import Speed, read_speeds, speeds_csv
from alibi_lm.errors import UserError
from alibi_lm.report.speed import speed_figure, speed_note, speed_table
from alibi_lm.report.tables import markdown

OUT = dataclasses.replace(
    ROW,
    position="t5",
    status="out of memory",
    seconds=None,
    tokens_per_second=None,
    time_ratio=None,
    peak_memory_bytes=None,
    memory_ratio=None,
    flops_per_second=None,
    share=None,
    first_step_seconds=None,
)


def rows() -> list[Speed]:
    made = []
    for phase in ("training", "evaluation"):
        for length in (512, 1024):
            for position, ratio in (("none", 1.0), ("sinusoidal", 1.25), ("alibi", 1.0)):
                speed = 8192 / ratio
                made.append(
                    dataclasses.replace(
                        ROW,
                        phase=phase,
                        length=length,
                        position=position,
                        time_ratio=ratio,
                        tokens_per_second=speed,
                        peak_memory_bytes=int(100 * ratio) << 20,
                    )
                )
    peer = dataclasses.replace(
        ROW, library="x-transformers", position="alibi", time_ratio=3.0, time_ratio_to_ours=2.5
    )
    return [*made, peer, OUT]


def test_csv_keeps_every_value(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text(speeds_csv(rows()))
    assert read_speeds(tmp_path) == read_speeds(tmp_path / "results.csv") == rows()


def test_what_is_no_benchmark(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*: No such file"):
        read_speeds(tmp_path)
    (tmp_path / "results.csv").write_text("position,length\nalibi,512\n")
    with pytest.raises(UserError, match="does not hold rows of a benchmark"):
        read_speeds(tmp_path)


def test_table() -> None:
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in markdown(speed_table(rows())).splitlines()
    ]
    by_key = {tuple(line[:3] + line[4:5]): line for line in lines}
    ours = by_key["training", "sinusoidal", "alibi_lm", "512"]
    assert ours[5:] == ["6,554", "1.250", "125", "1.000", "50%", ""]
    assert by_key["training", "alibi", "x-transformers", "512"][-1] == "2.50"
    assert by_key["training", "t5", "alibi_lm", "512"][5:] == ["OOM", "", "", "", "", ""]
    compiled = speed_table([dataclasses.replace(ROW, compile=True)])
    assert compiled.body[0][-1] == "0.7"
    other = dataclasses.replace(ROW, tokens=5000, limit_flops_per_second=2e11)
    note = speed_note([ROW, other])
    assert "steps of 4,096 to 5,000 tokens" in note
    assert "a CPU, 2 threads, commit abc, torch 2.13.0. Limit of the share: 100 to 200" in note


def test_figure_relates_to_sinusoidal_and_lays_the_paper_under() -> None:
    assert speed_figure([row for row in rows() if row.position != "sinusoidal"]) is None
    figure = speed_figure(rows())
    assert figure
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["Training speed", "Evaluation speed", "Peak memory in training"]
    training, _, memory = figure.axes
    solid = [list(line.get_ydata()) for line in training.lines if line.get_linestyle() == "-"]
    assert solid.count([1.25, 1.25]) == 2  # none and alibi
    assert [0.8, 0.8] in [
        list(line.get_ydata()) for line in memory.lines if line.get_linestyle() == "-"
    ]
    dashed = [list(line.get_xdata()) for line in training.lines if line.get_linestyle() == "--"]
    assert [512, 1024, 3072] in dashed
