import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alibi_lm.positions import Sizes
from alibi_lm.positions.rotary import Rotary, RotaryConfig


def rotate(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    scheme = Rotary(RotaryConfig(), Sizes(1, 1, q.shape[-1], 64))
    q, k, _ = scheme(0, q, q, k, scheme.begin(torch.arange(q.shape[2])))
    return q, k


def test_rotation_by_hand() -> None:
    """Neighbours form pairs: (x0, x1) turns by p, (x2, x3) by p / 100 at head size 4."""
    x = torch.tensor([[1.0, 0.0, 1.0, 0.0]] * 3).view(1, 1, 3, 4)
    q, k = rotate(x, 2 * x)
    for p in range(3):
        wanted = [math.cos(p), math.sin(p), math.cos(p / 100), math.sin(p / 100)]
        torch.testing.assert_close(q[0, 0, p], torch.tensor(wanted))
        torch.testing.assert_close(k[0, 0, p], 2 * torch.tensor(wanted))


@given(shift=st.integers(0, 500), seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_logits_depend_on_distance_alone(shift: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 16, generator=generator)
    length = shift + 20
    turned_q, turned_k = rotate(
        q.expand(1, 1, length, 16).contiguous(), k.expand(1, 1, length, 16).contiguous()
    )
    logits = turned_q[0, 0] @ turned_k[0, 0].T
    torch.testing.assert_close(
        logits[shift : shift + 20, shift : shift + 20], logits[:20, :20], atol=2e-3, rtol=1e-3
    )


def test_computed_in_float32_whatever_the_dtype() -> None:
    q = torch.randn(1, 1, 3000, 8)
    exact, _ = rotate(q.bfloat16().float(), q)
    rounded, _ = rotate(q.bfloat16(), q)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded, exact.bfloat16())


def test_head_size_must_be_even() -> None:
    assert RotaryConfig().problems(Sizes(1, 3, 15, 64))
    assert not RotaryConfig().problems(Sizes(1, 2, 16, 64))
