"""Every backend against the float64 definition with true distances: values and gradients."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alibi_lm import attention
from alibi_lm.attention import (
    ANY_BIAS,
    BACKENDS,
    Bias,
    Block,
    Circumstances,
    OnLogits,
    choose_backend,
    unsupported,
)
from alibi_lm.attention.blocks import BACKWARD_BLOCK, FORWARD_BLOCK, attend_blocks
from alibi_lm.attention.coordinates import widen
from alibi_lm.attention.flex import BLOCK, attend_flex, visible_blocks
from alibi_lm.attention.scored import attend_scored
from alibi_lm.benchmark.measure import rise
from alibi_lm.positions.alibi import alibi_slopes
from alibi_lm.positions.stickbreaking import BreakStick

FORMS = ("none", "key", "sequences", "distance", "both")
LENGTHS = (1, 2, 127, 128, 129, 300, FORWARD_BLOCK, FORWARD_BLOCK + 1, 2 * FORWARD_BLOCK + 7)


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Bias, backend: str = "auto", dropout: float = 0.0
) -> Tensor:
    return attention.attend(q, k, v, effective(bias, q.shape[2]), backend, dropout).out


def define(q: Tensor, k: Tensor, v: Tensor, matrix: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(head_dim) + matrix) v, in float64."""
    logits = q.double() @ k.double().mT / math.sqrt(v.shape[-1])
    return (logits + matrix.double()).softmax(-1) @ v.double()


