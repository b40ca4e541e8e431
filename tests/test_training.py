import itertools
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alibi_lm.config import Config, OptimConfig
from alibi_lm.data.tokens import TokenizedCorpus, prepare
from alibi_lm.errors import UserError
from alibi_lm.training import (
    build_model,
    build_optimizer,
    lr_at,
    train,
    train_run,
    training_batches,
)

CPU = torch.device("cpu")


def prepared(config: Config) -> TokenizedCorpus:
    return prepare(config.data, config.tokenizer, Path(config.cache))


def losses_of(config: Config) -> list[float]:
    data = prepared(config)
    losses: list[float] = []
    model = build_model(config, data)
    train(
        model,
        training_batches(config, data),
        config,
        CPU,
        lambda step, loss, *_: losses.append(loss),
    )
    return losses


def test_schedule() -> None:
    optim = OptimConfig(steps=100, warmup_steps=10, lr=1.0, min_lr=0.1)
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
    model = build_model(config, prepared(config))
    decayed, rest = build_optimizer(model, config.optim).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all("norm" not in names[id(p)] and p.ndim == 2 for p in decayed["params"])
    assert "position.relative_attention_bias.weight" in {names[id(p)] for p in rest["params"]}
    assert len(decayed["params"]) + len(rest["params"]) == len(names)
    assert rest["weight_decay"] == 0


@pytest.mark.parametrize("position", ["none", "sinusoidal", "rotary", "t5", "alibi"])
def test_learns(small_config: Callable[..., Config], position: str) -> None:
    optim = OptimConfig(steps=60, warmup_steps=5, tokens_per_step=256, lr=1e-2, min_lr=1e-3)
    losses = losses_of(small_config(position, optim=optim))
    assert losses[-1] < losses[0] - 1.5


def test_accumulation_gives_the_same_updates(small_config: Callable[..., Config]) -> None:
    config = small_config()
    split = small_config(optim=replace(config.optim, micro_batch_size=1))
    assert (config.grad_accum_steps, split.grad_accum_steps) == (1, 4)
    assert losses_of(split) == pytest.approx(losses_of(config), rel=1e-4)


def test_same_seed_same_losses_with_dropout(small_config: Callable[..., Config]) -> None:
    config = small_config()
    config = replace(config, model=replace(config.model, dropout=0.3))
    assert losses_of(config) == losses_of(config)
    assert losses_of(replace(config, seed=1)) != losses_of(config)


def test_first_losses_of_schemes_differ_though_weights_and_batches_agree(
    small_config: Callable[..., Config],
) -> None:
    configs = [small_config(name) for name in ("none", "alibi", "rotary")]
    data = [prepared(config) for config in configs]
    assert len({losses_of(config)[0] for config in configs}) == 3
    batches = [training_batches(c, d)[3][0] for c, d in zip(configs, data, strict=True)]
    assert all(np.array_equal(batches[0], other) for other in batches[1:])
    models = [build_model(c, d).state_dict() for c, d in zip(configs, data, strict=True)]
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


def test_a_backend_that_cannot_train_the_scheme_trains_nothing(
    small_config: Callable[..., Config],
) -> None:
    config = small_config("t5", backend="coordinates")
    with pytest.raises(UserError, match="backend: given coordinates, but coordinates cannot"):
        train_run(config, prepared(config))
    with pytest.raises(UserError, match="flex has no gradients on a CPU"):
        train_run(replace(config, backend="flex"), prepared(config))
    assert not Path(config.output).exists()


def test_a_run_folder_holds_everything(small_config: Callable[..., Config]) -> None:
    config = small_config()
    run = train_run(config, prepared(config))
    assert run.is_trained
    metrics = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["step"] == config.optim.steps
    assert metrics[-1]["tokens"] == config.optim.steps * config.optim.tokens_per_step
    assert math.isfinite(metrics[-1]["loss"])
    manifest = run.manifest()
    assert manifest["train_tokens_per_second"] > 0
    assert manifest["backend"] == "row"
    assert 0 < manifest["first_step_seconds"] < manifest["train_seconds"]
    assert manifest["environment"]["packages"]["torch"] == torch.__version__


def test_a_trained_run_is_not_trained_again(
    small_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config()
    before = train_run(config, prepared(config)).weights.read_bytes()
    capsys.readouterr()
    run = train_run(config, prepared(config))
    assert "is trained already" in capsys.readouterr().out
    assert run.weights.read_bytes() == before


def test_a_loss_that_is_no_number_stops_the_run(small_config: Callable[..., Config]) -> None:
    config = small_config(
        optim=OptimConfig(steps=30, warmup_steps=0, tokens_per_step=64, lr=1e20, min_lr=0)
    )
    with pytest.raises(UserError, match=r"training stopped before update \d+: the loss is"):
        train_run(config, prepared(config))
    assert not list(Path(config.output).rglob("model.safetensors"))


def test_no_gpu(small_config: Callable[..., Config]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    config = small_config(device="cuda")
    with pytest.raises(UserError, match="torch sees no GPU"):
        train_run(config, prepared(config))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu(small_config: Callable[..., Config]) -> None:
    for position in ("rotary", "t5", "alibi"):
        config = small_config(position, device="cuda")
        run = train_run(config, prepared(config))
        last = json.loads((run.path / "metrics.jsonl").read_text().splitlines()[-1])
        assert last["loss"] == pytest.approx(sum(losses_of(config)) / 6, rel=0.01)
