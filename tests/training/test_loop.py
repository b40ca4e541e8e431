import itertools
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from samples import trained

from alibi_lm.config import Config
from alibi_lm.machine.interruption import Interrupted
from alibi_lm.model.decoder import Decoder
from alibi_lm.positions import SCHEMES, Position, PositionConfig, Sizes
from alibi_lm.runs.plan import batches_of, plan_run
from alibi_lm.runs.train import build_model
from alibi_lm.training.loop import Update, build_scaler, compile_blocks, draws, train, update
from alibi_lm.training.optim import AdamwConfig, NagConfig, build_optimizer, lr_at

CPU = torch.device("cpu")


def decoder_of(config: Config) -> Decoder:
    return build_model(plan_run(config), config.seed, config.backend)


def updates_of(config: Config, model: torch.nn.Module, **settings: Any) -> list[Update]:
    run = plan_run(config)
    optimizer, batches = build_optimizer(model, config.optim), batches_of(config, run.data)
    how = {"seed": config.seed, "dtype": config.dtype, "passes": config.grad_accum_steps()}
    return list(train(model, optimizer, batches, config.optim, CPU, **(how | settings)))


def losses_of(config: Config) -> list[float]:
    model = decoder_of(config)
    if config.compile:
        compile_blocks(model)
    return [update.loss for update in updates_of(config, model)]


def test_schedule() -> None:
    optim = AdamwConfig(steps=100, warmup_steps=10, lr=1.0, min_lr=0.1)
    rates = [lr_at(step, optim) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.55)  # half of the cosine
    assert rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert lr_at(0, replace(optim, warmup_steps=0)) == pytest.approx(1.0)


def test_decay_spares_norms_biases_and_the_positional_scheme(
    small_config: Callable[..., Config],
) -> None:
    config = small_config("t5")
    model = decoder_of(config)
    decayed, rest = build_optimizer(model, config.optim).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all("norm" not in names[id(p)] and p.ndim == 2 for p in decayed["params"])
    assert "position.relative_attention_bias.weight" in {names[id(p)] for p in rest["params"]}
    assert len(decayed["params"]) + len(rest["params"]) == len(names)
    assert rest["weight_decay"] == 0


@pytest.mark.parametrize("position", SCHEMES.settings)
def test_learns(small_config: Callable[..., Config], position: str) -> None:
    optim = AdamwConfig(steps=60, warmup_steps=5, tokens_per_step=256, lr=1e-2, min_lr=1e-3)
    losses = losses_of(small_config(position, optim=optim))
    assert losses[-1] < losses[0] - 1.5


@pytest.mark.parametrize("position", ["alibi", "shape", "randomized"])
def test_accumulation_gives_the_same_updates(
    small_config: Callable[..., Config], position: str
) -> None:
    """Drawn positions among them."""
    config = small_config(position)
    split = small_config(position, optim=replace(config.optim, micro_batch_size=1))
    assert (config.grad_accum_steps(), split.grad_accum_steps()) == (1, 4)
    assert losses_of(split) == pytest.approx(losses_of(config), rel=1e-4)


@pytest.mark.parametrize("position", ["shape", "randomized"])
def test_drawn_positions_are_functions_of_seed_and_step(
    small_config: Callable[..., Config], position: str
) -> None:
    assert losses_of(small_config(position)) == losses_of(small_config(position))
    a, b = draws(3, 7, 8), draws(3, 7, 8)
    assert a.update == b.update and torch.equal(a.sequences, b.sequences)
    numbers = {int(n) for step in range(50) for n in draws(3, step, 8).sequences}
    assert len(numbers) == 400 and min(numbers) >= 0
    assert draws(3, 8, 8).update != a.update != draws(4, 7, 8).update
    assert torch.equal(draws(3, 7, 4).sequences, a.sequences[:4])


@torch.no_grad()
def test_bounds_hold_after_every_update(small_config: Callable[..., Config]) -> None:
    config = small_config("kerple", optim=AdamwConfig(lr=5.0, min_lr=5.0, warmup_steps=0, steps=9))
    model = decoder_of(config)
    optimizer, position = build_optimizer(model, config.optim), model.position
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for _ in range(3):
        optimizer.step()
        assert position.p.min() >= 0.01 and position.a.min() >= 0.01
    assert position.p.min() == pytest.approx(0.01)


