"""Rotations, readings and positions against numbers that their authors' own code computed."""

from typing import Any

import pytest
import torch
from authors import (
    DTYPES,
    Compare,
    Golden,
    at_length,
    backends,
    both_dtypes,
    causal,
    scheme,
)
from torch import Tensor

from alibi_lm.attention import Bias, attend
from alibi_lm.attention.reference import logits_of
from alibi_lm.positions import Draws, Position, Sizes
from alibi_lm.positions.pose import with_gap
from alibi_lm.positions.rerotated import OtherRotations

TWO_HEADS = Sizes(1, 2, 32, 64)


def rotated(made: Position, golden: Golden, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and scaled logits at a length. (H, T, K), (H, T, T)."""
    q, k = (golden[name][None, :, :length] for name in "qk")
    head_dim = q.shape[-1]
    q, k, _ = made(0, torch.zeros(1, length, 1), q, k, at_length(made, length))
    return q[0], k[0], (q @ k.mT)[0] / head_dim**0.5


def compare_rotated(made: Position, golden: Golden, compare: Compare, prefix: str = "") -> None:
    """At all lengths of a file, the longest first: nothing is kept from it."""
    lengths = sorted({int(key.rpartition("_")[2]) for key in golden if key.startswith("q_")})
    for length in lengths[::-1]:
        q, k, logits = rotated(made, golden, length)
        # Both sides round angles of up to 200 radians to float32.
        tolerance = 1e-5 if length < 200 else 5e-5
        if not prefix:
            compare(q, golden[f"q_{length}"], tolerance)
            compare(k, golden[f"k_{length}"], tolerance)
        if (key := f"{prefix}logits_{length}") in golden:
            compare(logits, golden[key], tolerance)
    longest = lengths[-1]
    compare(rotated(made, golden, longest)[2][:, -8:], golden[f"{prefix}logits_last"], 5e-5)


@pytest.mark.golden("rotary part", "rope_partial")
@torch.no_grad()
def test_part(compare: Compare) -> None:
    golden = Golden("rope_partial", torch.float32)
    made: Any = scheme("rotary", TWO_HEADS, torch.float32, part=0.25)
    compare(made.frequencies(7), golden["inv_freq"], 1e-6)
    compare_rotated(made, golden, compare)


@pytest.mark.golden("rotary p", "rope_p")
@torch.no_grad()
def test_p(compare: Compare) -> None:
    golden = Golden("rope_p", torch.float32)
    compare_rotated(scheme("rotary", TWO_HEADS, torch.float32, p=0.75), golden, compare)
    quarter: Any = scheme("rotary", TWO_HEADS, torch.float32, p=0.25)
    compare(quarter.frequencies(7), Golden("rope_p")["p25_inv_freq64_7"], 1e-6)
    for case, (width, p) in enumerate(((24, 0.75), (10, 0.5), (64, 0.33), (16, 1.0), (16, 0.0))):
        made: Any = scheme("rotary", Sizes(1, 1, width, 64), torch.float32, p=p)
        compare(made.frequencies(7), golden[f"case{case}_inv_freq"], 1e-6)


@pytest.mark.golden("rotary longrope", "rope_longrope")
@torch.no_grad()
def test_longrope(compare: Compare) -> None:
    golden, exact = Golden("rope_longrope", torch.float32), Golden("rope_longrope")
    lists = {f"{name}_factors": exact[f"{name}_factors"].tolist() for name in ("short", "long")}
    settings: dict[str, Any] = {"scaling": "longrope", "factor": 4.0, **lists}
    made: Any = scheme("rotary", TWO_HEADS, torch.float32, **settings)
    for length in (200, 64, 7):
        compare(made.frequencies(length), exact[f"inv_freq64_{length}"], 1e-6)
        assert made.attention_factor == pytest.approx(exact[f"attention_factor_{length}"].item())
    compare_rotated(made, golden, compare)
    factor = exact["yarn_attention_factor_200"].item()
    other = scheme("rotary", TWO_HEADS, torch.float32, **settings, attention_factor=factor)
    compare(rotated(other, golden, 200)[2][:, -8:], golden["yarn_logits_last"], 5e-5)
    settings["scaling"] = "longrope_dynamic"
    del settings["short_factors"]
    made = scheme("rotary", TWO_HEADS, torch.float32, **settings)
    compare(made.frequencies(200), golden["dynamic_inv_freq"], 1e-6)


@pytest.mark.golden("xpos", "xpos")
@torch.no_grad()
def test_xpos(compare: Compare) -> None:
    golden = Golden("xpos", torch.float32)
    made: Any = scheme("xpos", TWO_HEADS, torch.float32)
    compare(made.log_zeta.exp(), golden["zeta"], 1e-6)
    compare_rotated(made, golden, compare)
    exact = rotated(made, golden, 200)[2][:, -8:].tril(192)
    compare(exact, golden["logits64_last"], 3e-5)


@pytest.mark.golden("fope", "fope")
@pytest.mark.parametrize(("case", "train_length"), [("a", 64), ("b", 700)])
@torch.no_grad()
def test_fope(case: str, train_length: int, compare: Compare) -> None:
    golden = Golden("fope", torch.float32)
    made: Any = scheme("fope", Sizes(1, 2, 32, train_length), torch.float32)
    compare(made.frequencies, golden[f"{case}_inv_freq"], 1e-6)
    made.cosines[0].copy_(golden[f"{case}_cos_coef"])
    made.sines[0].copy_(golden[f"{case}_sin_coef"])
    for length in (7, 100):
        q, k, logits = rotated(made, golden, length)
        compare(q, golden[f"{case}_q_{length}"], 1e-5)
        compare(k, golden[f"{case}_k_{length}"], 1e-5)
    compare(logits[:, -8:], golden[f"{case}_logits_100_last"], 3e-5)


def test_fope_draws_as_xavier_does() -> None:
    """torch's own Xavier over (H, F, G) has this deviation."""
    shape = (12, 5, 4)
    drawn = torch.nn.init.xavier_normal_(torch.empty(400 * shape[0], *shape[1:]), gain=0.3)
    made: Any = scheme("fope", Sizes(400, 12, 12 * 16, 700), torch.float32)
    coefficients = made.cosines - made.cosines.mean(0)
    fans = (5 * 4 + 12 * 4, 5 * 4 + 12 * 400 * 4)
    wanted = drawn.std() * (fans[1] / fans[0]) ** 0.5
    assert coefficients.std().item() == pytest.approx(wanted.item(), rel=0.03)


@pytest.mark.golden("pope", "pope")
@torch.no_grad()
def test_pope(compare: Compare) -> None:
    golden = Golden("pope", torch.float32)
    made: Any = scheme("pope", Sizes(1, 2, 16, 64), torch.float32)
    made.phases[0].copy_(golden["bias"])
    compare_rotated(made, golden, compare)
    # The scale is that of values, although queries are twice as wide.
    q, k = (golden[name][None, :, :64] for name in "qk")
    wide = made(0, q, q, k, at_length(made, 64))
    compare(logits_of(wide[0], wide[1], q, wide[2])[0], golden["logits_64"], 1e-5)


def in_pairs(halves: Tensor) -> Tensor:
    """From coordinates m and m + K/2 to neighbours."""
    return halves.unflatten(-1, (2, -1)).mT.flatten(-2)


@both_dtypes
@pytest.mark.golden("selective_rope", "selective_rope", "selective_rope_full")
@pytest.mark.parametrize("full", [False, True], ids=["low rank", "full"])
@torch.no_grad()
def test_selective_rope(full: bool, dtype: torch.dtype, compare: Compare) -> None:
    golden = Golden("selective_rope_full" if full else "selective_rope", dtype)
    settings: dict[str, Any] = {"rank": 5}
    if full:
        settings = {"rank": None, "gate": True, "bias": True, "theta": 10000.0, "largest": 2.0}
    made: Any = scheme("selective_rope", Sizes(1, 4, 32, 64), dtype, **settings)
    steps = made.layers[0]
    steps.convolution.weight.copy_(golden["param_phi_conv1d_weight"])
    if full:
        steps.full.copy_(golden["param_phi_proj_weight"])
        steps.scale.copy_(golden["param_phi_proj_scalar"])
        steps.bias.copy_(golden["param_phi_bias"].view(4, 1, 4))
        steps.gate.weight.copy_(golden["param_phase_gate_proj_weight"])
        steps.gate.bias.copy_(golden["param_phase_gate_proj_bias"])
    else:
        steps.down.weight.copy_(golden["param_phi_proj_0_weight"])
        steps.up.weight.copy_(golden["param_phi_proj_1_weight"])
    for length in (7, 40, 80):
        q, k = (in_pairs(golden[name][:, :length].transpose(1, 2)) for name in "qk")
        q, k, _ = made(0, golden["x"][:, :length], q, k, None)
        last = (q[:, :, -1:] @ k.mT)[:, :, 0] / 8**0.5
        # Their float32 sums of steps would be off by more; ours are added in float64.
        compare(last, golden[f"logits_last_row_{length}"], DTYPES[dtype])
        if length < 80:
            for got, name in ((q, "q"), (k, "k")):
                wanted = in_pairs(golden[f"{name}_rotated_{length}"]).transpose(1, 2)
                compare(got, wanted, DTYPES[dtype])


@pytest.mark.golden("learned interpolated", "learned")
@both_dtypes
@torch.no_grad()
def test_learned_interpolated(dtype: torch.dtype, compare: Compare) -> None:
    golden = Golden("learned", dtype)
    for how, prefix in (("centres", "interpolated"), ("ends", "aligned")):
        made: Any = scheme("learned", Sizes(1, 2, 16, 32), dtype, interpolated=how)
        made.table.copy_(golden["table"])
        assert made.longest is None and not made.prefix_consistent
        for length in (33, 64, 69):
            compare(at_length(made, length), golden[f"{prefix}_{length}"], DTYPES[dtype])
        compare(at_length(made, 32), golden["table"], 0)


@pytest.mark.golden("cape", "cape")
@torch.no_grad()
def test_cape(compare: Compare) -> None:
    golden = Golden("cape", torch.float32)
    made = scheme("cape", Sizes(1, 2, 16, 20), torch.float32, normalize=True)
    x = golden["x"] * 16**0.5  # the decoder scales by sqrt(D)
    compare(made.embed(x, made.begin(golden["positions"])), golden["trained"], 1e-5)
    positions = made.positions(torch.zeros(3, 20), None)
    compare(made.embed(x, made.begin(positions)), golden["evaluated"], 1e-5)


def test_cape_draws_within_bounds() -> None:
    made = scheme("cape", Sizes(1, 2, 16, 20), torch.float32, max_scale=1.5, normalize=True)
    drawn = made.positions(torch.zeros(500, 20), Draws(0, torch.arange(500)))
    centres, spread = drawn.mean(1), drawn[:, -1] - drawn[:, 0]
    assert (drawn.diff(dim=1) > 0).all()  # jitter keeps the order
    assert centres.abs().max() < (5 + 0.5) * 1.5 and centres.abs().max() > 4
    assert 18 / 1.5 < spread.min() < 15 and 25 < spread.max() < 20 * 1.5


@pytest.mark.golden("pose", "pose")
@torch.no_grad()
def test_pose(compare: Compare) -> None:
    """The authors' draws and ours have the same properties."""
    golden = Golden("pose")
    made = scheme("pose", Sizes(1, 2, 16, 32), torch.float32, target_length=128)
    ours = made.positions(torch.zeros(400, 32), Draws(0, torch.arange(400)))
    theirs = [golden[f"positions_{n}"] for n in range(8) if len(golden[f"positions_{n}"]) == 32]
    for positions in [*theirs, *ours]:
        steps = positions.diff()
        assert positions[0] == 0 and positions[-1] <= 127
        assert (steps >= 1).all() and (steps > 1).sum() <= 1
        first = int((steps > 1).nonzero().sum()) + 1
        assert first <= 16  # at most about half
        compare(with_gap(32, first, int(positions[-1]) - 31), positions, 0)
    gaps = ours[:, -1] - 31
    assert gaps.min() == 0 and gaps.max() >= 94
    assert made.positions(torch.zeros(1, 32), None).tolist() == list(range(32))


READINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "rerope": ("rerope", {"near": 12, "temperature": "logn"}),
    "leaky_rerope": ("rerope", {"near": 12, "leak": 0.25, "temperature": "logn"}),
    "self_extend": ("self_extend", {"near": 12, "group": 4}),
    "dca": ("dual_chunk", {}),
}


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(file, marks=pytest.mark.golden(kind, file), id=file)
        for file, (kind, _) in READINGS.items()
    ],
)
@torch.no_grad()
def test_readings(file: str, compare: Compare) -> None:
    golden = Golden(file, torch.float32)
    kind, settings = READINGS[file]
    made = scheme(kind, Sizes(1, 2, 32, 32), torch.float32, **settings)
    prefix = "g4_" if kind == "self_extend" else ""
    for length in (90, 40, 7):
        q, k, v = (golden[name][None, :, :length] for name in "qkv")
        q, k, bias = made(0, torch.zeros(1, length, 32), q, k, at_length(made, length))
        logits = logits_of(q, k, v, bias)[0].tril()
        compare(logits, golden[f"{prefix}logits_{length}"], 1e-5)
        for backend in backends(torch.float32):
            out = attend(q, k, v, bias, backend).out[0]
            compare(out, golden[f"{prefix}output_{length}"], 1e-5)
    if kind == "self_extend":
        made = scheme(kind, Sizes(1, 2, 32, 32), torch.float32, near=12, group=5)
        q, k, v = (golden[name][None] for name in "qkv")
        q, k, bias = made(0, q, q, k, at_length(made, 90))
        compare(logits_of(q, k, v, bias)[0].tril(), golden["g5_logits_90"], 1e-5)


