"""Functions on the logits and gates against numbers that their authors' own code computed."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from authors import (
    DTYPES,
    Compare,
    Golden,
    at_length,
    backends,
    both_dtypes,
    causal,
    scheme,
    split_heads,
    weights_of,
)
from torch import Tensor

from alibi_lm.attention import attend
from alibi_lm.attention.reference import logits_of
from alibi_lm.data.sources.text import TextConfig
from alibi_lm.data.tokenizers import BpeConfig
from alibi_lm.data.tokens import prepare
from alibi_lm.positions import Draws, Sizes
from alibi_lm.positions.alibi import alibi_slopes
from alibi_lm.positions.selective import selection
from alibi_lm.positions.seqpe import sum_of_divergences

FOUR_HEADS = Sizes(1, 4, 32, 48)


def projected(golden: Golden, x: Tensor, n_heads: int) -> list[Tensor]:
    """Queries, keys and values of a file's weights. (B, H, T, K) each."""
    return [split_heads(x @ golden[f"{name}_weight"].mT, n_heads) for name in "qkv"]


@pytest.mark.golden("fox gate", "fox")
@torch.no_grad()
def test_fox_without_data(compare: Compare) -> None:
    golden = Golden("fox")
    for gate in ("bias", "fixed"):
        settings = {"gate": gate, "decay_times": [2.0, 512.0]}
        made: Any = scheme("fox", Sizes(2, 4, 64, 48), torch.float64, **settings)
        offsets = made.offsets[1] if gate == "bias" else made.first_offsets
        compare(offsets, golden["bias_only_init_tmin2_tmax512"], 1e-5)
        # That is ALiBi with slopes 1 / t, t from 2 to 512.
        by_key = made(0, torch.zeros(1, 9, 64), *[torch.zeros(1, 4, 9, 16)] * 2, None)[2].by_key
        slopes = torch.logspace(1, 9, 4, base=2, dtype=torch.float64) ** -1
        torch.testing.assert_close(by_key.diff(dim=-1)[:, 3], slopes, rtol=1e-6, atol=0)


@both_dtypes
@pytest.mark.golden("cable weights", "cable_weights")
@pytest.mark.parametrize("activation", ["relu", "softplus"])
@torch.no_grad()
def test_cable_weights(activation: str, dtype: torch.dtype, compare: Compare) -> None:
    golden = Golden("cable_weights", dtype)
    settings: dict[str, Any] = {"weights": True, "activation": activation}
    made: Any = scheme("cable", Sizes(1, 4, 16, 48), dtype, **settings)
    made.gates[0].weight.copy_(golden["c_weight"])
    made.weights[0].weight.copy_(golden["s_weight"])
    for length in (7, 40):
        zeros = torch.zeros(1, 4, length, 4, dtype=dtype)
        _, _, bias = made(0, golden["x"][:, :length], zeros, zeros, None)
        got = causal(logits_of(zeros, zeros, zeros, bias)[0]).to(dtype)
        compare(got, golden[f"{activation}_bias_{length}"], 5 * DTYPES[dtype])
        compare(bias.on_logits.of_queries, golden[f"token_weight_{length}"], DTYPES[dtype])


@both_dtypes
@pytest.mark.golden("hype", "hype")
@torch.no_grad()
def test_hype(dtype: torch.dtype, compare: Compare) -> None:
    golden = Golden("hype", dtype)
    for learned in (False, True):
        made = scheme("hype", FOUR_HEADS, dtype, learned=learned)
        tolerance = 1e-6 if learned else DTYPES[dtype]  # trained numbers begin as float32
        compare(made.log_mu.exp(), golden["mu"], tolerance)
        compare(made.log_tau.exp() / golden["tau"], torch.ones(4), max(tolerance, 1e-9))
        for length in (64, 600):
            wanted = golden[f"bias_by_distance.{length}"]
            got = at_length(made, length).by_distance
            compare(got, wanted, tolerance * max(1, wanted.abs().max().item()))
        compare(at_length(made, 7).matrix(7), causal(golden["bias.7"]), max(tolerance, 1e-9))


