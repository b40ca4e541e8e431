"""What the loss is multiplied by in float16, so that small gradients do not vanish.

As fairseq does it (optim/dynamic_loss_scaler.py, with the paper's flags): from 128 on, doubled
after 2,048 updates without overflow, halved at each. fairseq leaves out a batch whose gradient
overflows; here it is computed again, so that batches stay a function of (seed, step).
"""

from dataclasses import dataclass

DOUBLED_AFTER = 2**11  # updates: fairseq's 2^14 shared by the paper's 8 GPUs
SMALLEST = 1e-4


@dataclass
class LossScale:
    """The factor now, and what decides the next one."""

    value: float = 2.0**7
    updates: int = 0  # since it was last changed

    @property
    def can_shrink(self) -> bool:
        """Whether half of it is not too small; below, something else is wrong."""
        return self.value / 2 >= SMALLEST

    def shrink(self) -> None:
        """After a gradient that overflowed."""
        self.value, self.updates = self.value / 2, 0

    def succeeded(self) -> None:
        """After an update."""
        self.updates += 1
        if self.updates == DOUBLED_AFTER:
            self.value, self.updates = self.value * 2, 0