@both_dtypes
@pytest.mark.golden("lambda_mask", "windows")
@torch.no_grad()
def test_lambda_mask(dtype: torch.dtype, compare: Compare) -> None:
    golden = Golden("windows", dtype)
    sizes = Sizes(1, 2, 16, 40)
    made: Any = scheme("lambda_mask", sizes, dtype, local=8, first=3, limit=20)
    _, _, bias = made(0, *[golden["lambda.q"][None]] * 3, at_length(made, 40))
    i = torch.arange(40)
    far = made.which(i[:, None], i).bool() & bias.visible(i[:, None], i)
    near = ~far & bias.visible(i[:, None], i)
    assert torch.equal(far, golden["lambda.mask_far"].bool())
    assert torch.equal(near, golden["lambda.mask_near"].bool())
    # Their far queries and keys are any; the function on the logits chooses between both.
    q, k, v, q_far, k_far = (
        golden[f"lambda.{name}"][None] for name in ("q", "k", "v", "q_far", "k_far")
    )
    function = OtherRotations(((q_far, k_far),), made.which)
    chosen = Bias(on_logits=function, window=bias.window, sinks=bias.sinks)
    for backend in backends(dtype):
        out = attend(q, k, v, chosen, backend).out[0]
        compare(out, golden["lambda.output"], DTYPES[dtype])