@both_dtypes
@pytest.mark.golden("grape", "grape_additive", "grape_additive_6heads")
@pytest.mark.parametrize("file", ["grape_additive", "grape_additive_6heads"])
@pytest.mark.parametrize("gate", ["key", "query", "both"])
@torch.no_grad()
def test_grape(file: str, gate: str, dtype: torch.dtype, compare: Compare) -> None:
    golden = Golden(file, dtype)
    n_heads = len(golden["omega"])
    sizes = Sizes(1, n_heads, golden["x"].shape[-1], 48)
    name = {"key": "keygated", "query": "querygated", "both": "querykeygated"}[gate]
    made: Any = scheme("grape", sizes, dtype, gate=gate)
    made.initialize("omega", made.omega, torch.Generator())
    compare(made.omega[0], golden["omega_init"], 1e-6)
    made.omega[0].copy_(golden["omega"])
    for own in "uv":
        if hasattr(made, own):
            getattr(made, own)[0].copy_(golden[own])
    for length in lengths(golden, f"{name}_layer_output_"):
        x = golden["x"][:, :length]
        q, k, v = normed(golden, x, n_heads)
        if length == 7:
            compare(q[0], golden["q_normed_7"], 1e-5)
        q, k, bias = made(0, x, q, k, at_length(made, length))
        if length == 7:
            zeros = torch.zeros_like(q)
            got = logits_of(zeros, zeros, v, bias)[0]
            compare(causal(got), golden[f"{name}_bias_7"], 1e-5)
        for backend in backends(dtype):
            heads = attend(q, k, v, bias, backend).out.transpose(1, 2).flatten(-2)
            wanted = golden[f"{name}_layer_output_{length}"]
            compare(heads @ golden["o_weight"].mT, wanted, 1e-5)


def lengths(golden: Golden, prefix: str) -> list[int]:
    return sorted(int(key.removeprefix(prefix)) for key in golden if key.startswith(prefix))


def normed(golden: Golden, x: Tensor, n_heads: int) -> list[Tensor]:
    """With their norm of queries and keys."""
    q, k, v = projected(golden, x, n_heads)
    q, k = (F.rms_norm(y, y.shape[-1:], golden[f"{n}_norm"], 1e-5) for y, n in ((q, "q"), (k, "k")))
    return [q, k, v]


@both_dtypes
@pytest.mark.golden("grape_ap", "grape_additive", "grape_additive_6heads")
@pytest.mark.parametrize("file", ["grape_additive", "grape_additive_6heads"])
@torch.no_grad()
def test_grape_ap(file: str, dtype: torch.dtype, compare: Compare) -> None:
    golden = Golden(file, dtype)
    n_heads = len(golden["omega"])
    sizes = Sizes(1, n_heads, golden["x"].shape[-1], 48)
    width = len(golden["p_weight"]) // n_heads
    made: Any = scheme("grape_ap", sizes, dtype, width=width)
    made.maps[0].weight.copy_(golden["p_weight"])
    for length in lengths(golden, "ap_layer_output_"):
        x = golden["x"][:, :length]
        q, k, v = normed(golden, x, n_heads)
        q, k, bias = made(0, x, q, k, at_length(made, length))
        if length == 7:
            zeros = torch.zeros_like(q)
            compare(causal(logits_of(zeros, zeros, v, bias)[0]), golden["ap_bias_7"], 1e-5)
        for backend in backends(dtype):
            heads = attend(q, k, v, bias, backend).out.transpose(1, 2).flatten(-2)
            compare(heads @ golden["o_weight"].mT, golden[f"ap_layer_output_{length}"], 1e-5)


