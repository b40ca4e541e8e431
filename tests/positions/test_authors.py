"""Biases, embeddings and layers against numbers that their authors' own code computed."""

from typing import Any

import pytest
import torch
from authors import (
    DTYPES,
    Compare,
    Golden,
    added_by,
    at_length,
    backends,
    both_dtypes,
    causal,
    scheme,
    split_heads,
    weights_of,
)
from torch import Tensor

from alibi_lm.attention import Bias, attend
from alibi_lm.attention.reference import logits_of
from alibi_lm.positions import Draws, Sizes
from alibi_lm.positions.layered import LOCAL
from alibi_lm.positions.t5 import t5_buckets


@pytest.mark.golden("fox", "fox")
@both_dtypes
@torch.no_grad()
def test_fox(dtype: torch.dtype, compare: Compare) -> None:
    golden = Golden("fox", dtype)
    made = scheme("fox", Sizes(1, 4, 64, 48), dtype)
    made.gates[0].weight.copy_(golden["fgate_weight"])
    made.gates[0].bias.copy_(golden["fgate_bias"])
    for length in (7, 48, 100):
        x = golden["x"][:, :length]
        q, k, v = (split_heads(x @ golden[f"{name}_weight"].mT, 4) for name in "qkv")
        q, k, bias = made(0, x, q, k, at_length(made, length))
        for backend in backends(dtype):
            out = attend(q, k, v, bias, backend).out
            # The authors' float32 is itself up to 8.6e-6 from what float64 gives.
            wanted, rounding = golden[f"attn_output_{length}"], 0 if dtype.itemsize == 8 else 1e-5
            compare(out, wanted, 1e-5 + rounding)
        if length == 7:
            compare(causal(bias.matrix(7)[0]), golden["bias_7"], 1e-6)


@pytest.mark.golden("cable", "cable")
@both_dtypes
@torch.no_grad()
def test_cable(dtype: torch.dtype, compare: Compare) -> None:
    golden = Golden("cable", dtype)
    made = scheme("cable", Sizes(1, 4, 32, 48), dtype)
    made.gates[0].weight.copy_(golden["h_attn_weight"])
    made.gates[0].bias.copy_(golden["h_attn_bias"])
    for length in (7, 48, 100):
        x = golden["x"][:, :length]
        q, k, v = (
            split_heads(part, 4)
            for part in (x @ golden["c_attn_weight"].mT + golden["c_attn_bias"]).chunk(3, -1)
        )
        q, k, bias = made(0, x, q, k, at_length(made, length))
        for backend in backends(dtype):
            heads = attend(q, k, v, bias, backend).out.transpose(1, 2).flatten(-2)
            out = heads @ golden["c_proj_weight"].mT + golden["c_proj_bias"]
            compare(out, golden[f"layer_output_{length}"], DTYPES[dtype])


@pytest.mark.golden("kerple", "kerple")
@both_dtypes
@pytest.mark.parametrize("kernel", ["log", "power"])
def test_kerple(kernel: str, dtype: torch.dtype, compare: Compare) -> None:
    name = {"log": "kerple_log", "power": "kerple_power_ap_"}[kernel]
    golden = Golden("kerple", dtype)
    made = scheme("kerple", Sizes(1, 4, 32, 64), dtype, kernel=kernel)
    with torch.no_grad():
        for own in "pa":
            getattr(made, own).copy_(golden[f"{name}.bias_{own}.given"])
    made.constrain()
    for own in "pa":
        compare(getattr(made, own), golden[f"{name}.bias_{own}.after_clamp"], DTYPES[dtype])
    for length in (64, 600):
        by_distance = at_length(made, length).by_distance
        wanted = golden[f"{name}.bias_last_row.{length}"]
        compare(by_distance.flip(-1), wanted, DTYPES[dtype] * max(1, wanted.abs().max().item()))
    compare(
        causal(at_length(made, 7).matrix(7)), causal(golden[f"{name}.bias.7"]), 10 * DTYPES[dtype]
    )
    # The gradient of the sum of squares of all logits, which the clamp leaves alone.
    scores = golden[f"{name}.scores_in.7"] + at_length(made, 7).matrix(7).nan_to_num(0, 0, 0)
    scores.tril().square().sum().backward()
    for own in "pa":
        wanted = golden[f"{name}.bias_{own}.gradient"]
        compare(getattr(made, own).grad, wanted, DTYPES[dtype] * max(1, wanted.abs().max().item()))


