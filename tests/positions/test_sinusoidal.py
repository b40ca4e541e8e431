import math

import torch

from alibi_lm.positions import Sizes
from alibi_lm.positions.sinusoidal import Sinusoidal, SinusoidalConfig, sinusoids


def test_table_by_hand() -> None:
    """fairseq's form: sines then cosines, the first position is 2, half - 1 steps of frequency."""
    table = sinusoids(torch.arange(3), 6)
    for row, position in enumerate([2, 3, 4]):
        frequencies = [1.0, 10000**-0.5, 10000**-1.0]
        wanted = [math.sin(position * f) for f in frequencies]
        wanted += [math.cos(position * f) for f in frequencies]
        torch.testing.assert_close(table[row], torch.tensor(wanted))


def test_longer_tables_begin_like_shorter_ones() -> None:
    torch.testing.assert_close(
        sinusoids(torch.arange(100), 16)[:10], sinusoids(torch.arange(10), 16)
    )


def test_embed_adds_the_same_to_every_sequence() -> None:
    x = torch.randn(4, 7, 16)
    scheme = Sinusoidal(SinusoidalConfig(), Sizes(1, 2, 16, 64))
    added = scheme.embed(x, scheme.begin(torch.arange(7))) - x
    torch.testing.assert_close(added, sinusoids(torch.arange(7), 16).expand(4, 7, 16))


def test_width_must_be_even() -> None:
    assert SinusoidalConfig().problems(Sizes(1, 1, 15, 64))
    assert not SinusoidalConfig().problems(Sizes(1, 2, 16, 64))