@both_dtypes
@pytest.mark.golden("transformer_xl", "transformer_xl")
@torch.no_grad()
def test_transformer_xl(dtype: torch.dtype, compare: Compare) -> None:
    golden = Golden("transformer_xl", dtype)
    made: Any = scheme("transformer_xl", FOUR_HEADS, dtype)
    made.maps[0].weight.copy_(golden["r.weight"])
    made.u.copy_(golden["r_w_bias"])
    made.v.copy_(golden["r_r_bias"])
    for length in (7, 24):
        x = golden[f"x.{length}.mem0"][None]
        q, k, v = (split_heads(part, 4) for part in (x @ golden["qkv.weight"].mT).chunk(3, -1))
        begun = made.begin(torch.arange(length))
        compare(begun.flip(0), golden[f"positions.{length}.mem0"], 1e-6)
        # Their sinusoids are exact; ours of float32 are taken out of the comparison.
        begun = golden[f"positions.{length}.mem0"].flip(0)
        q, k, bias = made(0, x, q, k, begun)
        got = logits_of(q, k, v, bias)[0].tril()
        compare(got, golden[f"logits.{length}.mem0"], DTYPES[dtype])
        for backend in backends(dtype):
            heads = attend(q, k, v, bias, backend).out.transpose(1, 2).flatten(-2)
            out = F.layer_norm(x + heads @ golden["o.weight"].mT, (32,))[0]
            compare(out, golden[f"output.{length}.mem0"], max(DTYPES[dtype], 1e-6))


def test_transformer_xl_clamps() -> None:
    made = scheme("transformer_xl", FOUR_HEADS, torch.float32, clamp=5)
    begun = at_length(made, 9)
    assert torch.equal(begun[5:], begun[5].expand(4, -1)) and not torch.equal(begun[4], begun[5])


@both_dtypes
@pytest.mark.golden("wall", "wall")
@pytest.mark.parametrize("scalar", [False, True], ids=["channels", "scalar"])
@torch.no_grad()
def test_wall(scalar: bool, dtype: torch.dtype, compare: Compare) -> None:
    golden = Golden("wall", dtype)
    made: Any = scheme("wall", FOUR_HEADS, dtype, scalar=scalar)
    made.gates[0].weight.copy_(golden["g_weight"])
    made.gates[0].bias.copy_(golden["g_bias"])
    ending = ""
    if scalar:
        made.scalar_gates[0].weight.copy_(golden["gs_weight"])
        made.scalar_gates[0].bias.copy_(golden["gs_bias"])
        ending = "_scalar"
    for length in (7, 40) if scalar else (7, 40, 80):
        x = golden["x"][:, :length]
        q, k, v = projected(golden, x, 4)
        q, k, bias = made(0, x, q, k, None)
        if length == 7:
            got = causal(logits_of(q, k, v, bias)[0])
            compare(got, causal(golden[f"logits_L7{ending}"]), 1e-5)
        for backend in backends(dtype):
            out = attend(q, k, v, bias, backend).out.transpose(1, 2)
            compare(out, golden[f"attn_output_L{length}{ending}"], 1e-5)


@torch.no_grad()
def test_wall_with_strong_gates() -> None:
    """Gates that shrink every channel by e^-5 a token, over thousands of tokens."""
    made: Any = scheme("wall", FOUR_HEADS, torch.float32)
    made.gates[0].weight.zero_()
    made.gates[0].bias.fill_(-5)
    q, k, v = torch.randn(3, 1, 4, 2000, 8)
    bias = made(0, torch.zeros(1, 2000, 32), q, k, None)[2]
    out = attend(q, k, v, bias).out
    # Only a token's own key has a logit, all others have 0.
    i = torch.arange(2000)
    logits = torch.zeros(1, 4, 2000, 2000)
    for back, factor in ((0, 1.0), (1, torch.sigmoid(torch.tensor(-5.0)))):
        band = (q[:, :, back:] * k[:, :, : 2000 - back]).sum(-1) * factor / 8**0.5
        logits[:, :, i[back:], i[: 2000 - back]] = band
    wanted = causal(logits).softmax(-1) @ v
    torch.testing.assert_close(out, wanted, atol=2e-4, rtol=0)


