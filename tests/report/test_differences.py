import csv
import io
import math
from pathlib import Path

import pytest
from samples import ROW, result, study

from alibi_lm.evaluation.rows import Result
from alibi_lm.report.comparisons import comparisons
from alibi_lm.report.csv_files import differences_csv
from alibi_lm.report.differences import compare, differences, to_the_best


def test_pairs_at_each_length(tmp_path: Path) -> None:
    groups = comparisons(study(tmp_path))
    (curves,) = groups.values()
    found = differences(curves)
    assert [length for length, *_ in found] == [64, 128, 256]
    _, a, b, last = found[-1]
    assert (a.position, b.position) == ("sinusoidal", "alibi")
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
    assert differences_csv({}) == ""


def test_only_seeds_that_both_have_are_compared(tmp_path: Path) -> None:
    """ALiBi's seeds 1 and 2 are bad; of seed 0 alone, which T5 has too, ALiBi is the better one."""
    made = [
        result(tmp_path, lambda c, loss=loss: loss, position="alibi", seed=seed)
        for seed, loss in enumerate((3.0, 3.5, 3.5))
    ]
    made.append(result(tmp_path, lambda c: 3.2, position="t5", seed=0))
    (curves,) = comparisons(made).values()
    ((_, a, _, found),) = differences(curves)
    assert a.position == "t5"
    assert found.interval.estimate == pytest.approx(0.2, abs=1e-6)
    assert found.by_seed == pytest.approx((0.2,), abs=1e-6)
    (curves,) = comparisons([made[1], made[3]]).values()
    assert differences(curves) == []
    assert compare(curves[0], 128, curves[1], 128) is None


def test_a_loss_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    made = [
        result(tmp_path, lambda c: math.nan if c == 50 else 3.0, position="sinusoidal"),
        result(tmp_path, lambda c: 3.0, position="t5"),
        result(tmp_path, lambda c: math.inf if c == 50 else 3.0, position="alibi"),
        result(tmp_path, lambda c: 900.0, position="none"),
    ]
    (curves,) = comparisons(made).values()
    table = to_the_best(curves)
    assert table is not None
    assert {line[0]: line[2] for line in table.body} == {
        "none": "inf [inf, inf]",
        "sinusoidal": "nan [nan, nan]",
        "t5": "1",
        "alibi": "inf [inf, inf]",
    }
