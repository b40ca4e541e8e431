"""The golden runs: small trainings and evaluations that reach everything that decides a number.

  python tests/golden/runs.py     (computes them and writes losses.json; takes a minute)

Every scheme is trained for 20 steps by AdamW, those that the paper compares also by its recipe with
every dropout on, from both initialisations and with both softmaxes; and evaluated by every
protocol. Three heads (not a power of two), accumulation, clipping and lengths that are no multiple
of anything are on purpose.
"""

import itertools
import json
import random
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from alibi_lm.config import Config
from alibi_lm.data.sources.text import TextConfig
from alibi_lm.data.tokenizers import BpeConfig, WordsConfig
from alibi_lm.evaluation.protocols import EvaluationConfig, measurements
from alibi_lm.evaluation.rows import metrics
from alibi_lm.evaluation.score import reader, score
from alibi_lm.model.config import ModelConfig
from alibi_lm.positions import SCHEMES
from alibi_lm.runs.folder import Run
from alibi_lm.runs.plan import batches_of, plan_run
from alibi_lm.runs.train import build_model
from alibi_lm.training.loop import train
from alibi_lm.training.optim import AdamwConfig, NagConfig, build_optimizer

FILE = Path(__file__).with_name("losses.json")
CPU = torch.device("cpu")
SCHEME_NAMES = ("none", "sinusoidal", "rotary", "t5", "alibi")
OPTIM = {
    "adamw": AdamwConfig(
        steps=20,
        tokens_per_step=64,
        micro_batch_size=2,
        lr=0.02,
        min_lr=0.001,
        warmup_steps=5,
        grad_clip=0.5,
        weight_decay=0.1,
    ),
    "paper": NagConfig(
        steps=20,
        tokens_per_step=64,
        micro_batch_size=2,
        lr=0.5,
        min_lr=0.001,
        warmup_steps=5,
        warmup_init_lr=1e-3,
        grad_clip=0.1,
        momentum=0.9,
    ),
}
MODEL = ModelConfig(n_layers=2, n_heads=3, d_model=24, d_ff=48)
DROPOUTS = {"dropout": 0.3, "attention_dropout": 0.1, "activation_dropout": 0.1}
ADAPTIVE = {"cutoffs": [20, 60], "cutoff_factor": 3}
EVALUATION = EvaluationConfig(
    protocols=["nonoverlapping", "sliding", "same_targets"],
    lengths=[16, 50, 300],
    stride=13,
    targets=12,
    attention=["full", "window"],
    window=5,
)


def names() -> list[str]:
    """Scheme, recipe, initialisation and softmax of each run; two more have 16 bits.

    Of the schemes that the paper compares all combinations, of the others one.
    """
    every = itertools.product(SCHEME_NAMES, OPTIM, ("xavier", "fairseq"), ("tied", "adaptive"))
    ours = (n for n, made in SCHEMES.made.items() if made.__module__.startswith("alibi_lm."))
    others = [f"{name} adamw" for name in ours if name not in SCHEME_NAMES]
    return [*map(" ".join, every), "alibi bfloat16", "alibi float16", *sorted(others)]


def config_of(name: str, folder: Path) -> Config:
    """The configuration of a golden run, on the text in a folder."""
    position, recipe, init, softmax = (*name.split(), "xavier", "tied")[:4]
    dtype = recipe if recipe not in OPTIM else "float32"
    recipe = recipe if recipe in OPTIM else "adamw"
    changes: dict[str, Any] = {"init": init, "final_norm": init == "xavier"}
    changes |= ADAPTIVE if softmax == "adaptive" else {}
    if recipe == "paper":
        changes |= DROPOUTS | ({"softmax_dropout": 0.2} if softmax == "adaptive" else {})
    config = Config(
        position=SCHEMES.settings[position](),
        model=replace(MODEL, **changes),
        data=TextConfig(
            train=[str(folder / "train.txt")], validation=[str(folder / "validation.txt")]
        ),
        tokenizer=WordsConfig() if dtype == "float32" else BpeConfig(vocab_size=300),
        optim=OPTIM[recipe],
        evaluation=EVALUATION,
        train_length=16,
        seed=3,
        dtype=dtype,
        device="cpu",
        output=str(folder / "outputs"),
        cache=str(folder / "cache"),
    )
    assert config.problems() == []
    return config


def write_text(folder: Path) -> None:
    """Lines of words that are as unequally frequent as real ones, the same on every machine."""
    rng = random.Random(0)
    words = [f"{'aeiouäß'[i % 7]}{i}" for i in range(120)]
    for split, n_lines in (("train", 900), ("validation", 170)):
        lines, at = [], 0
        for _ in range(n_lines):
            line = []
            for _ in range(rng.randrange(1, 9)):
                # A word often follows the one that followed it before: there is something to learn.
                at = (at * 7 + 1) % 120 if rng.random() < 0.6 else int(120 ** rng.random()) - 1
                line.append(words[at])
            lines.append(" ".join(line))
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def compute(name: str, folder: Path) -> dict[str, Any]:
    """The losses of a golden run's updates, the norms of its gradients, and what it scores."""
    run = plan_run(config_of(name, folder))
    config = run.config
    model = build_model(run, config.seed, config.backend)
    updates = train(
        model,
        build_optimizer(model, config.optim),
        batches_of(config, run.data),
        config.optim,
        CPU,
        seed=config.seed,
        dtype=config.dtype,
        passes=config.grad_accum_steps(),
    )
    trained = list(updates)
    return {
        "losses": [update.loss for update in trained],
        "grad_norms": [update.grad_norm for update in trained],
        "results": _results(model.eval(), run),
    }


def _results(model: Any, run: Run) -> dict[str, list[float]]:
    config, split, found = run.config, run.data.split("validation"), {}
    wanted = measurements(config.evaluation, config.train_length, run.data.hash, config.dtype)
    for measurement in wanted:
        protocol, window = measurement.protocol, measurement.window
        if model.longest is not None and protocol.length > model.longest:
            continue
        losses_of = reader(model, CPU, measurement.dtype, window)
        losses = score(
            losses_of, split.stream, protocol, batch_tokens=900, fill=not model.prefix_consistent
        )
        mean = float(losses.astype("float64").mean())
        row = metrics(mean, split.tokens, split.words, split.bytes)
        label = f"validation-{protocol.label}-{protocol.length}"
        found[label + (f"-window{window}" if window else "")] = [len(losses), *row]
    return found


def machine() -> dict[str, str]:
    """What the last digits hang on."""
    return {"torch": torch.__version__, "kernels": torch.backends.cpu.get_cpu_capability()}


def main() -> None:
    """Compute all golden runs and write their file."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_text(Path(folder))
        runs = {name: compute(name, Path(folder)) for name in names()}
    lines = [f'"{name}": {json.dumps(run)}' for name, run in runs.items()]
    body = f'{{"machine": {json.dumps(machine())},\n"runs": {{\n' + ",\n".join(lines) + "}}\n"
    FILE.write_text(body, encoding="utf-8")
    print(f"{len(runs)} runs written to {FILE}", file=sys.stderr)


if __name__ == "__main__":
    main()