@both_dtypes
@pytest.mark.golden("path", "path")
@pytest.mark.parametrize("forget", [False, True], ids=["path", "fox"])
@torch.no_grad()
def test_path(forget: bool, dtype: torch.dtype, compare: Compare) -> None:
    golden = Golden("path", dtype)
    made: Any = scheme("path", FOUR_HEADS, dtype, rank=6, forget=forget)
    directions = made.directions[0]
    directions.down.weight.copy_(golden["w_down_weight"])
    directions.up.weight.copy_(golden["w_up_weight"])
    directions.convolution.weight.copy_(golden["conv_weight"])
    made.strengths[0].weight.copy_(golden["beta_weight"])
    made.strengths[0].bias.copy_(golden["beta_bias"])
    ending = ""
    if forget:
        made.gates[0].weight.copy_(golden["g_weight"])
        made.gates[0].bias.copy_(golden["g_bias"])
        ending = "_fox"
    compare(directions(golden["x"][:, :7]).transpose(1, 2), golden["w_L7"], 1e-5)
    for length in (7, 40, 70):
        x = golden["x"][:, :length]
        q, k, v = projected(golden, x, 4)
        q, k, bias = made(0, x, q, k, None)
        if length == 7:
            got = causal(logits_of(q, k, v, bias)[0])
            compare(got, causal(golden[f"logits_L7{ending}"]), 1e-5)
        for backend in backends(dtype):
            out = attend(q, k, v, bias, backend).out.transpose(1, 2)
            compare(out, golden[f"attn_output_L{length}{ending}"], 1e-5)


@torch.no_grad()
def test_path_one_reflection_at_a_time() -> None:
    """Over several chunks, in the words of the formula."""
    length = 300
    made: Any = scheme("path", Sizes(1, 2, 16, 48), torch.float64, rank=4)
    x, (q, k, v) = torch.randn(1, length, 16).double(), torch.randn(3, 1, 2, length, 8).double()
    got = logits_of(q, k, v, made(0, x, q, k, None)[2])[0]
    w = made.directions[0](x)[0]
    beta = 2 * made.strengths[0](x).sigmoid().mT[0]
    for i in (0, 63, 64, 200, 299):
        state = q[0, :, i]
        for j in range(i, -1, -1):
            along = (state * k[0, :, j]).sum(-1) / 8**0.5
            torch.testing.assert_close(along, got[:, i, j], atol=1e-9, rtol=0)
            step = beta[:, j] * (w[:, j] * state).sum(-1)
            state = state - step[:, None] * w[:, j]


BASES: dict[str, Any] = {
    "alibi": "alibi",
    "kerple": "kerple",
    "fire": {"kind": "fire", "hidden": 8, "leak": 0.01},
    "none_or_rotary": "none",
    "kerple_v2": "kerple",
}


@both_dtypes
@pytest.mark.golden("dape", "dape")
@pytest.mark.parametrize("kind", BASES)
@torch.no_grad()
def test_dape(kind: str, dtype: torch.dtype, compare: Compare) -> None:
    golden = Golden("dape", dtype)
    sizes = Sizes(1, 4, 32, int(golden["fire.param.init_L"]))
    kernel = 3 if kind.endswith("v2") else 1
    settings = {"base": BASES[kind], "width": 8, "kernel": kernel}
    made: Any = scheme("dape", sizes, dtype, **settings)
    own = {key.rpartition("param.")[2]: x for key, x in golden.items() if f"{kind}.param" in key}
    network, base = made.networks[0], made.bases[0]
    fill_network(network, [own[f"mlp2.{n}.{w}"] for n in (0, 2) for w in ("weight", "bias")])
    if kind.startswith("kerple"):
        base.p.copy_(own["bias_p"].flatten())
        base.a.copy_(own["bias_a"].flatten())
        made.constrain()
    if kind == "fire":
        layer = base.layers[0]
        layer.c.copy_(own["c"])
        layer.threshold_factor.copy_(own["L_multiplier"])
        for part, n in ((layer.inner, 0), (layer.outer, 2)):
            part.weight.copy_(own[f"mlp.{n}.weight"])
            part.bias.copy_(own[f"mlp.{n}.bias"])
    for length in (20, 7):
        got = through(made, golden[f"scores_in.{length}"][None], dtype)
        tolerance = 1e-7 if kind == "alibi" else 1e-9  # their slopes are float32
        compare(got.tril(), golden[f"{kind}.scores_out.{length}"], max(DTYPES[dtype], tolerance))


def fill_network(network: Any, weights: list[Tensor]) -> None:
    with torch.no_grad():
        for parameter, given in zip(network.parameters(), weights, strict=True):
            parameter.copy_(given.view_as(parameter))


