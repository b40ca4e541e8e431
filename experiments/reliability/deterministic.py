"""What `deterministic` costs: training steps with and without, in turns in one process.

python experiments/reliability/deterministic.py
"""

import statistics
import time

import torch

from alibi_lm.config import Config
from alibi_lm.machine.device import be_deterministic, resolve_device
from alibi_lm.machine.memory import keep_freed_memory
from alibi_lm.model.config import ModelConfig
from alibi_lm.model.decoder import Decoder
from alibi_lm.positions import SCHEMES
from alibi_lm.training.loop import update
from alibi_lm.training.optim import OptimConfig, build_optimizer

STEPS, ROUNDS = 10, 15


def main() -> None:
    """Print, for each scheme, the median over rounds of the ratio of times."""
    keep_freed_memory()
    device = resolve_device("auto")
    for name, (settings, _) in SCHEMES.items():
        config = Config(position=settings(), model=ModelConfig(), optim=OptimConfig())
        model = Decoder(config.model, config.position, 1024).to(device)
        optimizer = build_optimizer(model, config.optim)
        tokens = torch.randint(1024, (16, config.train_length + 1), device=device)
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for number in range(ROUNDS + 1):
            for on in (True, False) if number % 2 else (False, True):
                be_deterministic(on, device)
                begun = time.perf_counter()
                for _ in range(STEPS):
                    update(model, optimizer, tokens[:, :-1], tokens[:, 1:], config, device)
                if number:  # the first round warms up
                    seconds[on].append(time.perf_counter() - begun)
        ratios = [a / b for a, b in zip(seconds[True], seconds[False], strict=True)]
        print(f"{name:<12} {statistics.median(ratios):.3f} of the time without ({device.type})")


if __name__ == "__main__":
    main()
