"""Every backend against the float64 definition with true distances: values and gradients."""

import math

import pytest
import torch
from torch import Tensor

from alibi_lm.attention import (
    QUERY_BLOCK,
    Distance,
    Separable,
    Windowed,
    attend,
    attend_reference,
    backend,
    expand,
)
from alibi_lm.positions.alibi import alibi_slopes

LENGTHS = (1, 2, 127, 128, 129, 300, QUERY_BLOCK, QUERY_BLOCK + 1, 2 * QUERY_BLOCK + 7)


def qkv(batch: int, heads: int, length: int, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = torch.randn(3, batch, heads, length, head_dim)
    return q, k, v


def true_distances(length: int) -> Tensor:
    i = torch.arange(length)
    return (i[:, None] - i[None, :]).double()


def alibi(heads: int, length: int) -> tuple[Separable, Tensor]:
    """The compact form, and the matrix -slope (i - j) that it stands for."""
    slopes = torch.tensor(alibi_slopes(heads))
    keys = torch.arange(length).float()
    form = Separable(
        slopes.view(heads, 1, 1).expand(heads, length, 1),
        keys.view(1, length, 1).expand(heads, length, 1),
    )
    exact = torch.tensor(alibi_slopes(heads), dtype=torch.float64)
    return form, -exact[:, None, None] * true_distances(length)


def from_distances(f: Tensor) -> Tensor:
    """f(i - j) as a matrix; what stands above the diagonal does not matter."""
    length = f.shape[-1]
    return f[:, true_distances(length).clamp(min=0).long()]


@pytest.mark.parametrize("length", LENGTHS)
def test_causal(length: int) -> None:
    q, k, v = qkv(2, 3, length, 8)
    wanted = attend_reference(q, k, v, torch.zeros(3, length, length))
    torch.testing.assert_close(attend(q, k, v, None).double(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("head_dim", [8, 40])
def test_separable(length: int, head_dim: int) -> None:
    q, k, v = qkv(2, 3, length, head_dim)
    form, matrix = alibi(3, length)
    wanted = attend_reference(q, k, v, matrix)
    torch.testing.assert_close(attend(q, k, v, form).double(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", LENGTHS)
def test_distance(length: int) -> None:
    q, k, v = qkv(2, 3, length, 8)
    f = torch.randn(3, length)
    wanted = attend_reference(q, k, v, from_distances(f))
    torch.testing.assert_close(attend(q, k, v, Distance(f)).double(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["causal", "separable", "distance"])
@pytest.mark.parametrize("length", [1, 129, QUERY_BLOCK, 2 * QUERY_BLOCK + 7])
@pytest.mark.parametrize("window", [1, 2, 64, QUERY_BLOCK - 1, QUERY_BLOCK + 1, 10_000])
def test_windowed(kind: str, length: int, window: int) -> None:
    q, k, v = qkv(2, 3, length, 8)
    f = torch.randn(3, length)
    form, alibi_matrix = alibi(3, length)
    bias, matrix = {
        "causal": (None, torch.zeros(3, length, length)),
        "separable": (form, alibi_matrix),
        "distance": (Distance(f), from_distances(f)),
    }[kind]
    wanted = attend_reference(
        q, k, v, matrix.masked_fill(true_distances(length) >= window, -math.inf)
    )
    got = attend(q, k, v, Windowed(bias, window))
    torch.testing.assert_close(got.double(), wanted, atol=1e-5, rtol=1e-5)
    assert backend(Windowed(bias, window)) == backend(bias) + "_window"


def test_a_bias_expanded_is_its_matrix() -> None:
    f = torch.randn(3, 50)
    form, matrix = alibi(3, 50)
    past = true_distances(50) >= 0
    for whole, wanted in ((expand(form, 50), matrix), (expand(Distance(f), 50), from_distances(f))):
        torch.testing.assert_close(whole[:, past].double(), wanted[:, past].double())
        assert (whole[:, ~past] == -math.inf).all()


@pytest.mark.parametrize("kind", ["causal", "separable", "distance"])
@pytest.mark.parametrize("length", [1, 129, QUERY_BLOCK + 3])
def test_gradients(kind: str, length: int) -> None:
    heads = 2
    inputs = [x.requires_grad_() for x in qkv(2, heads, length, 8)]
    f = torch.randn(heads, length, requires_grad=True)
    form, matrix = alibi(heads, length)
    bias = {"causal": None, "separable": form, "distance": Distance(f)}[kind]
    reference = {
        "causal": torch.zeros(heads, length, length),
        "separable": matrix,
        "distance": from_distances(f),
    }[kind]
    weights = torch.randn(2, heads, length, 8)
    learned = [*inputs, f] if kind == "distance" else inputs
    got = torch.autograd.grad((attend(*inputs, bias) * weights).sum(), learned)
    wanted = torch.autograd.grad((attend_reference(*inputs, reference) * weights).sum(), learned)
    for g, w in zip(got, wanted, strict=True):
        torch.testing.assert_close(g, w, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_dim", [32, 40, 64, 96, 128])
def test_separable_in_16_bits_is_as_exact_as_its_output(dtype: torch.dtype, head_dim: int) -> None:
    """The naive form (one rounded coordinate) is wrong by a good part of the output here."""
    length, heads = 2048, 12  # the slopes of 8 heads and four that are no powers of two
    q, k, v = (x.to(dtype) for x in qkv(1, heads, length, head_dim))
    form, matrix = alibi(heads, length)
    last = slice(length - 64, length)  # the queries with the farthest keys; a full float64
    logits = q[:, :, last].double() @ k.double().transpose(-1, -2) / math.sqrt(head_dim)
    logits = (logits + matrix[:, last]).masked_fill(true_distances(length)[last] < 0, -math.inf)
    wanted = logits.softmax(-1) @ v.double()
    got = attend(q, k, v, form)[:, :, last].double()

    def relative(x: Tensor) -> Tensor:
        by_head = (0, 2, 3)
        wanted_size = torch.linalg.vector_norm(wanted, dim=by_head)
        return torch.linalg.vector_norm(x - wanted, dim=by_head) / wanted_size

    assert relative(got).max() < 3 * relative(wanted.to(dtype).double()).max()


def test_future_is_not_seen() -> None:
    q, k, v = qkv(1, 2, 50, 8)
    form, _ = alibi(2, 50)
    for bias in (None, form, Distance(torch.randn(2, 50))):
        before = attend(q, k, v, bias)
        changed_k, changed_v = k.clone(), v.clone()
        changed_k[:, :, 30:], changed_v[:, :, 30:] = 9.0, 9.0
        after = attend(q, changed_k, changed_v, bias)
        torch.testing.assert_close(before[:, :, :30], after[:, :, :30])
        assert not torch.allclose(before[:, :, 30:], after[:, :, 30:])