def through(made: Any, scores: Tensor, dtype: torch.dtype) -> Tensor:
    """What a scheme makes of given logits, of queries whose keys are one each. (H, T, T)."""
    length = scores.shape[-1]
    keys = torch.eye(length, dtype=dtype).expand(*scores.shape[:2], -1, -1)
    queries = scores.to(dtype) * length**0.5  # heads are as wide as the text is long
    q, k, bias = made(0, torch.zeros(1, length, 1), queries, keys, at_length(made, length))
    return logits_of(q, k, keys, bias)[0].to(dtype)


@pytest.mark.golden("dape kernel", "dapev2")
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("base", ["alibi", "kerple"])
@torch.no_grad()
def test_dape_v2(base: str, kernel: int, compare: Compare) -> None:
    golden = Golden("dapev2", torch.float32)
    settings = {"base": base, "width": 8, "kernel": kernel}
    made: Any = scheme("dape", FOUR_HEADS, torch.float32, **settings)
    name = f"{base}_k{kernel}"
    weights = [golden[f"{name}_conv{n}_{w}"] for n in (0, 1) for w in ("weight", "bias")]
    fill_network(made.networks[0], weights)
    if base == "kerple":
        made.bases[0].p.copy_(golden["kerple_p"])
        made.bases[0].a.copy_(golden["kerple_a"])
        made.constrain()
    for length in lengths(golden, f"{name}_logits_"):
        scores = golden["scores"][:, :, :length, :length]
        got = through(made, scores, torch.float32)
        compare(causal(got), golden[f"{name}_logits_{length}"][0], 1e-5)


@both_dtypes
@pytest.mark.golden("selective", "selective")
@torch.no_grad()
def test_selective(dtype: torch.dtype, compare: Compare) -> None:
    golden = Golden("selective", dtype)
    made = scheme("selective", FOUR_HEADS, dtype, base="none")
    for length in (90, 48, 7):
        q, k, v = (golden[name][:, :, :length] for name in "qkv")
        i = torch.arange(length)
        selected = selection((q @ k.mT / 8**0.5)[:, 0], i[:, None], i)
        if length < 90:
            compare(selected.cumsum(1) - selected, golden[f"F_{length}"], DTYPES[dtype])
        q, k, bias = made(0, torch.zeros(1, length, 32), q, k, at_length(made, length))
        for backend in backends(dtype):
            out = attend(q, k, v, bias, backend).out
            compare(out, golden[f"attn_output_{length}"], DTYPES[dtype])


@pytest.mark.golden("temperature", "softmax_scale")
@pytest.mark.parametrize("temperature", ["ssmax", "ssmax_bias"])
@torch.no_grad()
def test_ssmax(temperature: str, compare: Compare) -> None:
    golden = Golden("softmax_scale")
    made: Any = scheme("none", Sizes(1, 4, 32, 10), torch.float64, temperature=temperature)
    made.temperature.scales[0].copy_(golden["s"])
    if temperature == "ssmax_bias":
        made.temperature.offsets[0].copy_(golden["b"])
    weights = weights_of(made, golden["q"][None], golden["k"][None])
    compare(weights, golden[f"probabilities.{temperature}"], 1e-9)


def test_alibi_slopes_are_grapes() -> None:
    """6 heads: the slopes of 4, then two between."""
    assert alibi_slopes(6)[:4] == [2**-2, 2**-4, 2**-6, 2**-8]


@pytest.mark.golden("seqpe", "seqpe")
@torch.no_grad()
def test_seqpe(compare: Compare) -> None:
    golden = Golden("seqpe", torch.float32)
    made: Any = scheme("seqpe", Sizes(1, 2, 16, 64), torch.float32, max_positions=10000)
    own = {key.removeprefix("seqpe."): x for key, x in golden.items()}
    made.digits.copy_(own["token_of_seqpe_embed.weight"])
    made.orders.copy_(own["pos_of_seqpe_embed.weight"])
    made.whole.copy_(own["cls_token_embed"].flatten())
    pairs = [(made.norm, "layernorm", False), (made.out, "out_proj", False)]
    pairs.append((made.query_key, "pe_qk", False))
    for n, layer in enumerate(made.encoder):
        pairs += [
            (getattr(layer, ours), f"transformers.{n}.{theirs}", turned)
            for ours, theirs, turned in (
                ("attention_norm", "layernorm_1", False),
                ("ffn_norm", "layernorm_2", False),
                ("qkv", "attn.c_attn", True),
                ("out", "attn.c_proj", True),
                ("inner", "mlp.c_fc", True),
                ("outer", "mlp.c_proj", True),
            )
        ]
    for module, name, turned in pairs:
        weight = own[f"{name}.weight"]
        module.weight.copy_(weight.mT if turned else weight)
        module.bias.copy_(own[f"{name}.bias"])
    positions = golden["positions"]
    compare(made.encode(positions), golden["pe"], 1e-5)
    q, k = made.begin(positions)
    compare(q @ k.mT / 8**0.5, golden["bias"], 1e-5)


