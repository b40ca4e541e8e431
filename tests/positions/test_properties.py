"""What must be true of every registered scheme, whoever wrote it."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from alibi_lm.attention import BACKENDS, Circumstances, Form, attend, unsupported
from alibi_lm.errors import SettingsError
from alibi_lm.model.config import ModelConfig
from alibi_lm.model.decoder import Decoder
from alibi_lm.positions import SCHEMES, Draws, Position, PositionConfig, Sizes
from alibi_lm.positions.base import cannot_compute
from alibi_lm.positions.spec import read_spec

VOCAB, TRAINED, LONGER = 50, 60, 140  # LONGER: beyond a block of queries
MODEL = ModelConfig(n_layers=2, n_heads=2, d_model=16, d_ff=32)
SCALINGS = ("linear", "ntk", "dynamic", "yarn", "llama3")
LONG_FACTORS = {"long_factors": [1.5, 2.0, 3.0, 4.0]}
TABLE = {"kind": "learned", "rows": 2048}
VARIANTS: list[dict[str, Any]] = [
    *({"kind": name} for name in SCHEMES.settings),
    *({"kind": "rotary", "scaling": scaling, "factor": 4.0} for scaling in SCALINGS),
    {"kind": "alibi", "learned": True},
    {"kind": "alibi", "interpolated": True},
    {"kind": "alibi", "inside": True, "slopes": [0.3]},
    {"kind": "kerple", "kernel": "power"},
    {"kind": "cable", "scaled": True},
    {"kind": "fire", "shared": True},
    {"kind": "cope", "nodiv": True, "npos": 8},
    {"kind": "cope", "separate_keys": True},
    {"kind": "shaw", "values": False, "clip": 5},
    {"kind": "stickbreaking", "attend_current": True, "remainder": "value"},
    {"kind": "stickbreaking", "remainder": "learned"},
    {"kind": "layered", "layers": [{"kind": "fox", "window": 9}, "cope"]},
    {"kind": "layered", "layers": ["kerple", {"kind": "alibi", "interpolated": True}]},
    {"kind": "shape", "base": TABLE, "max_shift": 30},
    {"kind": "shape", "base": {"kind": "rotary", "scaling": "dynamic"}},
    {"kind": "shape", "base": {"kind": "layered", "layers": ["rotary", "alibi"]}},
    {"kind": "randomized", "base": "pope"},
    {"kind": "pose", "target_length": 400},
    {"kind": "bipe", "between": "rotary", "rows": 4},
    {"kind": "seqpe", "encoder_layers": 1, "contrastive": 0.1, "transfer": 0.1},
    {"kind": "rotary", "part": 0.5},
    {"kind": "rotary", "p": 0.5},
    {"kind": "rotary", "scaling": "longrope", "factor": 4.0, **LONG_FACTORS},
    {"kind": "rotary", "scaling": "longrope_dynamic", "factor": 4.0, **LONG_FACTORS},
    {"kind": "learned", "interpolated": "centres"},
    {"kind": "learned", "interpolated": "ends"},
    {"kind": "cape", "normalize": True},
    {"kind": "alibi", "limit": 30, "window": 20, "sinks": 3},
    {"kind": "hype", "learned": True, "mu": 0.01},
    {"kind": "cable", "weights": True, "activation": "relu"},
    {"kind": "fox", "gate": "bias", "offset": 3.0},
    {"kind": "fox", "gate": "fixed", "decay_times": [2.0, 50.0]},
    {"kind": "selective_rope", "rank": None, "bias": True, "gate": True},
    {"kind": "grape", "gate": "query"},
    {"kind": "grape", "gate": "both"},
    {"kind": "transformer_xl", "clamp": 40},
    {"kind": "wall", "scalar": True, "offset": 1.0},
    {"kind": "path", "forget": True},
    {"kind": "dape", "base": "alibi"},
    {"kind": "dape", "base": {"kind": "fire", "leak": 0.01}},
    {"kind": "dape", "base": "rotary", "kernel": 3},
    {"kind": "selective", "base": "none"},
    {"kind": "rerope", "leak": 0.25, "near": 20},
    {"kind": "lambda_mask", "local": 30, "first": 3},
    {"kind": "lambda_mask", "local": 60, "scaling": "dynamic"},
    {"kind": "streaming", "first": 3, "recent": 30},
    *({"kind": "none", "temperature": t} for t in ("ssmax", "ssmax_bias", "ssmax_fixed")),
    {"kind": "none", "temperature": "llama4", "temperature_floor": 20},
    {"kind": "layered", "layers": ["rotary", {"kind": "fox", "temperature": "ssmax"}]},
    {"kind": "randomized", "base": "alibi"},
    {"kind": "randomized", "base": "sinusoidal"},
    *({"kind": kind, "window": 20} for kind in ("rotary", "alibi", "fox", "kerple", "cope")),
    *(
        {"kind": kind, "window": 20, "sinks": 3, "temperature": "logn"}
        for kind in ("none", "alibi", "cable", "t5", "shaw", "stickbreaking")
    ),
]


def named(variant: dict[str, Any]) -> str:
    words = [f"{key}={value}" for key, value in variant.items() if key != "kind"]
    return " ".join([variant["kind"], *words])


every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=named)


def settings_of(variant: dict[str, Any]) -> PositionConfig:
    return read_spec(variant, "variant")


def model_of(variant: dict[str, Any]) -> Decoder:
    """With parameters of the scheme that are not those of the start, where some do nothing."""
    config = settings_of(variant)
    assert config.problems(MODEL.sizes(TRAINED)) == []
    net = Decoder(MODEL, config, VOCAB, TRAINED)
    net.position.read_vocabulary(vocabulary)
    stir(net.position)
    return net.eval()


def vocabulary() -> list[str | None]:
    return [None, *["a."] * 5, *["b"] * (VOCAB - 6)]


@torch.no_grad()
def stir(position: Position) -> None:
    for parameter in position.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.3)
    position.constrain()


@torch.no_grad()
def stirred(settings: PositionConfig, sizes: Sizes) -> Position:
    position: Position = SCHEMES.build(settings, sizes)
    for name, parameter in position.named_parameters():
        position.draw(name, parameter, torch.Generator().manual_seed(0))
    stir(position)
    return position


def text(length: int) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(VOCAB, (2, length + 1), generator=torch.Generator().manual_seed(1))
    return tokens[:, :-1], tokens[:, 1:]


@every_variant
@torch.inference_mode()
def test_causality(variant: dict[str, Any]) -> None:
    """A loss does not change when later tokens change, in evaluation or in training."""
    net = model_of(variant)
    length = min(LONGER, net.longest or LONGER)
    x, y = text(length)
    for draws in (None, Draws(7, torch.tensor([11, 12]))):
        before = net(x, y, draws=draws)
        for at in (1, 25, length - 2):
            changed = x.clone()
            changed[:, at:] = (changed[:, at:] + 1) % VOCAB
            after = net(changed, y, draws=draws)
            torch.testing.assert_close(before[:, :at], after[:, :at], atol=1e-5, rtol=1e-5)
            assert not torch.allclose(before[:, at:], after[:, at:], atol=1e-4)


@every_variant
@torch.inference_mode()
def test_prefix_consistency(variant: dict[str, Any]) -> None:
    """A loss does not change when the window is longer, unless the scheme says that it does."""
    net = model_of(variant)
    length = min(LONGER, net.longest or LONGER)
    x, y = text(length)
    whole = net(x, y)
    same = all(
        torch.allclose(whole[:, :short], net(x[:, :short], y[:, :short]), atol=1e-5)
        for short in (length - 20, 40)  # beyond the training length, and below it
    )
    assert same == net.prefix_consistent


@every_variant
@torch.inference_mode()
def test_nothing_is_kept_from_what_was_read_before(variant: dict[str, Any]) -> None:
    """A text after a longer one scores what it scores first, to the last digit."""
    net, again = model_of(variant), model_of(variant)
    again.load_state_dict(net.state_dict())
    length = min(LONGER, net.longest or LONGER)
    x, y = text(length)
    net(x, y)
    assert torch.equal(net(x[:, :30], y[:, :30]), again(x[:, :30], y[:, :30]))


@pytest.mark.parametrize(
    ("variant", "length"),
    [
        pytest.param(variant, length, id=f"{named(variant)} at {length}")
        for variant in VARIANTS
        # Around a block of queries; of settings that are not the defaults, where it matters most.
        for length in ((1, 7, 127, 128, 129, 300) if len(variant) == 1 else (1, 300))
    ],
)
def test_the_definition_in_float64(variant: dict[str, Any], length: int) -> None:
    """Values and gradients of a layer, in float32 on every backend that takes it."""
    settings, sizes = settings_of(variant), Sizes(1, 2, 16, TRAINED)
    position = stirred(settings, sizes)
    if position.longest is not None and length > position.longest:
        return
    exact = SCHEMES.build(settings, sizes).double()
    exact.load_state_dict(position.state_dict())
    torch.manual_seed(length)
    x, (q, k, v) = torch.randn(2, length, 16), torch.randn(3, 2, 2, length, 8)
    towards = torch.randn(2, 2, length, 8)

    def computed(made: Position, backend: str, dtype: torch.dtype) -> list[Tensor]:
        leaves = [tensor.to(dtype).requires_grad_() for tensor in (x, q, k, v)]
        hidden, queries, keys, values = leaves
        begun = made.begin(made.positions(hidden[..., 0], None))
        queries, keys, bias = made(0, made.embed(hidden, begun), queries, keys, begun)
        out = attend(queries, keys, values, bias, backend).out
        parameters = list(made.parameters())
        gradients = torch.autograd.grad(
            (out * towards.to(dtype)).sum(), [*leaves, *parameters], allow_unused=True
        )
        return [out, *(g for g in gradients if g is not None)]

    wanted = computed(exact, "reference", torch.float64)
    where = Circumstances(training=True)
    able = [b for b in BACKENDS if not cannot_compute(settings, b, length, where)]
    assert {"scored", "reference"} <= set(able)
    # The gradient of a position that CoPE counts jumps at whole ones, where rounding decides.
    gradient_tolerance = 3e-2 if "cope" in str(variant) else 1e-4
    for backend, dtype, *tolerances in (
        ("scored", torch.float64, 1e-9, 1e-9),
        *((name, torch.float32, 1e-5, gradient_tolerance) for name in ("auto", *able)),
    ):
        found = computed(exact if dtype == torch.float64 else position, backend, dtype)
        assert len(found) == len(wanted)
        for n, (got, w) in enumerate(zip(found, wanted, strict=True)):
            size = w.abs().max().clamp(min=1)
            assert (got - w).abs().max() < tolerances[n > 0] * size, (backend, n)


@every_variant
def test_what_is_shared_among_processes_has_dimensions(variant: dict[str, Any]) -> None:
    """FSDP refuses parameters without."""
    assert all(parameter.ndim for parameter in model_of(variant).position.parameters())


@pytest.mark.parametrize("kind", SCHEMES.settings)
@torch.no_grad()
def test_a_temperature_is_a_factor_on_queries(kind: str) -> None:
    sizes = Sizes(1, 2, 16, TRAINED)
    plain, warm = (
        stirred(read_spec({"kind": kind, "temperature": t}, ""), sizes) for t in ("none", "logn")
    )
    assert warm.temperature is not None
    warm.load_state_dict(plain.state_dict())
    length = min(LONGER, plain.longest or LONGER)
    x, (q, k, v) = torch.randn(1, length, 16), torch.randn(3, 1, 2, length, 8)
    begun = plain.begin(plain.positions(x[..., 0], None))
    outputs = []
    for position, queries in (
        (warm, q),
        (plain, q * warm.temperature.by_place(length).float()),
    ):
        turned, keys, bias = position(0, x, queries, k, begun)
        outputs.append(attend(turned, keys, v, bias).out)
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["none", "alibi", "layered"])
@pytest.mark.parametrize(("window", "sinks"), [(5, 0), (30, 4), (62, 4), (138, 4)])
@pytest.mark.parametrize("over", [None, 5, 30, 62, 64, 200])
@torch.inference_mode()
def test_two_windows(kind: str, window: int, sinks: int, over: int | None) -> None:
    """No query sees what either hides, and what is needed is what was declared."""
    settings = read_spec({"kind": kind, "window": window, "sinks": sinks}, "")
    position = stirred(settings, Sizes(2, 2, 16, TRAINED))
    x, q = torch.zeros(1, LONGER, 16), torch.zeros(1, 2, LONGER, 8)
    begun = position.begin(position.positions(x[..., 0], None))
    i = torch.arange(LONGER)
    hidden = (i[:, None] - i >= window) & (i >= sinks)
    if over is not None:
        hidden |= i[:, None] - i >= over
    for layer in range(2):
        bias = position(layer, x, q, q, begun)[2].within(over, LONGER)
        assert not (bias.visible(i[:, None], i) & hidden).any()
        for backend in BACKENDS:
            can = unsupported(backend, bias.needs, Circumstances()) is None
            if cannot_compute(settings, backend, LONGER, Circumstances(), over) is None:
                assert can


@every_variant
def test_a_loss_that_is_nan_is_no_error(variant: dict[str, Any]) -> None:
    """Training stops on it with a line of its own."""
    net = model_of(variant)
    with torch.no_grad():
        net.embedding.weight.fill_(torch.nan)
    x, y = text(30)
    assert net(x, y, draws=Draws(0, torch.tensor([1, 2]))).isnan().any()


@every_variant
@torch.inference_mode()
def test_flex_attention_where_it_can(variant: dict[str, Any]) -> None:
    """Not compiled, which is for a GPU; `score_mod` of functions among them."""
    net, settings = model_of(variant), settings_of(variant)
    length = min(LONGER, net.longest or LONGER)
    if cannot_compute(settings, "flex", length, Circumstances()):
        assert any(n.form is Form.ON_LOGITS for n in net.position.needs(settings, length))
        return
    flexed = Decoder(MODEL, settings, VOCAB, TRAINED, backend="flex").eval()
    flexed.load_state_dict(net.state_dict())
    flexed.position.read_vocabulary(vocabulary)
    x, y = text(length)
    torch.testing.assert_close(flexed(x, y), net(x, y), atol=1e-4, rtol=1e-4)
    assert flexed.backend == "flex"


def test_a_spec_that_is_none() -> None:
    for spec, line in (
        ("alibbi", r"where: position 'alibbi' does not exist \(did you mean alibi\?\)"),
        ({"theta": 5.0}, "where: given .*, but it must name a kind, {kind:rotary}"),
        ({"kind": ["a"]}, "where: position '.'a'.' does not exist"),
        (7, "where: given 7, but it must be a scheme or {kind:rotary,theta:1e6}"),
        ({"kind": "rotary", "teta": 5}, "where: setting 'teta' does not exist .did you mean theta"),
        ({"kind": "rotary", "theta": "x"}, "where.theta: given x, but it must be a number"),
        ({"kind": "alibi", "slopes": 5}, "where.slopes: given one value, but it must be a list"),
        ({"kind": "rotary", "theta": 0.5}, "where.theta: given 0.5, but it must be above 1"),
    ):
        with pytest.raises(SettingsError, match=line):
            read_spec(spec, "where")


def test_drawn_positions_are_for_schemes_that_take_them() -> None:
    sizes = MODEL.sizes(TRAINED)
    layered = {"kind": "layered", "layers": ["kerple", "rotary"]}
    for base in ("t5", "kerple", "fox", "cope", "randomized", layered):
        for kind in ("shape", "randomized"):
            (line,) = read_spec({"kind": kind, "base": base}, "").problems(sizes)
            assert line.startswith("position.base: given ") and "takes no positions" in line
    for base in ("none", "sinusoidal", "rotary", "alibi"):
        assert read_spec({"kind": "shape", "base": base}, "").problems(sizes) == []


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ({"kind": "dape", "base": "stickbreaking"}, "given stickbreaking, but it must add a bias"),
        ({"kind": "dape", "base": "dape"}, "given dape, but it must add a bias"),
        ({"kind": "dape", "base": "sinusoidal"}, "given sinusoidal, which does not act in each"),
        (
            {"kind": "dape", "base": {"kind": "layered"}},
            "given layered, which does not act in each",
        ),
        ({"kind": "dape", "kernel": 2}, "position.kernel: given 2, but it must be odd"),
        ({"kind": "dape", "kernel": 3, "window": 9}, "position.window: given 9, but"),
        (
            {"kind": "dape", "kernel": 3, "base": {"kind": "alibi", "window": 4}},
            "position.base: given a window, but position.kernel = 3 needs",
        ),
        ({"kind": "dape", "base": "nope"}, "position.base: position 'nope' does not exist"),
        (
            {"kind": "selective", "base": "alibi"},
            "given alibi, but it must be one that adds no bias",
        ),
        (
            {"kind": "pose", "base": {"kind": "rotary", "scaling": "dynamic"}},
            "position.base: given rotary with settings that depend on the text's length",
        ),
        ({"kind": "pose", "target_length": 30}, "must be at least train_length = 60"),
        ({"kind": "xpos", "scale_base": 0.1}, "position.scale_base: given 0.1, with which texts"),
        ({"kind": "bipe", "theta": 5.0}, "position.theta: given 5.0, but it acts with position.b"),
        (
            {"kind": "bipe", "between": "rotary", "scale": 2.0},
            "it acts with position.between=alibi",
        ),
        ({"kind": "bipe", "separators": []}, "position.separators: given .., but it must be text"),
        (
            {"kind": "layered", "preset": "rnope", "local": 9},
            "position.local: given 9, but it acts",
        ),
        ({"kind": "layered", "preset": "rnope", "layers": ["alibi"]}, "give one of the two"),
        ({"kind": "none", "temperature_floor": 5}, "it acts with position.temperature=llama4"),
        ({"kind": "none", "temperature_scale": 5.0}, "position.temperature_scale: given 5, but"),
        (
            {"kind": "rotary", "scaling": "longrope_dynamic", "factor": 4.0, **LONG_FACTORS}
            | {"short_factors": [1.0, 1.0, 1.0, 1.0]},
            "position.short_factors: given .*, but it acts with position.scaling=longrope alone",
        ),
        ({"kind": "fox", "decay_times": [5.0, 2.0]}, "position.decay_times: given .5.0, 2.0., but"),
        ({"kind": "fox", "decay_times": [1.0, 2.0], "offset": 1.0}, "position.decay_times sets it"),
        ({"kind": "alibi", "limit": 9}, "it is for a window with sinks"),
        ({"kind": "seqpe", "max_positions": 50}, "position.max_positions: given 50, but"),
        ({"kind": "grape_ap", "width": 3}, "position.width: given 3, but it must be even"),
        ({"kind": "dual_chunk", "size": 9, "local": 9}, "leave chunks of no tokens"),
        ({"kind": "learned", "interpolated": "x"}, "must be one of none, centres, ends"),
    ],
)
def test_settings_that_cannot_be(spec: dict[str, Any], line: str) -> None:
    try:
        problems = read_spec(spec, "position").problems(MODEL.sizes(TRAINED))
    except SettingsError as error:
        problems = error.problems
    assert len(problems) == 1
    assert re.search(line, problems[0]), problems[0]


@pytest.mark.parametrize("kind", ["dape", "layered"])
def test_a_function_that_needs_all_keys_is_not_read_in_a_window(kind: str) -> None:
    spec: dict[str, Any] = {"kind": "dape", "kernel": 3}
    if kind == "layered":
        spec = {"kind": "layered", "layers": [spec, "none"]}
    settings = read_spec(spec, "")
    for backend in ("auto", "scored", "reference"):
        assert cannot_compute(settings, backend, LONGER, Circumstances()) is None
        line = cannot_compute(settings, backend, LONGER, Circumstances(), window=20)
        assert line is not None and "needs the logits of all keys" in line


@torch.no_grad()
def test_path_reflects_in_16_bits() -> None:
    """Directions have length 1, whatever autocast does to the layer's input."""
    net: Any = model_of({"kind": "path"})
    x = torch.randn(2, 30, 16)
    with torch.autocast("cpu", torch.bfloat16):
        w = net.position.directions[0](x)
    assert w.dtype == torch.float32
    torch.testing.assert_close(w.norm(dim=-1), torch.ones(2, 2, 30), atol=1e-3, rtol=0)


def test_losses_of_their_own_are_added_to_gradients_alone() -> None:
    settings = [
        read_spec({"kind": "seqpe", "encoder_layers": 1, "contrastive": weight}, "")
        for weight in (0.0, 0.3)
    ]
    plain, more = (Decoder(MODEL, s, VOCAB, TRAINED) for s in settings)
    draws, (x, y) = Draws(3, torch.tensor([1, 2])), text(20)
    losses = [net(x, y, draws=draws) for net in (plain, more)]
    assert torch.equal(*losses)
    extra = more.position.extra_loss(draws)
    assert extra is not None
    wanted = torch.autograd.grad(extra, more.position.digits)[0]
    of_text, of_both = (
        torch.autograd.grad(loss.mean(), net.position.digits)[0]
        for loss, net in zip(losses, (plain, more), strict=True)
    )
    torch.testing.assert_close(of_both - of_text, wanted, atol=1e-6, rtol=1e-3)
    assert torch.equal(more(x, y), plain(x, y))  # in evaluation there is none
