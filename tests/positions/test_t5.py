import torch

from alibi_lm.positions import Sizes
from alibi_lm.positions.t5 import T5Bias, T5Config, t5_buckets


def test_bucket_table() -> None:
    """32 buckets, distance 128: exact to 15, then 16 + floor(16 ln(d / 16) / ln 8), at most 31."""
    buckets = t5_buckets(torch.arange(200), 32, 128).tolist()
    assert buckets[:16] == list(range(16))
    starts = {bucket: buckets.index(bucket) for bucket in range(16, 32)}
    assert starts == {
        16: 16, 17: 19, 18: 21, 19: 24, 20: 27, 21: 31, 22: 35, 23: 40,
        24: 46, 25: 52, 26: 59, 27: 67, 28: 77, 29: 87, 30: 99, 31: 113,
    }  # fmt: skip
    assert set(buckets[113:]) == {31}


def test_bias_looks_the_table_up() -> None:
    scheme = T5Bias(T5Config(), Sizes(1, 3, 12, 64))
    table = scheme.relative_attention_bias.weight
    bias = scheme.begin(torch.arange(150))
    assert bias.by_distance is not None
    for distance, bucket in [(0, 0), (15, 15), (16, 16), (18, 16), (19, 17), (149, 31)]:
        torch.testing.assert_close(bias.by_distance[:, distance], table[bucket])


def test_bad_buckets() -> None:
    model = Sizes(1, 4, 32, 64)
    assert T5Config(num_buckets=31).problems(model)
    assert T5Config(num_buckets=32, max_distance=16).problems(model)
    assert not T5Config().problems(model)