@torch.no_grad()
def draw(made: Any) -> None:
    for name, parameter in made.named_parameters():
        made.draw(name, parameter, torch.Generator().manual_seed(len(name)))


def test_seqpe_losses() -> None:
    """Trained on alone, the nearest position becomes the most similar, near and far."""
    torch.manual_seed(1)
    settings: dict[str, Any] = {"max_positions": 1000, "contrastive": 0.5}
    made: Any = scheme("seqpe", Sizes(1, 2, 32, 64), torch.float32, **settings)
    draw(made)
    optimizer = torch.optim.AdamW(made.parameters(), lr=3e-3)
    losses = []
    for step in range(120):
        loss = made.extra_loss(Draws(step, torch.zeros(1, dtype=torch.long)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(0.5 * math.log(32), rel=0.1)
    assert sum(losses[-10:]) / 10 < 0.7 * losses[0]
    again = made.extra_loss(Draws(5, torch.arange(3)))
    assert again == made.extra_loss(Draws(5, torch.arange(7)))  # whatever the sequences
    transfer: Any = scheme("seqpe", Sizes(1, 2, 32, 64), torch.float32, transfer=1.0)
    draw(transfer)
    assert transfer.extra_loss(Draws(0, torch.arange(1))) > 0
    same = torch.randn(2, 5, 5).log_softmax(-1)
    assert sum_of_divergences(same, same) == 0


@pytest.mark.golden("bipe", "bipe")
@torch.no_grad()
def test_bipe(compare: Compare) -> None:
    golden = Golden("bipe")
    made: Any = scheme("bipe", Sizes(1, 4, 32, 10), torch.float64)
    made.read_vocabulary(lambda: ["x." if i in (13, 869) else "x" for i in range(1000)])
    segments = made.positions(golden["ids"], None)
    compare(segments, golden["segment"], 0)
    compare(made.places(segments), golden["inside"], 0)
    rows, bias = made.begin(segments)
    compare(made.slopes, golden["slopes_times_96"], 1e-6)
    # Less the bias of each row's own segment, which softmax ignores.
    compare(bias.by_key, golden["key_bias"], 1e-5)
    scores = golden["scores_in"] + bias.by_key[:, :, None]
    compare(causal(scores).softmax(-1), golden["probabilities"], 1e-6)
    last = golden["inside"] == 9
    assert last.any() and (rows[last] == 0).all() and (rows[~last] != 0).any()
    rotary: Any = scheme("bipe", Sizes(1, 4, 32, 10), torch.float64, between="rotary")
    turned = rotary.begin(segments)[1]
    assert torch.equal(turned, rotary.rotary.rotations(segments))


def test_bipe_reads_a_tokenizer(text_file: Path, tmp_path: Path) -> None:
    corpus = prepare(TextConfig(train=[str(text_file)], held_out=0.2), BpeConfig(300), tmp_path)
    texts = corpus.texts()
    assert len(texts) == corpus.vocab_size and texts.count(None) == 1
    made: Any = scheme("bipe", Sizes(1, 2, 16, 10), torch.float32)
    made.read_vocabulary(corpus.texts)
    stream = torch.tensor(corpus.split("validation").stream[:400].astype("int64"))
    segments = made.positions(stream[None], None)[0]
    # The text has a line for each segment, behind the end token.
    words = [texts[i] or "" for i in stream.tolist()]
    assert segments.max() == "".join(words[1:-1]).count("\n") + 1
    assert segments[0] == 0 and segments[1] == 1
