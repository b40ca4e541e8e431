"""The training recipe: schedule, optimizer, and the loop of updates.

Batches, dropout and learning rate are functions of (seed, step) alone, so a training that stopped
goes on from its last whole update as if nothing had been.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from alibi_lm.attention import leave_uncompiled
from alibi_lm.config import Config
from alibi_lm.data.batches import Batches
from alibi_lm.errors import NonfiniteError
from alibi_lm.machine import processes
from alibi_lm.machine.device import autocast, compile_every_shape
from alibi_lm.model.decoder import Decoder
from alibi_lm.training.loss_scale import LossScale
from alibi_lm.training.optim import lr_at
from alibi_lm.training.parallel import gradient_norm, share_rows, sum_gradients


def compile_blocks(model: Decoder) -> None:
    """Have torch compile each block where it is; the first step then waits for the compiler."""
    compile_every_shape()
    leave_uncompiled()
    for block in model.blocks:
        block.compile(dynamic=False)


@dataclass(frozen=True)
class Update:
    """What one optimizer update reports."""

    step: int  # updates completed, this one included
    loss: float  # mean over all tokens of the update, nats
    grad_norm: float  # before clipping
    lr: float


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    config: Config,
    device: torch.device,
    first: int = 0,
    before_pass: Callable[[], None] = lambda: None,
    scale: LossScale | None = None,
) -> Iterator[Update]:
    """Run the recipe from the update after `first` completed ones, an Update at a time.

    before_pass: called before each forward pass; where it raises, the unfinished update has
    changed nothing. scale: of the loss, where dtype=float16.
    """
    model.train()
    for step in range(first, config.optim.steps):
        lr = lr_at(step, config.optim)
        for group in optimizer.param_groups:
            group["lr"] = lr
        inputs, targets = (share_rows(torch.from_numpy(x)).to(device) for x in batches[step])
        for factor in scale.attempts() if scale else (None,):
            torch.manual_seed(dropout_seed(config.seed, step, processes.rank()))
            loss, norm = update(
                model, optimizer, inputs, targets, config, device, before_pass, factor
            )
            if math.isfinite(norm) or not math.isfinite(loss):
                break  # else the gradient overflowed
        if scale and factor and math.isfinite(loss) and math.isfinite(norm):
            scale.succeeded(factor)
        if not math.isfinite(loss) or not math.isfinite(norm):
            blocks = ", ".join(map(str, batches.blocks(step)))
            raise NonfiniteError(
                f"training stopped before update {step + 1}: the loss is {loss} and the gradient's "
                f"norm {norm}, on blocks {blocks} of the training split (block b is the "
                f"{batches.length} tokens from b x {batches.length} on); the weights before it are "
                f"kept; try a smaller optim.lr (now {config.optim.lr}) or a longer "
                f"optim.warmup_steps (now {config.optim.warmup_steps})"
            )
        yield Update(step + 1, loss, norm, lr)


def dropout_seed(seed: int, step: int, rank: int) -> int:
    """What decides which activations a step drops, in each process others."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])


def update(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    targets: Tensor,
    config: Config,
    device: torch.device,
    before_pass: Callable[[], None] = lambda: None,
    scale: float | None = None,
) -> tuple[float, float]:
    """One optimizer update on the mean loss over all tokens, in grad_accum_steps passes.

    inputs, targets: (B, T), this process's share. scale: what the sum of the losses is multiplied
    by while it is differentiated. Returns the loss (nats) and the gradient's norm before clipping,
    both over all processes; if either is not finite, nothing is updated.
    """
    loss = 0.0
    n_processes = processes.count()
    n_tokens = targets.numel() * n_processes
    factor = scale * n_tokens if scale else 1.0
    passes = config.grad_accum_steps(n_processes)
    pairs = zip(inputs.chunk(passes), targets.chunk(passes), strict=True)
    for number, (x, y) in enumerate(pairs, start=1):
        before_pass()
        sum_gradients(model, in_next_pass=number == passes)
        with autocast(device, config.dtype):
            part = model(x, y).sum() / n_tokens
        (part * (n_processes * factor)).backward()  # gradients are averaged over the processes
        loss += part.item()
    loss, norm = processes.total(loss), gradient_norm(model, config.optim.grad_clip, factor)
    if math.isfinite(loss) and math.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss, norm