def test_same_seed_same_losses_with_dropout(small_config: Callable[..., Config]) -> None:
    config = small_config()
    config = replace(config, model=replace(config.model, dropout=0.3))
    assert losses_of(config) == losses_of(config)
    assert losses_of(replace(config, seed=1)) != losses_of(config)


def test_first_losses_of_schemes_differ_though_weights_and_batches_agree(
    small_config: Callable[..., Config],
) -> None:
    configs = [small_config(name) for name in ("none", "alibi", "rotary")]
    assert len({losses_of(config)[0] for config in configs}) == 3
    batches = [batches_of(config, plan_run(config).data)[3][0] for config in configs]
    assert all(np.array_equal(batches[0], other) for other in batches[1:])
    models = [decoder_of(config).state_dict() for config in configs]
    for key, value in models[0].items():
        assert all(torch.equal(value, other[key]) for other in models[1:])


def test_bfloat16(small_config: Callable[..., Config]) -> None:
    full, rounded = losses_of(small_config()), losses_of(small_config(dtype="bfloat16"))
    assert rounded == pytest.approx(full, rel=0.02)
    assert rounded != full


def test_how_it_is_computed_hardly_changes_the_losses(
    small_config: Callable[..., Config],
) -> None:
    other = {"t5": "reference", "alibi": "blocks"}
    for position in ("t5", "alibi"):
        wanted = pytest.approx(losses_of(small_config(position)), rel=1e-4)
        assert losses_of(small_config(position, backend=other[position])) == wanted
        assert losses_of(small_config(position, backend="reference")) == wanted
        assert losses_of(small_config(position, checkpointing=True)) == wanted


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled(small_config: Callable[..., Config]) -> None:
    for position in ("t5", "alibi"):
        wanted = pytest.approx(losses_of(small_config(position)), rel=1e-4)
        assert losses_of(small_config(position, compile=True)) == wanted


class Toy(torch.nn.Module):
    """Losses per token of tokens in a ring, smooth and in float64."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.a = torch.nn.Parameter(torch.randn(11, 5, generator=generator, dtype=torch.float64))
        self.b = torch.nn.Parameter(torch.randn(5, 11, generator=generator, dtype=torch.float64))

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = self.a[inputs].tanh() @ self.b
        return -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]


def test_the_papers_recipe_step_by_step(small_config: Callable[..., Config]) -> None:
    """NAG, schedule and clipping as fairseq's own formulas have them, in float64, 50 updates."""
    steps, warmup, peak, least, first, clip, momentum = 50, 12, 1.0, 1e-4, 1e-7, 0.1, 0.99
    optim = NagConfig(
        steps=steps,
        warmup_steps=warmup,
        lr=peak,
        min_lr=least,
        warmup_init_lr=first,
        grad_clip=clip,
        momentum=momentum,
        tokens_per_step=64,
        micro_batch_size=2,
    )
    config = small_config(optim=optim)
    generator = np.random.default_rng(0)
    stream = generator.integers(11, size=(steps, 4, 17))
    ours, theirs = Toy(), Toy()
    optimizer = build_optimizer(ours, optim)
    velocity, rate_before, clipped = [torch.zeros_like(p) for p in theirs.parameters()], 0.0, 0

    for step in range(steps):
        inputs, targets = (
            torch.from_numpy(stream[step, :, part]) for part in (slice(16), slice(1, 17))
        )
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step, optim)
        passes = config.grad_accum_steps()
        loss, norm = update(ours, optimizer, inputs, targets, clip, passes=passes)

        if step < warmup:
            rate = first + step * (peak - first) / warmup
        else:
            turn = math.cos(math.pi * (step - warmup) / (steps - warmup))
            rate = least + 0.5 * (peak - least) * (1 + turn)
        total = theirs(inputs, targets).sum()
        gradients = [g / 64 for g in torch.autograd.grad(total, list(theirs.parameters()))]
        length = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        shrink = min(1.0, clip / (length + 1e-6))
        clipped += shrink < 1
        correct = rate / rate_before if rate_before > 0 else rate
        with torch.no_grad():
            for p, v, g in zip(theirs.parameters(), velocity, gradients, strict=True):
                p += momentum * momentum * correct * v - (1 + momentum) * rate * shrink * g
                v.mul_(momentum * correct).sub_(rate * shrink * g)
        rate_before = rate

        assert loss == pytest.approx(float(total) / 64, rel=1e-12)
        assert norm == pytest.approx(length, rel=1e-9)
        for mine, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-12)
    assert clipped > 20


