"""Optimizers with their settings, and the schedule of the learning rate.

An optimizer is one dataclass: its settings, and `build`, which makes the torch optimizer.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from alibi_lm.positions import Position
from alibi_lm.settings import Registry, setting

OPTIMIZERS = Registry("optim")


@dataclass
class OptimConfig:
    """Linear warm-up, one cosine period, clipping; an optimizer adds its own settings."""

    kind: ClassVar[str]

    steps: int = setting(500, "optimizer updates", at_least=1)
    tokens_per_step: int = setting(1024, "tokens per update, whatever the hardware", at_least=1)
    micro_batch_size: int | None = setting(
        None, "sequences per forward pass and process; null: no accumulation", at_least=1
    )
    lr: float = setting(5e-3, "peak learning rate", above=0)
    min_lr: float = setting(1e-4, "learning rate at the end of the cosine", at_least=0)
    warmup_steps: int = setting(125, "updates of linear warm-up", at_least=0)
    warmup_init_lr: float | None = setting(
        None, "learning rate of the first update; null: lr / warmup_steps", at_least=0
    )
    grad_clip: float = setting(1.0, "largest norm of the gradient", above=0)

    def problems(self) -> list[str]:
        """The schedule must fit the steps."""
        problems = []
        if self.warmup_steps > self.steps:
            problems.append(
                f"optim.warmup_steps: given {self.warmup_steps}, but it must be at most "
                f"optim.steps = {self.steps}"
            )
        if self.min_lr > self.lr:
            problems.append(
                f"optim.min_lr: given {self.min_lr}, but it must be at most optim.lr = {self.lr}"
            )
        return problems

    @property
    def train_tokens(self) -> int:
        """Tokens of the whole training."""
        return self.steps * self.tokens_per_step

    def build(self, decayed: list[Tensor], others: list[Tensor]) -> torch.optim.Optimizer:
        """The optimizer of these parameters; weight decay applies to the decayed ones."""
        raise NotImplementedError


def lr_at(step: int, optim: OptimConfig) -> float:
    """Learning rate of the update after `step` completed ones."""
    if step < optim.warmup_steps:
        if optim.warmup_init_lr is None:
            return optim.lr * (step + 1) / optim.warmup_steps
        # fairseq's cosine_lr_scheduler.py
        return optim.warmup_init_lr + step * (optim.lr - optim.warmup_init_lr) / optim.warmup_steps
    done = (step - optim.warmup_steps) / max(1, optim.steps - optim.warmup_steps)
    return optim.min_lr + (optim.lr - optim.min_lr) * (1 + math.cos(math.pi * done)) / 2


def build_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer that the configuration names, over a model's parameters.

    Matrices decay; norms and biases do not. Of a positional scheme only the weights of its
    nn.Linear modules decay: tables, slopes and the like mean what their values say; after each
    update they are put back within their bounds.
    """
    scheme = getattr(model, "position", nn.Module())
    spared = {id(p) for p in scheme.parameters()}
    spared -= {id(m.weight) for m in scheme.modules() if isinstance(m, nn.Linear)}
    decayed: list[Tensor] = []
    others: list[Tensor] = []
    for parameter in model.parameters():
        decays = parameter.ndim >= 2 and id(parameter) not in spared
        (decayed if decays else others).append(parameter)
    optimizer = optim.build(decayed, others)
    if isinstance(scheme, Position):
        optimizer.register_step_post_hook(lambda *_: scheme.constrain())
    return optimizer


@OPTIMIZERS.register("adamw")
@dataclass
class AdamwConfig(OptimConfig):
    """AdamW. The defaults suit model=tiny at train_length=64: a minute on two cores."""

    weight_decay: float = setting(0.1, "on matrices; not on norms, biases, positions", at_least=0)
    beta1: float = setting(0.9, "decay of the first moment", at_least=0, below=1)
    beta2: float = setting(0.95, "decay of the second moment", at_least=0, below=1)

    def build(self, decayed: list[Tensor], others: list[Tensor]) -> torch.optim.Optimizer:
        """Fused, which is the fastest on a CPU and on a GPU."""
        groups = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.lr, betas=(self.beta1, self.beta2), fused=True)


@OPTIMIZERS.register("nag")
@dataclass
class NagConfig(OptimConfig):
    """Nesterov's accelerated gradient.

    fairseq's NAG (optim/nag.py) keeps minus the learning rate times torch's momentum, and corrects
    it when the rate changes; its updates are those of torch's SGD with Nesterov momentum.
    """

    momentum: float = setting(0.99, "share of the previous step that is kept", above=0, below=1)

    def build(self, decayed: list[Tensor], others: list[Tensor]) -> torch.optim.Optimizer:
        """SGD with Nesterov momentum, without weight decay."""
        return torch.optim.SGD([*decayed, *others], self.lr, self.momentum, nesterov=True)
