"""Measure the training speed of a configuration against the machine's matrix-multiply rate.

  python scripts/benchmark.py
  python scripts/benchmark.py position=t5 train_length=512 optim.steps=20 optim.warmup_steps=0

Runs optim.steps real training steps (the first three uncounted), each followed by one large float32
matrix product, and compares the medians. Nothing is saved.
"""

from pathlib import Path

from alibi_lm.benchmark import WARM_UP, measure_training
from alibi_lm.cli import main
from alibi_lm.config import Config
from alibi_lm.data.tokens import prepare
from alibi_lm.errors import UserError
from alibi_lm.progress import say


def benchmark(config: Config) -> None:
    """Measure and print one line."""
    if config.optim.steps <= WARM_UP:
        raise UserError(
            f"optim.steps: given {config.optim.steps}, but a measurement needs more than {WARM_UP}"
        )
    speed = measure_training(config, prepare(config.data, config.tokenizer, Path(config.cache)))
    say(
        f"{config.position.name}, length {config.train_length}, {config.dtype}: "
        f"{speed.tokens_per_second:,.0f} tokens/s, {speed.flops_per_second / 1e9:.1f} GFLOP/s, "
        f"{speed.share:.0%} of the float32 matrix-multiply rate of "
        f"{speed.matmul_flops_per_second / 1e9:.1f} GFLOP/s"
    )


if __name__ == "__main__":
    main(__doc__, "config", Config, benchmark)