@pytest.mark.golden("fire", "fire")
@both_dtypes
@torch.no_grad()
def test_fire(dtype: torch.dtype, compare: Compare) -> None:
    golden = Golden("fire", dtype)
    made = scheme("fire", Sizes(1, 4, 32, int(golden["param.init_L"])), dtype)
    layer: Any = made.layers[0]
    for name, parameter in (
        ("c", layer.c),
        ("L_multiplier", layer.threshold_factor),
        ("mlp.0.weight", layer.inner.weight),
        ("mlp.0.bias", layer.inner.bias),
        ("mlp.2.weight", layer.outer.weight),
        ("mlp.2.bias", layer.outer.bias),
    ):
        parameter.copy_(golden[f"param.{name}"].view_as(parameter))
    compare(added_by(made, 7, dtype), causal(golden["bias.7"]), DTYPES[dtype])
    for length in (64, 700):
        matrix = added_by(made, length, dtype)
        for key, row in golden.items():
            if key.startswith(f"bias_row.{length}."):
                i = int(key.rpartition(".")[2])
                compare(matrix[:, i, : i + 1], row, DTYPES[dtype])


@pytest.mark.golden("cope", "cope")
@both_dtypes
@pytest.mark.parametrize(
    "case",
    [
        "L7_npos4",
        "L7_npos8_nodiv",
        "L7_npos4_nodiv_sepkey",
        "L48_npos16",
        "L48_npos16_nodiv",
        "L80_npos16",
        "L80_npos81_sepkey",
    ],
)
@torch.no_grad()
def test_cope(case: str, dtype: torch.dtype, compare: Compare) -> None:
    golden = Golden("cope", dtype)
    length, npos = (int("".join(filter(str.isdigit, part))) for part in case.split("_")[:2])
    separate = case.endswith("sepkey")
    settings = {"npos": npos, "nodiv": "nodiv" in case, "separate_keys": separate}
    made = scheme("cope", Sizes(1, 4, 32, 48), dtype, **settings)
    made.tables[0].copy_(golden["pos_emb"][0, :, :npos])
    q, k, v = (golden[name][None, :, :length] for name in "qkv")
    x = torch.zeros(1, length, 32, dtype=dtype)
    if separate:  # gates whose keys are the file's, through weights of one
        made.gate_keys[0].weight.copy_(torch.eye(32))
        made.gate_keys[0].bias.zero_()
        x = golden["k_gates"][None, :, :length].transpose(1, 2).flatten(-2)
    q, k, bias = made(0, x, q, k, at_length(made, length))
    for backend in backends(dtype):
        out = attend(q, k, v, bias, backend).out[0]
        compare(out, golden[f"attn_output_{case}"], DTYPES[dtype])


@pytest.mark.golden("shaw", "shaw")
@both_dtypes
@torch.no_grad()
def test_shaw(dtype: torch.dtype, compare: Compare) -> None:
    golden, clip = Golden("shaw", dtype), 5
    for values in (True, False):
        made = scheme("shaw", Sizes(1, 4, 32, 24), dtype, clip=clip, values=values)
        # Their row clip is distance 0, row 0 the farthest; the rows above clip are the future.
        made.keys[0].copy_(golden["table_keys"][: clip + 1].flip(0))
        if values:
            made.values[0].copy_(golden["table_values"][: clip + 1].flip(0))
        for length in (7, 24):
            q, k, v = (golden[f"{name}.{length}"][None] for name in "qkv")
            q, k, bias = made(0, torch.zeros(1, length, 32), q, k, at_length(made, length))
            wanted = causal(golden[f"logits.{length}"])
            compare(causal(logits_of(q, k, v, bias)[0]), wanted, DTYPES[dtype])
            for backend in backends(dtype):
                out = attend(q, k, v, bias, backend).out[0]
                which = "keys_and_values" if values else "keys_only"
                compare(out, golden[f"output_{which}.{length}"], DTYPES[dtype])


