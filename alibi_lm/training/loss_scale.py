"""What the loss is multiplied by in float16, so that small gradients do not vanish.

As fairseq does it (optim/dynamic_loss_scaler.py): the sum of the tokens' losses is multiplied by
128 at first, by twice as much after 2,048 updates without overflow (its 2^14 shared by the
paper's 8 GPUs), by half as much after one. fairseq leaves out a batch whose gradient overflows; it
is computed again here, so that batches stay a function of (seed, step).
"""

from collections.abc import Iterator
from dataclasses import dataclass

DOUBLED_AFTER = 2**11  # updates
SMALLEST = 1e-4  # below, something else is wrong


@dataclass
class LossScale:
    """The factor now, and what decides the next one."""

    value: float = 2.0**7
    updates: int = 0  # since it was last changed

    def attempts(self) -> Iterator[float]:
        """The factor, then half of it, and so on: what to try until nothing overflows."""
        value = self.value
        while value >= SMALLEST:
            yield value
            value /= 2

    def succeeded(self, value: float) -> None:
        """Note an update that was made with that factor; until then nothing is changed."""
        self.updates = self.updates + 1 if value == self.value else 1
        self.value = value
        if self.updates == DOUBLED_AFTER:
            self.value, self.updates = value * 2, 0
