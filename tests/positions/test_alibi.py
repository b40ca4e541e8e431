import itertools

import pytest
import torch

from alibi_lm.positions import Sizes
from alibi_lm.positions.alibi import Alibi, AlibiConfig, alibi_slopes


def test_slopes_of_the_paper() -> None:
    assert alibi_slopes(8) == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    sixteen = alibi_slopes(16)
    assert sixteen[0] == pytest.approx(2**-0.5)
    assert sixteen[-1] == 2**-8
    ratios = [b / a for a, b in itertools.pairwise(sixteen)]
    assert ratios == pytest.approx([2**-0.5] * 15)


def test_slopes_of_other_head_counts() -> None:
    """The rule of the released code: those of 8, then every other one of 16."""
    assert alibi_slopes(12)[:8] == alibi_slopes(8)
    assert alibi_slopes(12)[8:] == pytest.approx([0.70711, 0.35355, 0.17678, 0.08839], abs=1e-5)
    assert alibi_slopes(1) == [2**-8]
    assert alibi_slopes(3) == [2**-4, 2**-8, 2**-2]


@pytest.mark.parametrize("n_heads", range(1, 33))
def test_every_head_has_a_slope_of_its_own_below_one(n_heads: int) -> None:
    slopes = alibi_slopes(n_heads)
    assert len(set(slopes)) == n_heads
    assert all(0 < slope < 1 for slope in slopes)


def test_bias_is_a_penalty_on_distance() -> None:
    bias = Alibi(AlibiConfig(), Sizes(1, 8, 64, 64)).begin(torch.arange(10))
    assert bias.by_key is not None
    row = bias.by_key
    for head, slope in enumerate(alibi_slopes(8)):
        relative = row[head] - row[head, 9]
        torch.testing.assert_close(relative.float(), -slope * torch.arange(9.0, -1.0, -1.0))