@pytest.mark.golden("stickbreaking", "stickbreaking")
@both_dtypes
@pytest.mark.parametrize("current", [False, True], ids=["before", "current"])
@torch.no_grad()
def test_stickbreaking(current: bool, dtype: torch.dtype, compare: Compare) -> None:
    golden, ending = Golden("stickbreaking", dtype), "_attend_current" if current else ""
    for remainder, prefix in (("none", "attn_output"), ("value", "attn_output_plus_remainder_v")):
        settings = {"attend_current": current, "remainder": remainder}
        made = scheme("stickbreaking", Sizes(1, 4, 32, 32), dtype, **settings)
        for length in (7, 32, 70):
            q, k, v = (golden[name][:, :, :length] for name in "qkv")
            q, k, bias = made(0, torch.zeros(1, length, 32), q, k, at_length(made, length))
            for backend in backends(dtype):
                out = attend(q, k, v, bias, backend).out
                compare(out, golden[f"{prefix}_L{length}{ending}"], 1e-5)
    ones = torch.ones_like(golden["v"])
    made = scheme("stickbreaking", Sizes(1, 4, 32, 32), dtype, attend_current=current)
    bias = made(0, ones, golden["q"], golden["k"], None)[2]
    used = attend(golden["q"], golden["k"], ones, bias, "scored").out[..., 0]
    compare(1 - used, golden[f"remainder_L70{ending}"], 1e-5)


@pytest.mark.golden("learned", "learned")
@both_dtypes
@torch.no_grad()
def test_learned(dtype: torch.dtype, compare: Compare) -> None:
    golden = Golden("learned", dtype)
    made = scheme("learned", Sizes(1, 2, 16, 32), dtype)
    made.table.copy_(golden["table"])
    assert made.longest == 32
    for length in (7, 32):
        out = made.embed(golden["x"][None, :length], at_length(made, length))[0]
        compare(out, golden[f"embedded_{length}"], DTYPES[dtype])


@pytest.mark.golden("randomized", "randomized")
@torch.no_grad()
def test_randomized(compare: Compare) -> None:
    golden = Golden("randomized", torch.float32)
    drawn = golden["positions"]
    made = scheme("randomized", Sizes(1, 2, 16, 24), torch.float32, max_positions=100)
    q, k, _ = made(0, golden["q"][None], golden["q"][None], golden["k"][None], made.begin(drawn))
    compare(q[0], golden["q_rotated"], 1e-5)
    compare(k[0], golden["k_rotated"], 1e-5)
    compare(q[0] @ k[0].mT / 8**0.5, golden["logits"], 1e-5)
    base = {"kind": "sinusoidal", "table": "halves"}
    made = scheme("randomized", Sizes(1, 2, 16, 24), torch.float32, base=base, max_positions=100)
    compare(made.begin(drawn), golden["sinusoid"], 1e-5)
    compare(made.begin(torch.arange(100)), golden["table"], 1e-5)


@pytest.mark.golden("shape", "shape")
@torch.no_grad()
def test_shape(compare: Compare) -> None:
    golden = Golden("shape", torch.float32)
    made = scheme("shape", Sizes(1, 2, 16, 40), torch.float32, max_shift=100)
    x = golden["x"].transpose(0, 1) * 16**0.5  # (B, T, D); the decoder scales by sqrt(D)
    tokens = torch.zeros(x.shape[:2])
    for draws, wanted in ((None, "evaluated"), (Draws(0, golden["offsets"]), "trained")):
        out = made.embed(x, made.begin(made.positions(tokens, draws)))
        compare(out.transpose(0, 1), golden[wanted], 1e-5)


ROTARY = {
    "abf": {"theta": 500000.0},
    "linear": {"scaling": "linear", "factor": 4.0},
    "ntk": {"scaling": "ntk", "factor": 4.0},
    "dynamic_ntk": {"scaling": "dynamic"},
    "yarn": {"scaling": "yarn", "factor": 4.0},
    "llama3": {"scaling": "llama3", "factor": 4.0},
}


@pytest.mark.golden(
    "rotary", "rope_abf", "rope_linear", "rope_ntk", "rope_dynamic_ntk", "rope_yarn", "rope_llama3"
)
@pytest.mark.parametrize("scaling", ROTARY)
@torch.no_grad()
def test_rotary(scaling: str, compare: Compare) -> None:
    golden = Golden(f"rope_{scaling}", torch.float32)
    exact = Golden(f"rope_{scaling}")
    made: Any = scheme("rotary", Sizes(1, 2, 32, 64), torch.float32, **ROTARY[scaling])
    for length in (200, 7, 64):  # a shorter text after a longer one is read as if it came first
        compare(made.frequencies(length), exact[f"inv_freq64_{length}"], 1e-6)
        assert made.attention_factor == pytest.approx(golden[f"attention_factor_{length}"].item())
        q, k = (golden[name][None, :, :length] for name in "qk")
        q, k, _ = made(0, q, q, k, at_length(made, length))
        logits = (q @ k.mT / 4)[0]
        if length == 7:
            compare(q[0], golden["q_7"], 1e-5)
            compare(k[0], golden["k_7"], 1e-5)
            compare(logits, golden["logits_7"], 1e-5)
        if length == 200:
            # Both round angles of up to 200 radians to float32.
            compare(logits[:, -8:], golden["logits_last"], 1.1e-5)


