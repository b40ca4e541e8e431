import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread
from samples import ROW

from alibi_lm.errors import UserError
from alibi_lm.report import comparisons, figure, headings, table, write_report
from alibi_lm.results import Row, read_rows


def rows(**changes: object) -> list[Row]:
    """Two schemes, three lengths, two seeds; sinusoidal doubles with each length."""
    made = []
    for position, factor in (("sinusoidal", 2.0), ("alibi", 1.0)):
        for seed in (0, 1):
            for power, length in enumerate((64, 128, 256)):
                ppl = 10.0 * factor**power + seed
                made.append(
                    dataclasses.replace(
                        ROW, position=position, seed=seed, eval_length=length, ppl=ppl, **changes
                    )  # type: ignore[arg-type]
                )
    return made


def test_table() -> None:
    assert table(rows()).splitlines() == [
        "Perplexity per token; stdlib validation, bpe tokens, nonoverlapping; "
        "mean of 2 seeds ± half their range",
        "",
        "| position   |  L |           64 |          128 |          256 |",
        "| ---------- | -: | -----------: | -----------: | -----------: |",
        "| sinusoidal | 64 | 10.50 ± 0.50 | 20.50 ± 0.50 | 40.50 ± 0.50 |",
        "| alibi      | 64 | 10.50 ± 0.50 | 10.50 ± 0.50 | 10.50 ± 0.50 |",
    ]


def test_missing_cells_and_infinite_values() -> None:
    some = [r for r in rows() if r.seed == 0 and (r.position, r.eval_length) != ("alibi", 128)]
    some[0] = dataclasses.replace(some[0], ppl=math.inf)
    lines = table(some).splitlines()
    assert lines[-1].split("|")[4].strip() == "-"
    assert "inf" in lines[-2]


def test_uneven_seeds_are_told() -> None:
    uneven = [row for row in rows() if row.seed == 0 or row.eval_length == 64]
    assert "mean of 1 to 2 seeds" in table(uneven)


def test_only_comparable_rows_meet() -> None:
    mixed = [
        *rows(),
        *rows(dataset="novels"),
        *rows(protocol="sliding", stride=8),
        *rows(recipe="other"),
        *rows(train_length=128),
        *rows(seconds=9.0),  # the same measurements again
    ]
    groups = comparisons(mixed)
    assert len(groups) == 4
    assert sorted(len(curves) for curves in groups.values()) == [2, 2, 2, 4]
    assert all(len(c.points[64]) == 2 for curves in groups.values() for c in curves)
    assert len(set(headings(groups).values())) == 4


@pytest.mark.parametrize("case", ["one", "many", "broken"])
def test_figure_is_drawn(tmp_path: Path, case: str) -> None:
    some = rows()
    if case == "many":
        some += rows(dataset="novels") + rows(train_length=128)
    if case == "broken":
        some = [dataclasses.replace(row, ppl=math.inf) for row in some]
    figure(some, tmp_path / "figure.png")
    image = imread(tmp_path / "figure.png")
    assert image.shape[0] > 500
    assert len({tuple(pixel) for pixel in image[::7, ::7].reshape(-1, image.shape[2])}) > 4


def test_write_report(tmp_path: Path) -> None:
    paths = write_report(rows(), tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["results.csv", "table.md", "extrapolation.png"]
    assert read_rows(paths[0]) == rows()
    with pytest.raises(UserError, match="no rows"):
        write_report([], tmp_path)


def test_needs_no_torch() -> None:
    code = "import alibi_lm.report, alibi_lm.data.windows, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
