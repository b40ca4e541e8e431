"""Measure how fast a configuration trains and evaluates, against what the machine allows.

  python scripts/benchmark.py
  python scripts/benchmark.py position=t5 train_length=512 optim.steps=20 optim.warmup_steps=0

Runs optim.steps real training steps (the first three uncounted), each followed by one large float32
matrix product, and compares the medians; then nonoverlapping evaluation at the training length, in
turns with bare forward passes over the same batches. Nothing is saved.
"""

from pathlib import Path

from alibi_lm.benchmark import WARM_UP, measure_evaluation, measure_training
from alibi_lm.cli import main
from alibi_lm.config import Config
from alibi_lm.data.tokens import prepare
from alibi_lm.errors import UserError
from alibi_lm.progress import say


def benchmark(config: Config) -> None:
    """Measure both and print a line for each."""
    if config.optim.steps <= WARM_UP:
        raise UserError(
            f"optim.steps: given {config.optim.steps}, but a measurement needs more than {WARM_UP}"
        )
    data = prepare(config.data, config.tokenizer, Path(config.cache))
    name = f"{config.position.name}, length {config.train_length}, {config.dtype}"
    speed = measure_training(config, data)
    say(
        f"{name}, training: {speed.tokens_per_second:,.0f} tokens/s, "
        f"{speed.flops_per_second / 1e9:.1f} GFLOP/s, {speed.share:.0%} of the float32 "
        f"matrix-multiply rate of {speed.matmul_flops_per_second / 1e9:.1f} GFLOP/s"
    )
    evaluation = measure_evaluation(config, data)
    say(
        f"{name}, evaluation: {evaluation.tokens_per_second:,.0f} tokens/s, "
        f"{evaluation.share:.0%} of a bare forward pass"
    )


if __name__ == "__main__":
    main(__doc__, "config", Config, benchmark)
