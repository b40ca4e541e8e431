import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from alibi_lm.attention import Circumstances
from alibi_lm.model import decoder as model_module
from alibi_lm.model import softmax as softmax_module
from alibi_lm.model.config import ModelConfig
from alibi_lm.model.decoder import Decoder
from alibi_lm.model.softmax import UNSCORED
from alibi_lm.positions import SCHEMES, Position, PositionConfig, Sizes
from alibi_lm.positions.base import cannot_compute
from alibi_lm.positions.rerotated import Rerotated

SIZES = ModelConfig(n_layers=2, n_heads=4, d_model=32, d_ff=64)
VOCAB, LENGTH = 50, 300


def decoder(position: str, seed: int = 0, config: ModelConfig = SIZES) -> Decoder:
    return Decoder(config, SCHEMES.settings[position](), VOCAB, LENGTH, seed).eval()


def batch(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(VOCAB, (3, length + 1))
    return tokens[:, :-1], tokens[:, 1:]


def test_shared_weights_start_identical() -> None:
    reference = dict(decoder("none").named_parameters())
    for name in SCHEMES.settings:
        other = dict(decoder(name).named_parameters())
        assert reference.keys() <= other.keys()
        assert all(torch.equal(reference[key], other[key]) for key in reference)
    assert not torch.equal(decoder("none", seed=1).embedding.weight, reference["embedding.weight"])


def test_a_scheme_keeps_its_own_initial_values_unless_it_draws_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Mine(Position):
        def __init__(self, config: PositionConfig, sizes: Sizes) -> None:
            super().__init__(config, sizes)
            self.v = torch.nn.Parameter(torch.full((sizes.d_model,), 0.25))

    monkeypatch.setitem(SCHEMES.made, "none", Mine)
    assert decoder("none").position.v.tolist() == [0.25] * SIZES.d_model
    table = decoder("t5").position.relative_attention_bias.weight
    assert 0.5 < table.std().item() * SIZES.d_model**0.5 < 1.5


def test_schemes_compute_different_things() -> None:
    x, y = batch(100)
    as_rotary = {n for n, made in SCHEMES.made.items() if issubclass(made, Rerotated)}
    as_rotary |= {"rotary", "pose"}
    losses = {}
    for name in SCHEMES.settings:
        net = decoder(name)
        with torch.no_grad():  # CoPE begins as NoPE
            for parameter in net.position.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        losses[name] = net(x, y)
    for a in losses:
        for b in losses:
            # PoSE is rotary but in training, and readings are but for long texts.
            same = a == b or {a, b} <= as_rotary
            assert same or not torch.allclose(losses[a], losses[b]), (a, b)


@pytest.mark.parametrize("position", SCHEMES.settings)
@pytest.mark.parametrize("length", [1, 2, 65, 300])
@torch.inference_mode()
def test_any_length(position: str, length: int) -> None:
    x, y = batch(length)
    losses = decoder(position)(x, y)
    assert losses.shape == (3, length)
    assert losses.dtype == torch.float32
    assert losses.isfinite().all()


@pytest.mark.parametrize("position", SCHEMES.settings)
@torch.inference_mode()
def test_a_loss_depends_on_the_past_alone(position: str) -> None:
    x, y = batch(40)
    net = decoder(position)
    before = net(x, y)
    changed = x.clone()
    changed[:, 25:] = (changed[:, 25:] + 1) % VOCAB
    after = net(changed, y)
    torch.testing.assert_close(before[:, :25], after[:, :25])
    assert not torch.allclose(before[:, 25:], after[:, 25:])


@torch.inference_mode()
def test_losses_are_log_probabilities_of_a_distribution() -> None:
    """The losses of all possible targets sum, as probabilities, to one."""
    x, _ = batch(5)
    net = decoder("rotary")
    total = sum(net(x, torch.full_like(x, token)).neg().exp() for token in range(VOCAB))
    torch.testing.assert_close(total, torch.ones(3, 5))


def test_losses_in_slices_equal_losses_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = batch(33)
    net = decoder("alibi")
    at_once = net(x, y)
    monkeypatch.setattr(softmax_module, "LOGITS_AT_ONCE", {"evaluation": 7 * VOCAB})
    with torch.no_grad():
        torch.testing.assert_close(net(x, y), at_once.detach())


def test_a_loss_in_chunks_has_the_gradients_of_the_loss_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = batch(33)
    net = decoder("t5")
    weights = torch.rand(3, 33)  # each token's loss has a gradient of its own

    def gradients() -> list[torch.Tensor]:
        return list(torch.autograd.grad((net(x, y) * weights).sum(), list(net.parameters())))

    at_once = gradients()
    held: list[int] = []
    monkeypatch.setattr(softmax_module, "LOGITS_AT_ONCE", {"training": 7 * VOCAB})
    monkeypatch.setattr(softmax_module, "token_losses", counting(softmax_module.token_losses, held))
    for got, wanted in zip(gradients(), at_once, strict=True):
        torch.testing.assert_close(got, wanted)
    assert max(held) == 7
    assert sum(held) == 2 * 99  # the logits are computed twice and never held together


def test_chunks_under_autocast_sum_their_gradients_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 99 chunks of one token; a sum in bfloat16 would lose what is below 1/256 of it."""
    x, y = batch(33)
    net = decoder("none")

    def gradient() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            loss = net(x, y).sum()
        return torch.autograd.grad(loss, [net.embedding.weight])[0]

    exact = torch.autograd.grad(net(x, y).sum(), [net.embedding.weight])[0]
    at_once = gradient()
    monkeypatch.setattr(softmax_module, "LOGITS_AT_ONCE", {"training": VOCAB})
    error = torch.linalg.vector_norm(gradient() - exact)
    assert error < 1.1 * torch.linalg.vector_norm(at_once - exact)


def counting(losses: Callable[..., torch.Tensor], held: list[int]) -> Callable[..., torch.Tensor]:
    def counted(hidden: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        held.append(len(hidden))
        return losses(hidden, *rest)

    return counted


@pytest.mark.parametrize("position", SCHEMES.settings)
def test_checkpointing_and_a_forced_backend_change_no_gradient(position: str) -> None:
    x, y = batch(30)
    config = replace(SIZES, dropout=0.2)

    def gradients(backend: str, checkpointing: bool) -> list[torch.Tensor]:
        net = Decoder(
            config, SCHEMES.settings[position](), VOCAB, LENGTH, 0, backend, checkpointing
        )
        torch.manual_seed(1)  # for dropout
        return list(torch.autograd.grad(net(x, y).mean(), list(net.parameters())))

    wanted = gradients("auto", checkpointing=False)
    settings, where = SCHEMES.settings[position](), Circumstances(training=True)
    able = [b for b in ("blocks", "scored") if not cannot_compute(settings, b, 30, where)]
    assert "scored" in able
    for backend in ("auto", "reference", *able):
        for got, w in zip(gradients(backend, checkpointing=True), wanted, strict=True):
            torch.testing.assert_close(got, w, atol=1e-5, rtol=1e-3)


def test_weights_that_are_loaded_are_not_drawn_before() -> None:
    saved, loaded = (
        decoder("t5"),
        Decoder(SIZES, SCHEMES.settings["t5"](), VOCAB, LENGTH, seed=None),
    )
    assert not torch.equal(loaded.embedding.weight, saved.embedding.weight)
    loaded.load_state_dict(saved.state_dict())
    assert all(map(torch.equal, loaded.parameters(), saved.parameters()))


class Drawn(Position):
    """Draws its values as torch's modules do, by itself and in modules that it holds."""

    def __init__(self, config: PositionConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.inner = torch.nn.Sequential(torch.nn.Linear(sizes.d_model, 3), torch.nn.ReLU())
        self.table = torch.nn.Parameter(torch.randn(2, 5))


def test_whatever_a_scheme_draws_is_a_function_of_the_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(SCHEMES.made, "none", Drawn)

    def values(seed: int) -> list[torch.Tensor]:
        return list(decoder("none", seed).position.parameters())

    torch.manual_seed(1)
    first, state = values(0), torch.get_rng_state()
    torch.manual_seed(2)
    assert all(map(torch.equal, first, values(0)))
    assert not any(map(torch.equal, first, values(1)))
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)  # nothing was taken from the caller's


@torch.inference_mode()
def test_a_target_that_is_not_scored_costs_nothing_and_changes_nothing() -> None:
    x, y = batch(33)
    net = decoder("t5")
    some = y.clone()
    some[:, ::3] = UNSCORED
    losses = net(x, some)
    assert (losses[:, ::3] == 0).all()
    kept = some != UNSCORED
    torch.testing.assert_close(losses[kept], net(x, y)[kept])
    assert (net(x, torch.full_like(y, UNSCORED)) == 0).all()


@pytest.mark.parametrize("position", SCHEMES.settings)
@torch.inference_mode()
def test_a_window_hides_what_lies_beyond_it_in_every_layer(position: str) -> None:
    """Through n layers a token reaches n (w - 1) places further, and no more."""
    x, y = batch(60)
    net = decoder(position)
    layers, window = len(net.blocks), 7
    changed = x.clone()
    changed[:, 20] = (changed[:, 20] + 1) % VOCAB
    before, after = net(x, y, window), net(changed, y, window)
    # A convolution over tokens moves the last token whose turns are others, and of those the key's
    # own does not count.
    taps = getattr(SCHEMES.settings[position](), "taps", 2)
    reach = 20 + layers * (window - 1 + taps - 2)
    torch.testing.assert_close(before[:, reach + 1 :], after[:, reach + 1 :])
    near = 20 + layers * (window - 1)
    assert not torch.allclose(before[:, near], after[:, near])
    assert torch.equal(net(x, y, 60), net(x, y))
    net(x, y, 7)
    assert net.backend in ("blocks", "scored")
    net(x, y, 60)
    limited_no_more = net.backend
    net(x, y)
    assert net.backend == limited_no_more


@pytest.mark.parametrize("position", SCHEMES.settings)
def test_every_parameter_has_a_gradient(position: str) -> None:
    x, y = batch(30)
    net = decoder(position)
    net(x, y).mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_tiny_is_one_million_parameters() -> None:
    net = Decoder(ModelConfig(), SCHEMES.settings["alibi"](), 1024, 64)
    d, ff, layers, vocab = 192, 768, 2, 1024
    block = 4 * d * d + 4 * d + 2 * d * ff + d + ff + 4 * d
    assert net.n_parameters == vocab * d + layers * block + 2 * d == 1_086_720


def test_the_papers_transformer_has_the_papers_size() -> None:
    """246,933,504 parameters less the 45,393,920 of its adaptive embeddings and softmax."""
    config = ModelConfig(
        n_layers=16, n_heads=8, d_model=1024, d_ff=4096, dropout=0.3, final_norm=False
    )
    with torch.device("meta"):
        block = model_module.Block(config, 0, "auto")
    size = sum(parameter.numel() for parameter in block.parameters())
    assert config.n_layers * size == 246_933_504 - 45_393_920


def test_bfloat16_autocast_stays_close() -> None:
    x, y = batch(64)
    for position in SCHEMES.settings:
        net = decoder(position)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            rounded = net(x, y)
        assert rounded.dtype == torch.float32
        torch.testing.assert_close(rounded, net(x, y).detach(), atol=0.2, rtol=0.05)


def test_initial_loss_is_near_uniform() -> None:
    """Tied softmax over states of unit variance: logits start with variance one."""
    x, y = batch(64)
    loss = decoder("sinusoidal")(x, y).mean().item()
    assert math.log(VOCAB) - 0.5 < loss < math.log(VOCAB) + 2.0
