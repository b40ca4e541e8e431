"""The loop of updates, and one update.

Batches, dropout, drawn positions and learning rate are functions of (seed, step) alone, so a
training that stopped continues from its last whole update as if it had not stopped.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from alibi_lm.attention import leave_uncompiled
from alibi_lm.data.batches import Batches
from alibi_lm.errors import NonfiniteError
from alibi_lm.machine import processes
from alibi_lm.machine.device import autocast, compile_every_shape
from alibi_lm.model.decoder import Decoder
from alibi_lm.positions import Draws
from alibi_lm.training.optim import OptimConfig, lr_at
from alibi_lm.training.parallel import clip_gradients, sync_gradients

SMALLEST_SCALE = 1e-4  # of the sum of losses in float16; smaller, something else is wrong


def compile_blocks(model: Decoder) -> None:
    """Compile each block in place; the first step then waits for the compiler."""
    compile_every_shape()
    leave_uncompiled()
    for block in model.blocks:
        block.compile(dynamic=False)


def build_scaler(dtype: str, device: torch.device, tokens: int) -> torch.amp.GradScaler:
    """What scales the loss in float16, so that small gradients do not vanish; else it does nothing.

    As fairseq (optim/dynamic_loss_scaler.py): the sum of the losses is multiplied by 128 at first,
    by twice as much after 2,048 updates without overflow (its 2^14 shared by the paper's 8 GPUs),
    and by half as much after an overflow, whose update is skipped. tokens: of an update, since
    what is scaled here is the mean.
    """
    return torch.amp.GradScaler(
        device.type, 2.0**7 * tokens, growth_interval=2**11, enabled=dtype == "float16"
    )


@dataclass(frozen=True)
class Update:
    """What one optimizer update reports."""

    step: int  # updates completed, this one included
    loss: float  # mean over all tokens of the update, nats
    grad_norm: float  # before clipping; infinite where float16 overflowed: nothing was updated
    lr: float


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    optim: OptimConfig,
    device: torch.device,
    *,
    seed: int = 0,
    dtype: str = "float32",
    passes: int = 1,
    first: int = 0,
    before_pass: Callable[[], None] = lambda: None,
    scaler: torch.amp.GradScaler | None = None,
) -> Iterator[Update]:
    """Make the updates that follow `first` completed ones, and yield what each reports.

    seed: of dropout. passes: forward passes of an update (gradient accumulation).
    before_pass: called before each forward pass; if it raises, the unfinished update has changed
    nothing. Raises a NonfiniteError, before the update, where loss or gradient is NaN or infinite.
    """
    model.train()
    scaler = scaler or build_scaler(dtype, device, optim.tokens_per_step)
    rank, n_processes = processes.rank(), processes.world_size()
    for step in range(first, optim.steps):
        lr = lr_at(step, optim)
        for group in optimizer.param_groups:
            group["lr"] = lr
        # Of the sequences of an update, the share of this process. (B / processes, T)
        shares = (torch.from_numpy(rows).chunk(n_processes)[rank] for rows in batches[step])
        inputs, targets = (share.to(device) for share in shares)
        drawn = draws(seed, step, len(inputs) * n_processes)
        of_rank = drawn.sequences.chunk(n_processes)[rank].to(device)
        torch.manual_seed(dropout_seed(seed, step, rank))
        loss, norm = update(
            model,
            optimizer,
            inputs,
            targets,
            optim.grad_clip,
            dtype=dtype,
            passes=passes,
            before_pass=before_pass,
            scaler=scaler,
            draws=Draws(drawn.update, of_rank),
        )
        overflow = (
            scaler.is_enabled() and scaler.get_scale() >= SMALLEST_SCALE * optim.tokens_per_step
        )
        if not math.isfinite(loss) or not (math.isfinite(norm) or overflow):
            raise _nonfinite(step, loss, norm, batches, optim)
        yield Update(step + 1, loss, norm, lr)


def dropout_seed(seed: int, step: int, rank: int) -> int:
    """The seed of a step's dropout; each process has its own."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])


def draws(seed: int, step: int, n_sequences: int) -> Draws:
    """The numbers from which a step's positions are drawn, whatever processes and passes share."""
    sequence = np.random.SeedSequence((seed, step), spawn_key=(1,))
    numbers = (sequence.generate_state(n_sequences + 1, np.uint64) >> np.uint64(1)).astype(np.int64)
    return Draws(int(numbers[0]), torch.from_numpy(numbers[1:]))


def update(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    targets: Tensor,
    grad_clip: float,
    *,
    dtype: str = "float32",
    passes: int = 1,
    before_pass: Callable[[], None] = lambda: None,
    scaler: torch.amp.GradScaler | None = None,
    draws: Draws | None = None,
) -> tuple[float, float]:
    """One optimizer update on the mean loss over all tokens, in so many forward passes.

    inputs, targets: (B, T), this process's share; draws: those of these sequences. Returns the loss
    (nats) and the gradient's norm before clipping, both over all processes; if either is not
    finite, nothing is updated.
    """
    device, n_processes = inputs.device, processes.world_size()
    n_tokens = targets.numel() * n_processes
    scaler = scaler or build_scaler(dtype, device, n_tokens)
    loss = 0.0
    of_passes: list[dict[str, Draws]] = [{} for _ in range(passes)]
    if draws is not None:
        parts_of = draws.sequences.chunk(passes)
        of_passes = [{"draws": Draws(draws.update, part)} for part in parts_of]
    parts = zip(inputs.chunk(passes), targets.chunk(passes), of_passes, strict=True)
    for number, (x, y, drawn) in enumerate(parts, start=1):
        before_pass()
        sync_gradients(model, enabled=number == passes)
        with autocast(device, dtype):
            part = model(x, y, **drawn).sum() / n_tokens
        # Gradients are averaged over the processes, and their sum is wanted.
        scaler.scale(part * n_processes).backward()
        loss += part.item()
    loss = processes.all_reduce_sum(loss)
    scaler.unscale_(optimizer)
    norm = clip_gradients(model, grad_clip)
    if math.isfinite(loss) and (math.isfinite(norm) or scaler.is_enabled()):
        scaler.step(optimizer)
        scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return loss, norm


def _nonfinite(
    step: int, loss: float, norm: float, batches: Batches, optim: OptimConfig
) -> NonfiniteError:
    blocks = ", ".join(map(str, batches.blocks(step)))
    return NonfiniteError(
        f"training stopped before update {step + 1}: the loss is {loss} and the gradient's norm "
        f"{norm}, on blocks {blocks} of the training split (block b is the {batches.length} "
        f"tokens from b x {batches.length} on); the weights before the update are kept; try a "
        f"smaller optim.lr (now {optim.lr}) or a longer optim.warmup_steps (now "
        f"{optim.warmup_steps})"
    )