@pytest.mark.golden(
    "rotary", "rope_abf", "rope_linear", "rope_ntk", "rope_dynamic_ntk", "rope_yarn", "rope_llama3"
)
@torch.no_grad()
def test_rotary_frequencies(compare: Compare) -> None:
    """Other settings: dynamic scaling with a factor, Meta's own model, YaRN with long texts."""

    def frequencies(width: int, train_length: int, length: int, **settings: Any) -> Tensor:
        sizes = Sizes(1, 1, width, train_length)
        made: Any = scheme("rotary", sizes, torch.float32, **settings)
        found: Tensor = made.frequencies(length)
        return found

    golden = Golden("rope_dynamic_ntk")
    for length in (7, 64, 200):
        got = frequencies(16, 64, length, scaling="dynamic", factor=4.0)
        compare(got, golden[f"factor_inv_freq64_{length}"], 1e-6)
    got = frequencies(128, 8192, 9, scaling="llama3", theta=5e5, factor=8.0)
    compare(got, Golden("rope_llama3")["meta_inv_freq"], 1e-6)
    golden = Golden("rope_yarn")
    for case, (width, theta, length, factor, fast, slow) in enumerate(
        [
            (64, 1e4, 512, 4.0, 32, 1),
            (128, 1e4, 4096, 16.0, 32, 1),
            (64, 1e4, 64, 8.0, 32, 1),
            (32, 5e5, 8192, 8.0, 64, 2),
            (8, 1e4, 16, 2.0, 32, 1),
        ]
    ):
        for truncate, ending in ((True, ""), (False, "_untruncated")):
            settings: dict[str, Any] = {"scaling": "yarn", "theta": theta, "factor": factor}
            settings |= {"beta_fast": float(fast), "beta_slow": float(slow), "truncate": truncate}
            got = frequencies(width, length, length, **settings)
            compare(got, golden[f"case{case}_inv_freq{ending}"], 1e-6)


@pytest.mark.golden("alibi", "alibi_variants")
@pytest.mark.parametrize("n_heads", [4, 6, 12, 16])
@torch.no_grad()
def test_alibi(n_heads: int, compare: Compare) -> None:
    golden, sizes = Golden("alibi_variants"), Sizes(1, n_heads, 8 * n_heads, 64)

    def made(**settings: Any) -> Any:
        return scheme("alibi", sizes, torch.float64, **settings)

    compare(made().slopes, golden[f"slopes.H{n_heads}"], 1e-7)
    compare(made(scale=2.5).slopes, golden[f"slopes_times_scalar.H{n_heads}"], 1e-6)
    compare(made(scale=0.25).slopes, golden[f"interpolated_factor4.H{n_heads}"], 1e-7)
    given = golden[f"slopes.H{n_heads}"].tolist()
    compare(made(slopes=given).slopes, golden[f"slopes.H{n_heads}"], 1e-7)
    for length in (256, 32, 64, 96):
        by_key = at_length(made(interpolated=True), length).by_key
        slopes = golden[f"interpolated_dynamic.H{n_heads}.{length}"]
        compare(by_key[:, 1] - by_key[:, 0], slopes, 1e-7)
    if f"q.H{n_heads}" in golden:
        q, k = (golden[f"{name}.H{n_heads}"][None] for name in "qk")
        for place, settings in (("after_scaling", {}), ("before_scaling", {"inside": True})):
            weights = weights_of(made(**settings), q, k)
            compare(weights, golden[f"probabilities.{place}.H{n_heads}"], 1e-7)


@pytest.mark.golden("alibi", "alibi_variants")
def test_alibi_with_learned_slopes(compare: Compare) -> None:
    golden = Golden("alibi_variants")
    made: Any = scheme("alibi", Sizes(1, 16, 128, 64), torch.float64, learned=True)
    compare(made.log_slopes.exp(), golden["slopes.H16"], 1e-7)
    with torch.no_grad():
        made.log_slopes.copy_(golden["learned.log_slopes"])
    matrix = at_length(made, 9).matrix(9)
    compare(matrix, causal(golden["learned.bias.9"]), 1e-9)
    matrix.masked_fill(matrix.isinf(), 0).square().sum().backward()
    wanted = golden["learned.gradient_of_sum_of_squares"]
    symmetric = 2 if golden["learned.bias.9"][0, 0, 1] != 0 else 1
    compare(symmetric * made.log_slopes.grad, wanted, 1e-9 * wanted.abs().max().item())


