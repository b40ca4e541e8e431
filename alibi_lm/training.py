"""Training one model: the loop, the schedule, and the run folder that keeps the result."""

import json
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from alibi_lm.attention import leave_uncompiled
from alibi_lm.checkpoint import save_weights
from alibi_lm.config import Config, OptimConfig
from alibi_lm.data.batches import Batches
from alibi_lm.data.tokens import TokenizedCorpus
from alibi_lm.errors import UserError
from alibi_lm.model import Decoder, check_backend
from alibi_lm.positions import build_position
from alibi_lm.progress import bar, say
from alibi_lm.runs import Run, open_run
from alibi_lm.runtime import (
    autocast,
    compile_every_shape,
    environment,
    keep_freed_memory,
    resolve_device,
)

LOG_EVERY = 10  # steps; a line of metrics.jsonl is the mean over as many


def lr_at(step: int, optim: OptimConfig) -> float:
    """Learning rate of the update after `step` completed ones."""
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    done = (step - optim.warmup_steps) / max(1, optim.steps - optim.warmup_steps)
    return optim.min_lr + (optim.lr - optim.min_lr) * (1 + math.cos(math.pi * done)) / 2


def build_optimizer(model: Decoder, optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW that decays the matrices and leaves norms, biases and the positional scheme alone."""
    positional = {id(p) for p in model.position.parameters()}
    decayed = [p for p in model.parameters() if p.ndim >= 2 and id(p) not in positional]
    rest = [p for p in model.parameters() if p.ndim < 2 or id(p) in positional]
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": optim.weight_decay},
            {"params": rest, "weight_decay": 0.0},
        ],
        lr=optim.lr,
        betas=(optim.beta1, optim.beta2),
        fused=True,
    )


def compile_blocks(model: Decoder) -> None:
    """Have torch compile each block where it is; the first step then waits for the compiler."""
    compile_every_shape()
    leave_uncompiled()
    for block in model.blocks:
        block.compile(dynamic=False)


def train(
    model: Decoder,
    batches: Batches,
    config: Config,
    device: torch.device,
    after_step: Callable[[int, float, float, float], None],
) -> None:
    """Run the recipe. `after_step` is told steps completed, loss, gradient norm, learning rate.

    The loss is the mean over all tokens of the update (nats), however many passes it takes.
    """
    optimizer = build_optimizer(model, config.optim)
    model.train()
    if config.compile:
        compile_blocks(model)
    for step in range(config.optim.steps):
        lr = lr_at(step, config.optim)
        for group in optimizer.param_groups:
            group["lr"] = lr
        # Dropout, too, is a function of (seed, step) alone.
        torch.manual_seed((config.seed << 32) + step)
        inputs, targets = (torch.from_numpy(rows).to(device) for rows in batches[step])
        loss, norm = update(model, optimizer, inputs, targets, config, device)
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise UserError(
                f"training stopped before update {step + 1}: the loss is {loss} and the gradient's "
                f"norm {norm}; try a smaller optim.lr (now {config.optim.lr}) or a longer "
                f"optim.warmup_steps (now {config.optim.warmup_steps})"
            )
        after_step(step + 1, loss, norm, lr)


def update(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    targets: Tensor,
    config: Config,
    device: torch.device,
) -> tuple[float, float]:
    """One optimizer update on the mean loss over all tokens, in grad_accum_steps passes.

    inputs, targets: (B, T). Returns the loss (nats) and the gradient's norm before clipping; if
    either is not finite, nothing is updated.
    """
    loss = 0.0
    passes = config.grad_accum_steps
    for x, y in zip(inputs.chunk(passes), targets.chunk(passes), strict=True):
        with autocast(device, config.dtype):
            part = model(x, y).sum() / targets.numel()
        part.backward()
        loss += part.item()
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.optim.grad_clip).item()
    if math.isfinite(loss) and math.isfinite(norm):
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss, norm


def build_model(config: Config, data: TokenizedCorpus) -> Decoder:
    """The model of a run, with its initial weights."""
    return Decoder(
        config.model,
        config.position,
        data.vocab_size,
        config.seed,
        config.backend,
        config.checkpointing,
    )


def training_device(config: Config) -> torch.device:
    """The device to train on; a UserError if it is not there or the backend cannot train on it."""
    device = resolve_device(config.device)
    position = build_position(config.position, config.model)
    check_backend(config.backend, position, device.type, window=None, training=True)
    return device


def training_batches(config: Config, data: TokenizedCorpus) -> Batches:
    """The run's batches, or a UserError if the corpus cannot give them."""
    return Batches(data.split("train"), config.train_length, config.sequences_per_step, config.seed)


def train_run(config: Config, data: TokenizedCorpus, label: str = "") -> Run:
    """Train the run that the configuration describes, unless that is done."""
    device = training_device(config)
    batches = training_batches(config, data)
    keep_freed_memory()
    run = open_run(config, data)
    with run.lock():
        if run.is_trained:
            say(f"{label}{run.path} is trained already")
        else:
            _train_into(run, data, batches, device, label)
    return run


def _train_into(
    run: Run, data: TokenizedCorpus, batches: Batches, device: torch.device, label: str
) -> None:
    config = run.config
    model = build_model(config, data).to(device)
    total = config.optim.steps * config.optim.tokens_per_step
    say(
        f"{label}{run.path}: {model.n_parameters:,} parameters, {total:,} tokens in "
        f"{config.optim.steps} steps of {config.sequences_per_step} x {config.train_length}"
        + (f" ({config.grad_accum_steps} passes each)" if config.grad_accum_steps > 1 else "")
    )
    started = time.perf_counter()
    recent: list[float] = []
    first_step: list[float] = []  # seconds; with compile=true, most of them are the compiler's
    with (
        (run.path / "metrics.jsonl").open("w", buffering=1) as log,
        bar(total=total, unit="tok", desc=f"{label}train {config.position.name}") as progress,
    ):

        def after_step(step: int, loss: float, norm: float, lr: float) -> None:
            if step == 1:
                first_step.append(time.perf_counter() - started)
            recent.append(loss)
            progress.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            progress.update(config.optim.tokens_per_step)
            if step % LOG_EVERY == 0 or step == config.optim.steps:
                tokens = step * config.optim.tokens_per_step
                line: dict[str, Any] = {
                    "step": step,
                    "tokens": tokens,
                    "loss": sum(recent) / len(recent),
                    "grad_norm": norm,
                    "lr": lr,
                    "seconds": time.perf_counter() - started,
                }
                log.write(json.dumps(line) + "\n")
                recent.clear()

        train(model, batches, config, device, after_step)
    seconds = time.perf_counter() - started
    run.update_manifest(
        environment=environment(device),
        n_parameters=model.n_parameters,
        train_tokens=total,
        backend=model.backend(config.train_length),
        first_step_seconds=first_step[0],
        train_seconds=seconds,
        train_tokens_per_second=total / seconds,
    )
    save_weights(model, run.weights)
