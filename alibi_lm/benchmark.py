"""How fast training and evaluation are, against what the machine allows.

A training step is compared with a matrix product; evaluation at the training length with a bare
forward pass over the same batches. What is compared takes turns, so that a machine whose speed
drifts is as fast for the one as for the other; medians of both are compared.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from alibi_lm.config import Config
from alibi_lm.data.tokens import TokenizedCorpus
from alibi_lm.evaluation import check_evaluation, protocol_batches, score
from alibi_lm.model import Decoder
from alibi_lm.progress import bar
from alibi_lm.protocols import Protocol
from alibi_lm.runtime import autocast, keep_freed_memory, resolve_device
from alibi_lm.training import build_model, train, training_batches

MATRIX = 2048  # side of the square matrices whose product is the yardstick
WARM_UP = 3  # steps that are not counted: memory is claimed, kernels are chosen
PASSES = 8  # through the split; the first is not counted


@dataclass(frozen=True)
class Speed:
    """Medians over the measured steps."""

    tokens_per_second: float
    flops_per_second: float  # matrix products of the model alone
    matmul_flops_per_second: float  # of a large float32 product

    @property
    def share(self) -> float:
        """Of the matrix-multiply rate that training reaches."""
        return self.flops_per_second / self.matmul_flops_per_second


@dataclass(frozen=True)
class EvaluationSpeed:
    """Medians over the passes through the split."""

    tokens_per_second: float
    bare_tokens_per_second: float  # of forward passes over the same batches, nothing else

    @property
    def share(self) -> float:
        """Of the speed of a bare forward pass that evaluation keeps."""
        return self.tokens_per_second / self.bare_tokens_per_second


def measure_training(config: Config, data: TokenizedCorpus) -> Speed:
    """Time the real training loop, optimizer, batches and all, for `optim.steps` steps."""
    device = resolve_device(config.device)
    keep_freed_memory()
    model: Decoder = build_model(config, data).to(device)
    clock = _clock(device)
    matrix = torch.randn(MATRIX, MATRIX, device=device)
    step_seconds: list[float] = []
    matmul_seconds: list[float] = []
    with bar(total=config.optim.steps, unit="step", desc=config.position.name) as progress:
        started = clock()

        def after_step(step: int, loss: float, norm: float, lr: float) -> None:
            nonlocal started
            stopped = clock()
            torch.mm(matrix, matrix)
            multiplied = clock()
            if step > WARM_UP:
                step_seconds.append(stopped - started)
                matmul_seconds.append(multiplied - stopped)
            progress.update()
            started = clock()

        train(model, training_batches(config, data), config, device, after_step)
    seconds = statistics.median(step_seconds)
    tokens = config.optim.tokens_per_step
    return Speed(
        tokens_per_second=tokens / seconds,
        flops_per_second=tokens * model.training_flops_per_token(config.train_length) / seconds,
        matmul_flops_per_second=2 * MATRIX**3 / statistics.median(matmul_seconds),
    )


def measure_evaluation(config: Config, data: TokenizedCorpus) -> EvaluationSpeed:
    """Time nonoverlapping evaluation of the split at the training length, untrained weights."""
    device = resolve_device(config.device)
    keep_freed_memory()
    model: Decoder = build_model(config, data).to(device).eval()
    clock = _clock(device)
    split = check_evaluation(config.evaluation, config.train_length, data)
    length, batch_tokens = config.train_length, config.evaluation.batch_tokens
    protocol = Protocol("nonoverlapping", length, config.evaluation.split, stride=length)

    @torch.inference_mode()
    def losses_of(inputs: Tensor, targets: Tensor) -> Tensor:
        with autocast(device, config.dtype):
            losses: Tensor = model(inputs.to(device), targets.to(device))
        return losses

    batches = list(protocol_batches(split.stream, protocol, batch_tokens))
    seconds: list[float] = []
    bare_seconds: list[float] = []
    total = PASSES * 2 * split.tokens
    with bar(total=total, unit="tok", desc=f"evaluate {config.position.name}") as progress:
        for _ in range(PASSES):
            started = clock()
            score(losses_of, split.stream, protocol, batch_tokens, progress.update)
            scored = clock()
            for inputs, targets in batches:
                losses_of(inputs, targets)
                progress.update(inputs.numel())
            seconds.append(scored - started)
            bare_seconds.append(clock() - scored)
    return EvaluationSpeed(
        tokens_per_second=split.tokens / statistics.median(seconds[1:]),
        bare_tokens_per_second=split.tokens / statistics.median(bare_seconds[1:]),
    )


def _clock(device: torch.device) -> Callable[[], float]:
    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return now