def qkv(batch: int, heads: int, length: int, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = torch.randn(3, batch, heads, length, head_dim)
    return q, k, v


def true_distances(length: int) -> Tensor:
    i = torch.arange(length)
    return i[:, None] - i[None, :]


def alibi(heads: int, length: int) -> Bias:
    slopes = torch.tensor(alibi_slopes(heads))
    return Bias(by_key=slopes[:, None] * torch.arange(length).float())


def alibi_matrix(heads: int, length: int) -> Tensor:
    """-slope (i - j), from true distances in float64; -inf for the future."""
    slopes = torch.tensor(alibi_slopes(heads), dtype=torch.float64)
    distances = true_distances(length)
    return (-slopes[:, None, None] * distances).masked_fill(distances < 0, -math.inf)


def bias_of(
    form: str, heads: int, length: int, window: int | None = None, batch: int = 2, sinks: int = 0
) -> Bias:
    numbers = torch.randn(2, heads, length)
    by_key = numbers[1].double() if form in ("key", "both") else None
    if form == "sequences":
        by_key = torch.randn(batch, heads, length, dtype=torch.float64)
    by_distance = numbers[0] if form in ("distance", "both") else None
    return Bias(by_distance, by_key, window=window, sinks=sinks)


def defined(bias: Bias, heads: int, length: int) -> Tensor:
    """The matrix that a bias stands for, an entry at a time. (2, H, T, T), float64."""
    matrix = torch.full((2, heads, length, length), -math.inf, dtype=torch.float64)
    for i in range(length):
        for j in range(i + 1):
            if i - j >= (bias.window or length) and j >= bias.sinks:
                continue
            matrix[..., i, j] = 0.0
            if bias.by_distance is not None:
                matrix[..., i, j] += bias.by_distance[:, i - j]
            if bias.by_key is not None:
                matrix[..., i, j] += bias.by_key[..., j]
    return matrix


def problem(name: str, bias: Bias, device: str, training: bool, dropout: float = 0.0) -> str | None:
    return unsupported(name, bias.needs, Circumstances(device, training, dropout > 0))


def choose(bias: Bias, device: str, training: bool, dropout: float = 0.0) -> str:
    return choose_backend("auto", bias.needs, Circumstances(device, training, dropout > 0))


def effective(bias: Bias, length: int) -> Bias:
    return replace(bias, window=None).within(bias.window, length, bias.sinks)


def able(bias: Bias, length: int, training: bool) -> list[str]:
    seen = effective(bias, length)
    return [name for name in BACKENDS if problem(name, seen, "cpu", training) is None]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("window", [None, 1, 5, 40])
@pytest.mark.parametrize("sinks", [0, 2])
def test_the_reference_is_the_definition(form: str, window: int | None, sinks: int) -> None:
    q, k, v = qkv(2, 3, 20, 8)
    bias = bias_of(form, 3, 20, window, sinks=sinks)
    wanted = define(q, k, v, defined(bias, 3, 20))
    got = attend(q, k, v, bias, "reference")
    torch.testing.assert_close(got.double(), wanted, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", LENGTHS)
@torch.no_grad()
def test_every_backend_computes_the_reference(form: str, length: int) -> None:
    q, k, v = qkv(2, 3, length, 8)
    bias = bias_of(form, 3, length)
    wanted = attend(q, k, v, bias, "reference")
    for name in ("auto", *able(bias, length, training=False)):
        torch.testing.assert_close(attend(q, k, v, bias, name), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [1, 129, 2 * FORWARD_BLOCK + 7])
@pytest.mark.parametrize("window", [1, 2, 64, FORWARD_BLOCK - 1, FORWARD_BLOCK + 1, 10_000])
@torch.no_grad()
def test_a_window(form: str, length: int, window: int) -> None:
    q, k, v = qkv(2, 3, length, 8)
    bias = bias_of(form, 3, length, window)
    wanted = attend(q, k, v, bias, "reference")
    for name in ("auto", *able(bias, length, training=False)):
        torch.testing.assert_close(attend(q, k, v, bias, name), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [1, 128, BACKWARD_BLOCK + 3, 300])
@pytest.mark.parametrize("window", [None, 7, BACKWARD_BLOCK + 1])
def test_gradients_of_inputs_and_of_learned_biases(
    form: str, length: int, window: int | None
) -> None:
    inputs = [x.requires_grad_() for x in qkv(3, 2, length, 8)]
    bias = bias_of(form, 2, length, window, batch=3)
    learned = [x.requires_grad_() for x in (bias.by_distance, bias.by_key) if x is not None]
    weights = torch.randn(3, 2, length, 8)

    def gradients(name: str) -> tuple[Tensor, ...]:
        out = attend(*inputs, bias, name)
        return torch.autograd.grad((out * weights).sum(), [*inputs, *learned], allow_unused=True)

    wanted = gradients("reference")
    for name in ("auto", *able(bias, length, training=True)):
        for got, w in zip(gradients(name), wanted, strict=True):
            torch.testing.assert_close(got, w, atol=5e-5, rtol=1e-4)


def test_a_fixed_bias_by_key_leaves_the_gradients_of_inputs_right() -> None:
    inputs = [x.requires_grad_() for x in qkv(2, 3, 300, 8)]
    weights = torch.randn(2, 3, 300, 8)
    found = {
        name: torch.autograd.grad((attend(*inputs, alibi(3, 300), name) * weights).sum(), inputs)
        for name in ("reference", "row", "coordinates", "blocks")
    }
    for gradients in found.values():
        for got, wanted in zip(gradients, found["reference"], strict=True):
            torch.testing.assert_close(got, wanted, atol=5e-5, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    length=st.integers(1, 300),
    window=st.none() | st.integers(1, 300),
    sinks=st.sampled_from([0, 0, 1, 7]),
    form=st.sampled_from(FORMS),
    seed=st.integers(0, 1000),
)
def test_blocks_at_any_size(
    batch: int, heads: int, length: int, window: int | None, sinks: int, form: str, seed: int
) -> None:
    torch.manual_seed(seed)
    inputs = [x.requires_grad_() for x in qkv(batch, heads, length, 4)]
    bias = bias_of(form, heads, length, window, batch, sinks)
    learned = [x.requires_grad_() for x in (bias.by_distance, bias.by_key) if x is not None]
    weights = torch.randn(batch, heads, length, 4)
    able = ["scored", *(["blocks"] if not effective(bias, length).sinks else []), "reference"]
    *found, wanted = (
        torch.autograd.grad((attend(*inputs, bias, name) * weights).sum(), [*inputs, *learned])
        for name in able
    )
    for got in found:
        for g, w in zip(got, wanted, strict=True):
            torch.testing.assert_close(g, w, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", ["alibi", "distance"])
def test_16_bit_gradients_are_as_exact_as_their_rounding(dtype: torch.dtype, form: str) -> None:
    q, k, v = (x.to(dtype).requires_grad_() for x in qkv(2, 4, 300, 32))
    bias = alibi(4, 300) if form == "alibi" else bias_of("distance", 4, 300)
    learned = [] if form == "alibi" else [bias.by_distance.requires_grad_()]
    weights = torch.randn(2, 4, 300, 32).to(dtype)

    def gradients(name: str) -> tuple[Tensor, ...]:
        loss = (attend(q, k, v, bias, name) * weights).float().sum()
        return torch.autograd.grad(loss, [q, k, v, *learned])

    epsilon = torch.finfo(dtype).eps
    for got, wanted in zip(gradients("auto"), gradients("reference"), strict=True):
        size = wanted.double().abs().max()
        assert (got.double() - wanted.double()).abs().max() < 4 * epsilon * size


def test_autocast_rounds_no_bias() -> None:
    q, k, v = (x.bfloat16() for x in qkv(1, 2, 200, 16))
    numbers = -50 - torch.tensor([[0.7], [0.03]]) * torch.arange(200)  # that bfloat16 cannot hold
    for bias in (Bias(by_distance=numbers), Bias(by_key=-numbers), Bias(by_key=-numbers, window=9)):
        with torch.no_grad():
            for name in able(bias, 200, training=False):
                wanted = attend(q, k, v, bias, name)
                with torch.autocast("cpu", torch.bfloat16):
                    assert torch.equal(attend(q, k, v, bias, name), wanted), name


@pytest.mark.parametrize("form", ["none", "key", "distance"])
def test_autocast_rounds_no_gradient(form: str) -> None:
    inputs = [x.bfloat16().requires_grad_() for x in qkv(2, 2, 200, 16)]
    bias = bias_of(form, 2, 200)
    learned = [x.requires_grad_() for x in (bias.by_distance, bias.by_key) if x is not None]
    weights = torch.randn(2, 2, 200, 16).bfloat16()

    def gradients(name: str) -> tuple[Tensor, ...]:
        loss = (attend(*inputs, bias, name) * weights).float().sum()
        return torch.autograd.grad(loss, [*inputs, *learned])

    for name in able(bias, 200, training=True):
        wanted = gradients(name)
        # In the backward pass, too, but for `scored`: torch wants none there.
        with torch.autocast("cpu", torch.bfloat16, enabled=name != "scored"):
            found = gradients(name)
        for got, w in zip(found, wanted, strict=True):
            assert torch.equal(got, w), name


def test_queries_and_keys_that_a_scheme_left_in_float32() -> None:
    q, k, v = qkv(1, 2, 30, 8)
    for form in FORMS:
        bias = bias_of(form, 2, 30, batch=1)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            for name in able(bias, 30, training=False):
                assert attend(q, k, v.bfloat16(), bias, name).dtype == torch.bfloat16


LONGEST = 16_384
# The slopes of 8 and 12 heads are among those of 16.
SLOPES = torch.tensor(alibi_slopes(16), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_dim", [32, 64, 96, 128])
def test_16_bits_at_the_longest_length_are_as_exact_as_the_output(
    dtype: torch.dtype, head_dim: int
) -> None:
    """One head of each slope, the last queries: those with the farthest keys.

    The naive form (one rounded coordinate, a rounded mask) is wrong by up to the output itself.
    """
    assert set(alibi_slopes(8) + alibi_slopes(12)) <= set(SLOPES.tolist())
    rows = slice(LONGEST - 16, LONGEST)
    q = torch.randn(1, 16, 16, head_dim).to(dtype)
    k, v = torch.randn(2, 1, 16, LONGEST, head_dim).to(dtype)
    distances = torch.arange(LONGEST)[rows, None] - torch.arange(LONGEST)
    matrix = (-SLOPES[:, None, None] * distances).masked_fill(distances < 0, -math.inf)
    wanted = define(q, k, v, matrix)
    best = relative_error(wanted.to(dtype), wanted)
    future = torch.zeros(16, LONGEST).masked_fill(distances < 0, -math.inf)
    bias = Bias(by_key=(SLOPES[:, None] * torch.arange(LONGEST)).float())

    # The kernels are causal and would need all queries: their arithmetic, on the last alone.
    wide_q, wide_k, wide_v = widen(F.pad(q, (0, 0, LONGEST - 16, 0)), k, v, bias)
    scale = head_dim**-0.5
    coordinates = F.scaled_dot_product_attention(
        wide_q[:, :, rows], wide_k, wide_v, attn_mask=future, scale=scale
    )[..., :head_dim]
    row = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.by_key[None, :, None] + future)
    for got in (coordinates, row):
        assert (relative_error(got, wanted) < 1.5 * best + 1e-4).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_16_bits_of_whole_kernels(dtype: torch.dtype) -> None:
    """All queries of the steepest head and of the flattest, through `attend` itself."""
    length, head_dim = 4096, 32
    q, k, v = (x.to(dtype) for x in qkv(1, 2, length, head_dim))
    slopes = SLOPES[[0, -1]]
    distances = true_distances(length)
    matrix = (-slopes[:, None, None] * distances).masked_fill(distances < 0, -math.inf)
    wanted = define(q, k, v, matrix)
    best = relative_error(wanted.to(dtype), wanted)
    by_key = Bias(by_key=(slopes[:, None] * torch.arange(length)).float())
    by_distance = Bias(by_distance=(-slopes[:, None] * torch.arange(length)).float())
    for bias, names in ((by_key, ("row", "coordinates", "blocks")), (by_distance, ("blocks",))):
        for name in names:
            got = relative_error(attend(q, k, v, bias, name), wanted)
            assert (got < 1.5 * best + 1e-4).all(), name


def relative_error(x: Tensor, wanted: Tensor) -> Tensor:
    """Of each head."""
    by_head = (0, 2, 3)
    size = torch.linalg.vector_norm(wanted, dim=by_head)
    return torch.linalg.vector_norm(x.double() - wanted, dim=by_head) / size


def test_future_is_not_seen() -> None:
    q, k, v = qkv(1, 2, 50, 8)
    changed_k, changed_v = k.clone(), v.clone()
    changed_k[:, :, 30:], changed_v[:, :, 30:] = 9.0, 9.0
    for form in FORMS:
        bias = bias_of(form, 2, 50, batch=1)
        for name in able(bias, 50, training=False):
            with torch.no_grad():
                before = attend(q, k, v, bias, name)
                after = attend(q, changed_k, changed_v, bias, name)
            torch.testing.assert_close(before[:, :, :30], after[:, :, :30])
            assert not torch.allclose(before[:, :, 30:], after[:, :, 30:])


@settings(max_examples=60, deadline=None)
@given(
    blocks=st.integers(1, 6), window=st.integers(1, 6 * BLOCK), sinks=st.sampled_from([0, 4, 150])
)
def test_flex_visits_the_blocks_that_are_seen_and_masks_those_seen_in_part(
    blocks: int, window: int, sinks: int
) -> None:
    length = blocks * BLOCK
    bias = Bias(window=window, sinks=sinks)
    places = torch.arange(length)
    seen = bias.visible(places[:, None], places).view(blocks, BLOCK, blocks, BLOCK)
    mask = visible_blocks(length, window, sinks, torch.device("cpu"))
    whole, partly = torch.zeros(2, blocks, blocks, dtype=torch.bool)
    for of_row, counts, indices in (
        (partly, mask.kv_num_blocks, mask.kv_indices),
        (whole, mask.full_kv_num_blocks, mask.full_kv_indices),
    ):
        assert counts is not None
        assert indices is not None
        for row in range(blocks):
            of_row[row, indices[0, 0, row, : counts[0, 0, row]].long()] = True
    all_seen = seen.all(dim=3).all(dim=1)
    # One that is seen whole by sinks and window together may be masked all the same.
    assert torch.equal(whole, all_seen) if not sinks else not (whole & ~all_seen).any()
    assert torch.equal(partly | whole, seen.any(dim=3).any(dim=1))


def test_the_choice() -> None:
    key, learned = alibi(2, 9), Bias(by_key=torch.zeros(2, 9, requires_grad=True))
    distance, window = bias_of("distance", 2, 9), Bias(window=4)
    assert [choose(b, "cpu", True) for b in (Bias(), key, learned, distance, window)] == [
        "causal", "row", "row", "blocks", "blocks",
    ]  # fmt: skip
    assert [choose(b, "cuda", True) for b in (Bias(), key, learned, distance, window)] == [
        "causal", "coordinates", "coordinates", "flex", "flex",
    ]  # fmt: skip
    assert choose(learned, "cpu", False) == "row"
    for bias in (Bias(), key, learned, distance, window, bias_of("both", 2, 9, 4)):
        for device in ("cpu", "cuda"):
            for training in (True, False):
                chosen = choose(bias, device, training)
                assert problem(chosen, bias, device, training) is None


def test_a_backend_that_cannot_says_so_and_which_can() -> None:
    q, k, v = qkv(1, 2, 9, 8)
    for name, bias, words in (
        ("causal", alibi(2, 9), "causal cannot compute a bias; use row, coordinates"),
        (
            "row",
            bias_of("distance", 2, 9),
            "row cannot compute a bias by distance; use blocks, scored, ref",
        ),
        ("coordinates", Bias(window=4), "coordinates cannot compute a window; use blocks"),
        ("row", Bias(), "row computes a bias by key, and there is none; use causal"),
        ("flex", bias_of("distance", 2, 9), "flex has no gradients on a CPU; use blocks"),
    ):
        with pytest.raises(ValueError, match=words):
            attend(q, k, v, bias, name)
    assert "on a CPU only" in (problem("row", alibi(2, 9), "cuda", True) or "")
    assert all(problem(name, bias_of("both", 2, 9, 4), "cuda", True) is None for name in ANY_BIAS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [1, 127, 128, 129, 300])
@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu(form: str, length: int, window: int | None, dtype: torch.dtype) -> None:
    inputs = [x.to("cuda", dtype).requires_grad_() for x in qkv(2, 3, length, 32)]
    bias = bias_of(form, 3, length, window)
    numbers = [None if x is None else x.cuda() for x in (bias.by_distance, bias.by_key)]
    learned = [x.requires_grad_() for x in numbers if x is not None]
    bias = Bias(*numbers, window=window)
    weights = torch.randn(2, 3, length, 32, device="cuda", dtype=dtype)

    def computed(name: str) -> tuple[Tensor, ...]:
        out = attend(*inputs, bias, name)
        gradients = torch.autograd.grad((out * weights).float().sum(), [*inputs, *learned])
        return (out, *gradients)

    wanted = computed("reference")
    tolerance = {torch.float32: 1e-3, torch.bfloat16: 3e-2}[dtype]
    for name in BACKENDS:
        if problem(name, effective(bias, length), "cuda", True):
            continue
        for got, w in zip(computed(name), wanted, strict=True):
            assert (got - w).abs().max() <= tolerance * w.abs().max().clamp(min=1), name


@pytest.mark.parametrize("window", [1, 30, 250])
@pytest.mark.parametrize("sinks", [1, 5, 140])
@torch.no_grad()
def test_sinks(window: int, sinks: int) -> None:
    q, k, v = qkv(2, 3, 300, 8)
    for form in FORMS:
        bias = bias_of(form, 3, 300, window, sinks=sinks)
        wanted = attend(q, k, v, bias, "reference")
        names = able(bias, 300, training=False)
        assert names == ["scored", "flex", "reference"] or window + sinks >= 300
        for name in ("auto", *names):
            torch.testing.assert_close(attend(q, k, v, bias, name), wanted, atol=1e-5, rtol=1e-5)


def test_queries_and_keys_wider_than_values() -> None:
    """The scale is that of the values, whatever computes it."""
    (q, k), v = torch.randn(2, 2, 3, 140, 16), torch.randn(2, 3, 140, 8)
    for form in FORMS:
        bias = bias_of(form, 3, 140)
        wanted = define(q, k, v, defined(bias, 3, 140))
        with torch.no_grad():
            for name in ("auto", *able(bias, 140, training=False)):
                got = attend(q, k, v, bias, name)
                torch.testing.assert_close(got.double(), wanted, atol=1e-5, rtol=1e-5)


class Doubled(OnLogits):
    """Twice the logits, half of the softmax, and the query's own value: every method."""

    def __init__(self, factor: Tensor) -> None:
        self.factor = factor  # (H,)

    @property
    def has_score_mod(self) -> bool:
        return type(self) is Doubled

    def logits(self, logits: Tensor, block: Block) -> Tensor:
        return logits * self.factor[:, None, None]

    def score_mod(self, score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score * self.factor[h]


class Halved(Doubled):
    def weights(self, logits: Tensor, block: Block) -> Tensor:
        return super().weights(logits, block) / 2

    def output(self, weights: Tensor, block: Block) -> Tensor:
        return weights.sum(-1, keepdim=True) * block.v


@pytest.mark.parametrize("made", [Doubled, Halved])
@pytest.mark.parametrize("length", [1, 127, 129, 300])
def test_a_function_on_the_logits(made: type[Doubled], length: int) -> None:
    q, k, v = (x.requires_grad_() for x in qkv(2, 3, length, 8))
    factor = torch.tensor([2.0, 0.5, 1.0], requires_grad=True)
    numbers = bias_of("both", 3, length)
    bias = replace(numbers, on_logits=made(factor))
    added = defined(numbers, 3, length)
    future = added.isinf()
    logits = q.double() @ k.double().mT / 8**0.5 + added.masked_fill(future, 0)
    logits = (logits * factor.double()[:, None, None]).masked_fill(future, -math.inf)
    wanted = logits.softmax(-1) @ v.double()
    if made is Halved:
        wanted = wanted / 2 + v.double() / 2
    towards, leaves = torch.randn(2, 3, length, 8), [q, k, v, factor]
    gradients = torch.autograd.grad((wanted * towards).sum(), leaves)
    for name in ("auto", "scored", "reference"):
        got = attend(q, k, v, bias, name)
        torch.testing.assert_close(got.double(), wanted, atol=1e-5, rtol=1e-5)
        found = torch.autograd.grad((got * towards).sum(), leaves)
        for g, w in zip(found, gradients, strict=True):
            torch.testing.assert_close(g, w, atol=1e-4, rtol=1e-4)
    if made is Doubled:
        with torch.no_grad():
            flexed = attend(q, k, v, bias, "flex")
        torch.testing.assert_close(flexed.double(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["row", "blocks", "coordinates"])
def test_what_a_gate_gathers_is_no_rounding(backend: str) -> None:
    """Its gradient is a sum over all keys before it, and no less exact for a longer text."""
    length = 2048
    q, k, v = qkv(1, 4, length, 16)
    towards = torch.randn(1, 4, length, 16)

    def gradient(name: str, dtype: torch.dtype) -> Tensor:
        gates = torch.linspace(-2, 2, length, dtype=torch.float64).expand(1, 4, -1)
        gates = gates.clone().requires_grad_()
        bias = Bias(by_key=-F.logsigmoid(gates).cumsum(-1))
        out = attend(*(x.to(dtype) for x in (q, k, v)), bias, name)
        return torch.autograd.grad((out * towards).sum(), gates)[0]

    exact = gradient("reference", torch.float64)
    error = gradient(backend, torch.float32) - exact
    assert error.norm() < (1e-4 if backend == "coordinates" else 2e-5) * exact.norm()


@pytest.mark.parametrize("gates", [False, True])
@torch.inference_mode()
def test_the_error_in_float32_does_not_grow_with_length(gates: bool) -> None:
    """ALiBi's steepest of 8 heads, and gates that forget by half: the last queries of each."""
    for length in (512, 4096, 32_768):
        q, k, v = qkv(1, 1, length, 32)
        by_key = torch.arange(length, dtype=torch.float64)[None] / 2
        if gates:
            by_key = -F.logsigmoid(torch.randn(1, 1, length).double()).cumsum(-1)
        got, rows = attend(q, k, v, Bias(by_key=by_key)), slice(length - 64, length)
        i, j = torch.arange(length)[rows, None], torch.arange(length)
        matrix = by_key[..., None, :] - by_key[..., rows, None]
        wanted = define(q[:, :, rows], k, v, matrix.masked_fill(j > i, -math.inf))
        assert relative_error(got[:, :, rows], wanted).max() < 8e-6


def test_scored_drops_the_same_in_both_directions() -> None:
    q, k, v = (x.requires_grad_() for x in qkv(2, 2, 300, 8))
    bias = replace(bias_of("key", 2, 300), on_logits=Doubled(torch.ones(2)))

    def outcome() -> tuple[Tensor, ...]:
        torch.manual_seed(3)
        out = attend(q, k, v, bias, "scored", 0.3)
        return (out, *torch.autograd.grad(out.square().sum(), [q, k, v]))

    first, second = outcome(), outcome()
    assert all(map(torch.equal, first, second))
    # Of values that are all 1, the output is the sum of what was kept, and so is the gradient.
    ones = torch.ones(2, 2, 300, 8, requires_grad=True)
    out = attend(q.detach(), k.detach(), ones, bias, "scored", 0.3)
    assert out.mean().item() == pytest.approx(1, abs=0.02) and out.std() > 0.01
    (gradient,) = torch.autograd.grad(out.sum(), ones)
    torch.testing.assert_close(gradient.sum(), out.sum())


def test_scored_blocks_compiled() -> None:
    """One kernel for all blocks and lengths, with the same values and gradients."""
    for length in (300, 200):
        inputs = [x.requires_grad_() for x in qkv(2, 2, length, 8)]
        bias = Bias(on_logits=BreakStick(attend_current=False))

        def outcome(compiled: bool) -> tuple[Tensor, ...]:
            out = attend_scored(*inputs, bias, 0.0, compiled=compiled)  # noqa: B023
            return (out, *torch.autograd.grad(out.square().sum(), inputs))  # noqa: B023

        for got, wanted in zip(outcome(True), outcome(False), strict=True):
            torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_scored_stores_no_matrix() -> None:
    """What it holds at once grows with the length, not with its square."""
    held = []
    for length in (1024, 2048):
        inputs = [x.requires_grad_() for x in qkv(1, 2, length, 8)]
        bias = Bias(on_logits=Doubled(torch.ones(2)))
        held.append(
            rise(lambda: attend(*inputs, bias).sum().backward(), torch.device("cpu"))  # noqa: B023
        )
    assert held[1] < 2.2 * held[0]
    assert held[1] < 2 * 2048 * 2048 * 4 / 2  # half of one matrix


def test_flex_fills_up_to_its_block_and_cuts_off() -> None:
    q, k, v = qkv(1, 2, BLOCK + 5, 8)
    with torch.no_grad():
        assert attend_flex(q, k, v, Bias(), dropout=0.0).shape == q.shape


@pytest.mark.parametrize("window", [None, 150])
def test_blocks_drop_the_same_in_both_directions(window: int | None) -> None:
    """With the mask that blocks draw, the definition gives the same values and gradients."""
    batch, heads, length, dropout = 2, 2, 300, 0.3
    q, k, v = (x.requires_grad_() for x in qkv(batch, heads, length, 8))
    by_distance, by_key = (torch.randn(heads, length, requires_grad=True) for _ in range(2))
    bias = Bias(by_distance, by_key, window=window)
    leaves = [q, k, v, by_distance, by_key]

    torch.manual_seed(1)
    ours = attend(q, k, v, bias, "blocks", dropout)
    # The same attention with values that spell out which keys were kept.
    torch.manual_seed(1)
    spelled = torch.eye(length).expand(batch, heads, -1, -1)
    weights = attend_blocks(q.detach(), k.detach(), spelled, bias, dropout).detach()
    exact = (q @ k.mT * 8**-0.5 + bias.matrix(length).float()).softmax(-1)
    kept = (weights / exact).nan_to_num().round(decimals=2).detach()
    reachable = exact > 0
    assert ((kept == 0) | ((kept - 1 / 0.7).abs() < 0.02))[reachable].all()
    assert 0.68 < (kept[reachable] > 0).float().mean() < 0.72
    theirs = (exact * (kept > 0) / (1 - dropout)) @ v

    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    towards = torch.randn_like(v)
    for mine, wanted in zip(
        torch.autograd.grad(ours, leaves, towards),
        torch.autograd.grad(theirs, leaves, towards),
        strict=True,
    ):
        torch.testing.assert_close(mine, wanted, rtol=1e-3, atol=1e-4)


def test_where_dropout_can_be() -> None:
    no_bias, by_key = Bias(), Bias(by_key=torch.zeros(2, 4))
    assert choose(no_bias, "cpu", True, 0.1) == choose(by_key, "cpu", True, 0.1) == "blocks"
    assert choose(no_bias, "cuda", True, 0.1) == "causal"
    assert choose(by_key, "cuda", True, 0.1) == "coordinates"
    assert choose(Bias(by_distance=torch.zeros(2, 4)), "cuda", True, 0.1) == "blocks"
    for backend in ("causal", "row", "coordinates", "flex"):
        assert "dropout" in (problem(backend, by_key, "cpu", True, 0.1) or "")
    q, k, v = qkv(1, 2, 5, 8)
    assert not torch.equal(attend(q, k, v, no_bias, dropout=0.5), attend(q, k, v, no_bias))
    dropped = attend(q, k, v, no_bias, "reference", 0.5)
    assert not torch.equal(dropped, attend(q, k, v, no_bias))
