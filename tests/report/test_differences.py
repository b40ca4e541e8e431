import csv
import io
from pathlib import Path

import pytest
from samples import ROW, study

from alibi_lm.report.comparisons import comparisons
from alibi_lm.report.csv_files import differences_csv
from alibi_lm.report.differences import differences, to_the_best
from alibi_lm.results import Result


def test_pairs_at_each_length(tmp_path: Path) -> None:
    groups = comparisons(study(tmp_path))
    (curves,) = groups.values()
    found = differences(curves)
    assert [d.length for d in found] == [64, 128, 256]
    last = found[-1]
    assert (last.a.position, last.b.position) == ("sinusoidal", "alibi")
    # Of blocks of 256, three quarters have more than 64 tokens of context: 0.6 nats more there.
    expected = 0.6 * (1000 - 4 * 64) / 1000
    assert last.interval.estimate == pytest.approx(expected, abs=1e-6)
    assert last.interval.low <= expected <= last.interval.high
    assert last.by_seed == pytest.approx((expected, expected), abs=1e-6)
    lines = list(csv.DictReader(io.StringIO(differences_csv(groups))))
    assert len(lines) == 3
    assert float(lines[-1]["loss_a_minus_b"]) == last.interval.estimate
    assert lines[-1]["seeds"] == "2"


def test_ratios_to_the_best(tmp_path: Path) -> None:
    (curves,) = comparisons(study(tmp_path)).values()
    table = to_the_best(curves)
    assert table is not None
    assert table.body[1][-1] == "1"
    assert table.body[0][-1].startswith("1.5")
    assert (1, 4) in table.best


def test_without_token_losses() -> None:
    (curves,) = comparisons([Result(ROW)]).values()
    assert differences(curves) == []
    assert to_the_best(curves) is None
    assert differences_csv({}) == "\n"
