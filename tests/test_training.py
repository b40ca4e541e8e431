import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alibi_lm.config import Config, OptimConfig
from alibi_lm.data.tokens import TokenizedCorpus, prepare
from alibi_lm.session import training_batches
from alibi_lm.training import build_model, build_optimizer, compile_blocks, lr_at, train

CPU = torch.device("cpu")


def prepared(config: Config) -> TokenizedCorpus:
    return prepare(config.data, config.tokenizer, Path(config.cache))


def losses_of(config: Config) -> list[float]:
    data = prepared(config)
    model = build_model(config, data)
    if config.compile:
        compile_blocks(model)
    optimizer = build_optimizer(model, config.optim)
    updates = train(model, optimizer, training_batches(config, data), config, CPU)
    return [update.loss for update in updates]


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
    assert (config.grad_accum_steps(), split.grad_accum_steps()) == (1, 4)
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