def in_float16(
    config: Config, model: Decoder, scale: float, stop: int | None = None
) -> tuple[list[Update], torch.amp.GradScaler]:
    """Updates in float16 from a scale on; a stop as a signal makes it, before that forward pass."""
    scaler = torch.amp.GradScaler("cpu", scale, growth_interval=2**11)
    passes = itertools.count(1)

    def before_pass() -> None:
        if next(passes) == stop:
            raise Interrupted(15)

    return updates_of(config, model, scaler=scaler, before_pass=before_pass), scaler


def test_float16_scales_the_loss(small_config: Callable[..., Config]) -> None:
    optim = NagConfig(steps=4, warmup_steps=2, tokens_per_step=64, lr=0.1, min_lr=0.01)
    config = small_config(optim=optim)
    exact, model, before = (decoder_of(config) for _ in range(3))
    wanted = updates_of(config, exact)
    found, scaler = in_float16(replace(config, dtype="float16"), model, 2.0**13)
    assert [u.grad_norm for u in found] == pytest.approx([u.grad_norm for u in wanted], rel=0.01)
    assert [u.loss for u in found] == pytest.approx([u.loss for u in wanted], rel=0.01)
    for mine, other, first in zip(
        model.parameters(), exact.parameters(), before.parameters(), strict=True
    ):
        assert (mine - other).norm() <= 0.02 * (other - first).norm() + 1e-6
    assert scaler.get_scale() == 2.0**13


def test_float16_skips_an_update_that_overflows(small_config: Callable[..., Config]) -> None:
    """As fairseq does: the weights stay as they were, the scale is halved, the step is counted."""
    config = small_config(dtype="float16", optim=replace(small_config().optim, steps=30))
    model = decoder_of(config)
    found, scaler = in_float16(config, model, 2.0**30)
    skipped = [math.isinf(update.grad_norm) or math.isnan(update.grad_norm) for update in found]
    n_skipped = sum(skipped)
    assert skipped[0] and not skipped[-1]
    assert scaler.get_scale() == 2.0 ** (30 - n_skipped)
    assert [update.step for update in found] == list(range(1, 31))
    assert found[-1].loss < found[0].loss
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_the_first_scale_is_fairseqs() -> None:
    """Of the sum of the losses 128; it is the mean that is scaled here."""
    scaler = build_scaler("float16", CPU, tokens=64)
    assert (scaler.get_scale(), scaler.get_growth_interval()) == (128 * 64, 2048)
    assert not build_scaler("float32", CPU, tokens=64).is_enabled()


def test_small_gradients_do_not_vanish() -> None:
    """The sum of the losses is scaled: divided by its tokens first, it would be lost in float16."""

    class Faint(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            # Through float16, each token's gradient is 1e-7 x the scale.
            return (self.weight.half() * torch.ones(inputs.shape).half()).float() * 1e-7

    tokens = torch.zeros(4, 16, dtype=torch.long)
    for dtype, wanted in (("float32", 0.0), ("float16", 1e-7)):
        net = Faint()
        optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
        _, norm = update(net, optimizer, tokens, tokens, 1.0, dtype=dtype)
        assert norm == pytest.approx(wanted, rel=0.01, abs=1e-12)


class WithLinear(Position):
    """A scheme with a matrix, a bias, and a table."""

    def __init__(self, config: PositionConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.gate = torch.nn.Linear(sizes.d_model, sizes.n_heads)
        self.table = torch.nn.Embedding(4, sizes.n_heads)

    def embed(self, x: torch.Tensor, begun: Any) -> torch.Tensor:
        return x + 0.01 * (self.gate(x) + self.table.weight.sum(0)).sum(-1, keepdim=True)


def test_of_a_scheme_only_the_weights_of_linear_modules_decay(
    small_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCHEMES.made, "none", WithLinear)
    config = small_config("none")
    model = decoder_of(config)
    decayed, rest = build_optimizer(model, config.optim).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    of_scheme = {names[id(p)] for p in decayed["params"] if names[id(p)].startswith("position.")}
    assert of_scheme == {"position.gate.weight"}
    assert {"position.gate.bias", "position.table.weight"} <= {names[id(p)] for p in rest["params"]}
    first, second = (trained(replace(config, output=config.output + n)) for n in ("1", "2"))
    assert first.weights.read_bytes() == second.weights.read_bytes()
