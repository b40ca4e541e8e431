"""Optimizers, and the schedule of the learning rate."""

import math

import torch

from alibi_lm.config import AdamwConfig, NagConfig, OptimConfig
from alibi_lm.model.decoder import Decoder


def lr_at(step: int, optim: OptimConfig) -> float:
    """Learning rate of the update after `step` completed ones."""
    if step < optim.warmup_steps:
        if optim.warmup_init_lr is None:
            return optim.lr * (step + 1) / optim.warmup_steps
        # fairseq's cosine_lr_scheduler.py
        return optim.warmup_init_lr + step * (optim.lr - optim.warmup_init_lr) / optim.warmup_steps
    done = (step - optim.warmup_steps) / max(1, optim.steps - optim.warmup_steps)
    return optim.min_lr + (optim.lr - optim.min_lr) * (1 + math.cos(math.pi * done)) / 2


def build_optimizer(model: Decoder, optim: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer that the configuration names.

    nag: fairseq's NAG (optim/nag.py) keeps minus the learning rate times torch's momentum, and
    corrects it when the rate changes; the steps are those of torch's SGD with Nesterov momentum.
    """
    if isinstance(optim, NagConfig):
        return torch.optim.SGD(model.parameters(), optim.lr, optim.momentum, nesterov=True)
    assert isinstance(optim, AdamwConfig)
    return _adamw(model, optim)


def _adamw(model: Decoder, optim: AdamwConfig) -> torch.optim.AdamW:
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