@both_dtypes
@pytest.mark.golden("alibi limit", "windows")
@torch.no_grad()
def test_lambda_mask_of_alibi(dtype: torch.dtype, compare: Compare) -> None:
    golden = Golden("windows", dtype)
    settings = {"slopes": golden["lambda_alibi.slopes"].tolist(), "limit": 10}
    made: Any = scheme("alibi", Sizes(1, 2, 16, 40), dtype, window=8, sinks=3, **settings)
    q, k, v = (golden[f"lambda.{name}"][None] for name in "qkv")
    q, k, bias = made(0, q, q, k, at_length(made, 40))
    for backend in backends(dtype):
        out = attend(q, k, v, bias, backend).out[0]
        compare(out, golden["lambda_alibi.output"], max(DTYPES[dtype], 1e-7))


@pytest.mark.golden("streaming", "windows")
@torch.no_grad()
def test_streaming(compare: Compare) -> None:
    """The keys that a query sees and its distance to each are those of the authors' cache."""
    seen = Golden("windows")["streaming.seen_positions"]
    made: Any = scheme("streaming", Sizes(1, 2, 16, 40), torch.float32, first=4, recent=12)
    q = torch.randn(1, 2, 40, 8)
    _, _, bias = made(0, q, q, q, at_length(made, 40))
    j = torch.arange(40)
    visible, which = bias.visible(j[:, None], j), made.which(j[:, None], j)
    places = made.places(40)
    for i in range(40):
        keys = seen[i][seen[i] >= 0]
        compare(visible[i].nonzero()[:, 0], keys, 0)
        for number, key in enumerate(keys.tolist()):
            of_q, of_k = places[which[i, key]]
            assert of_q[i] - of_k[key] == len(keys) - 1 - number


