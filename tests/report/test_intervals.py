import math

import numpy as np
import pytest

from alibi_lm.report.intervals import Interval, difference


def test_a_constant_difference_is_certain() -> None:
    a = np.random.default_rng(0).normal(size=5003)
    interval = difference(a + 0.25, a)
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((0.25,) * 3)
    assert interval.ratio.estimate == pytest.approx(math.exp(0.25))


def test_the_other_way_round() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 777))
    there, back = difference(a, b), difference(b, a)
    assert there.estimate == pytest.approx(-back.estimate)
    assert there.low == pytest.approx(-back.high)


def test_pairing_takes_out_what_both_share() -> None:
    """Hard and easy passages move both losses alike and leave the difference as it is."""
    rng = np.random.default_rng(0)
    text = np.repeat(rng.normal(0, 3, 50), 40)
    a, b = text + rng.normal(0, 0.1, 2000) + 0.05, text + rng.normal(0, 0.1, 2000)
    interval = difference(a, b)
    assert 0 < interval.low < interval.estimate < interval.high < 0.1


def test_pieces_widen_the_interval_where_neighbours_depend_on_each_other() -> None:
    rng = np.random.default_rng(0)
    alone = rng.normal(size=4000)
    together = np.repeat(rng.normal(size=100), 40)
    zero = np.zeros(4000)

    def width(x: np.ndarray) -> float:
        interval = difference(x, zero)
        return interval.high - interval.low

    assert width(together) > 4 * width(alone)


def test_coverage() -> None:
    """Of 200 intervals for a difference that is zero, about 95 % contain it."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        interval = difference(rng.normal(size=1000), rng.normal(size=1000))
        inside += interval.low <= 0 <= interval.high
    assert 180 <= inside <= 198


def test_few_tokens_and_other_tokens() -> None:
    assert difference(np.ones(3), np.zeros(3)) == Interval(1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="not the same tokens"):
        difference(np.ones(3), np.ones(4))


def test_losses_that_are_not_finite() -> None:
    fine, infinite, none = np.ones(300), np.ones(300), np.ones(300)
    infinite[7], none[7] = np.inf, np.nan
    assert difference(infinite, fine) == Interval(np.inf, np.inf, np.inf)
    assert difference(fine, infinite) == Interval(-np.inf, -np.inf, -np.inf)
    for a, b in ((none, fine), (fine, none), (infinite, infinite), (infinite, none)):
        assert math.isnan(difference(a, b).low)


def test_ratios_beyond_floats() -> None:
    assert difference(np.full(9, 900.0), np.zeros(9)).ratio.high == math.inf