@pytest.mark.golden("temperature", "softmax_scale")
@pytest.mark.parametrize("temperature", ["logn", "logn_unclipped"])
@torch.no_grad()
def test_temperature(temperature: str, compare: Compare) -> None:
    golden = Golden("softmax_scale")
    name = {"logn": "logn_clipped"}.get(temperature, temperature)
    made: Any = scheme("none", Sizes(1, 4, 32, 10), torch.float64, temperature=temperature)
    compare(made.temperature.by_place(24)[:, 0], golden[f"scale.{name}"], 1e-9)
    compare(
        weights_of(made, golden["q"][None], golden["k"][None]),
        golden[f"probabilities.{name}"],
        1e-9,
    )


@pytest.mark.golden("window", "windows")
@pytest.mark.parametrize("window", [1, 4, 8])
@torch.no_grad()
def test_window(window: int, compare: Compare) -> None:
    golden = Golden("windows")
    made = scheme("none", Sizes(1, 2, 16, 40), torch.float64, window=window)
    weights = weights_of(made, golden["lambda.q"][None], golden["lambda.k"][None])
    compare(weights[0], golden[f"window.{window}.probabilities"], 1e-9)


@pytest.mark.golden("t5", "t5_bias")
@torch.no_grad()
def test_t5(compare: Compare) -> None:
    golden = Golden("t5_bias")
    for buckets, farthest in ((32, 128), (32, 256), (16, 64), (8, 20)):
        got = t5_buckets(torch.arange(400), buckets, farthest)
        compare(got, golden[f"bucket.{buckets}.{farthest}.f32"], 0)
    made = scheme("t5", Sizes(1, 4, 32, 64), torch.float64)
    made.relative_attention_bias.weight.copy_(golden["table"])
    bias: Bias = at_length(made, 400)
    assert bias.by_distance is not None
    compare(bias.by_distance, golden["bias_by_distance"], 1e-9)


@pytest.mark.golden("sandwich", "sandwich")
@torch.no_grad()
def test_sandwich(compare: Compare) -> None:
    golden = Golden("sandwich")
    for n_heads, width in ((4, 16), (12, 128)):
        made = scheme("sandwich", Sizes(1, n_heads, 12, 64), torch.float64, width=width)
        for length in (64, 600):
            wanted = golden[f"paper.bias_by_distance.H{n_heads}.d{width}.{length}"]
            compare(at_length(made, length).by_distance, wanted, 1e-9)


@pytest.mark.golden("layered", "interleaved")
@pytest.mark.parametrize(
    ("pattern", "preset"),
    [
        ("llama4_rotary", "llama4"),
        ("smollm3_rotary", "smollm3"),
        ("gemma3_sliding", "gemma3"),
        ("cohere2_sliding", "rnope_swa"),
    ],
)
@torch.no_grad()
def test_layered(pattern: str, preset: str, compare: Compare) -> None:
    """The layers of published models, told by whether q is rotated or keys are hidden."""
    wanted = Golden("interleaved")[pattern]
    # A window that hides nothing of the text, or a temperature that does nothing to it.
    local = 64 if pattern.endswith("rotary") else 8
    settings = {"preset": preset} | ({"local": local} if preset in LOCAL else {})
    made = scheme("layered", Sizes(len(wanted), 2, 16, 64), torch.float32, **settings)
    q = torch.randn(1, 2, 12, 8)
    found = []
    for layer in range(len(wanted)):
        turned, _, bias = made(layer, q, q, q, at_length(made, 12))
        rotated, hidden = not torch.equal(turned, q), bias.window is not None
        found.append(int(rotated if pattern.endswith("rotary") else hidden))
    compare(torch.tensor(found), wanted, 0)


@pytest.mark.golden("sinusoidal", "sinusoidal")
@torch.no_grad()
def test_sinusoidal(compare: Compare) -> None:
    golden = Golden("sinusoidal", torch.float32)
    for table, rows in (("fairseq", golden["fairseq"][2:]), ("paper", golden["paper"])):
        made = scheme("sinusoidal", Sizes(1, 2, 16, 64), torch.float32, table=table)
        compare(at_length(made, len(rows)), rows, 1e-5)