@pytest.mark.golden("temperature llama4", "interleaved")
@torch.no_grad()
def test_temperature_of_llama4(compare: Compare) -> None:
    golden = Golden("interleaved", torch.float32)
    settings: dict[str, Any] = {"temperature": "llama4", "temperature_floor": 16}
    made: Any = scheme("none", Sizes(1, 2, 32, 64), torch.float32, **settings)
    compare(made.temperature.by_place(70)[:, 0], golden["query_scale"], 1e-6)
    big: Any = scheme("none", Sizes(1, 2, 32, 64), torch.float32, temperature="llama4")
    positions = golden["positions_big"]
    factors = big.temperature.by_place(int(positions.max()) + 1)[positions, 0]
    compare(factors, golden["query_scale_big"], 1e-6)
    q, k, v = (golden[name][None] for name in "qkv")
    q, k, bias = made(0, q, q, k, at_length(made, 70))
    compare(causal(logits_of(q, k, v, bias)[0])[:, -8:], causal_rows(golden["logits_last"]), 1e-5)
    out = attend(q, k, v, bias).out.transpose(1, 2).flatten(-2)[0]
    compare(out @ golden["w_o"].mT, golden["output"], 2e-5)  # of up to 33


def causal_rows(last: Tensor) -> Tensor:
    """The last rows of logits, with -inf for the future."""
    length = last.shape[-1]
    future = torch.ones(length, length, dtype=torch.bool).triu(1)[-last.shape[-2] :]
    return last.masked_fill(future, -torch.inf)
