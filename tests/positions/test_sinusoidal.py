import math

import torch

from alibi_lm.model.config import ModelConfig
from alibi_lm.positions.sinusoidal import Sinusoidal, SinusoidalConfig, sinusoidal_table


def test_table_by_hand() -> None:
    """fairseq's form: sines then cosines, the first position is 2, half - 1 steps of frequency."""
    table = sinusoidal_table(3, 6)
    for row, position in enumerate([2, 3, 4]):
        frequencies = [1.0, 10000**-0.5, 10000**-1.0]
        wanted = [math.sin(position * f) for f in frequencies]
        wanted += [math.cos(position * f) for f in frequencies]
        torch.testing.assert_close(table[row], torch.tensor(wanted))


def test_longer_tables_begin_like_shorter_ones() -> None:
    torch.testing.assert_close(sinusoidal_table(100, 16)[:10], sinusoidal_table(10, 16))


def test_embed_adds_the_same_to_every_sequence() -> None:
    x = torch.randn(4, 7, 16)
    added = Sinusoidal(SinusoidalConfig(), ModelConfig(d_model=16)).embed(x) - x
    torch.testing.assert_close(added, sinusoidal_table(7, 16).expand(4, 7, 16))


def test_width_must_be_even() -> None:
    assert SinusoidalConfig().problems(ModelConfig(d_model=15, n_heads=1))
    assert not SinusoidalConfig().problems(ModelConfig(d_model=16))
