"""Rows of results and of a benchmark, and results with token losses, for the tests to vary; and
what a run left behind, to compare."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir

from alibi_lm.benchmark.rows import Speed
from alibi_lm.cli import CONFIGS, register
from alibi_lm.config import Config, from_hydra
from alibi_lm.evaluation.protocols import EvaluationConfig
from alibi_lm.evaluation.rows import Result, Row, losses_file, perplexity, read_results
from alibi_lm.runs.evaluate import evaluate_run
from alibi_lm.runs.folder import Run, RunFolder
from alibi_lm.runs.plan import plan_evaluation, plan_run
from alibi_lm.runs.train import train_run

ROW = Row(
    position="alibi",
    train_length=64,
    eval_length=128,
    protocol="nonoverlapping",
    stride=128,
    seed=0,
    dataset="stdlib",
    split="validation",
    tokenizer="bpe",
    tokens=1000,
    words=300,
    bytes=2500,
    loss=3.25,
    ppl=math.exp(3.25),
    word_ppl=1e4 / 3,
    bpb=0.1 + 0.2,
    nonfinite=0,
    status="complete",
    window=None,
    variant="",
    n_parameters=10,
    vocab_size=1024,
    train_tokens=100,
    dtype="float32",
    backend="row",
    device="cpu",
    seconds=0.5,
    data_hash="d",
    tokenizer_hash="t",
    commit=None,
    dirty=None,
    torch="2.13.0",
    settings="optim=adamw optim.lr=0.01 model.dropout=0.1",
    recipe="r",
    run="stdlib-alibi",
)
SPEED = Speed(
    library="alibi_lm",
    position="none",
    length=512,
    phase="training",
    dtype="float32",
    backend="causal",
    status="complete",
    tokens=4096,
    rounds=5,
    seconds=0.5,
    tokens_per_second=8192.0,
    time_ratio=1.0,
    time_ratio_to_ours=None,
    peak_memory_bytes=100 << 20,
    memory_ratio=1.0,
    flops_per_second=5e10,
    limit_flops_per_second=1e11,
    limit="measured",
    share=0.5,
    first_step_seconds=0.7,
    compile=False,
    checkpointing=False,
    n_parameters=1000,
    vocab_size=2048,
    model="n_layers=2",
    device="cpu",
    cpu="a CPU",
    threads=2,
    torch="2.13.0",
    version="abc",
    dirty=False,
)


def result(folder: Path, loss_of: Callable[[int], float], **changes: object) -> Result:
    """A row with these changes and token losses that it truly has: loss_of(context) and noise.

    The noise is that of the text: the same for every row of as many tokens.
    """
    row = dataclasses.replace(ROW, **changes)  # type: ignore[arg-type]
    if row.protocol == "same_targets":
        row = dataclasses.replace(row, sample=row.tokens, stride=None)
    noise = np.random.default_rng(0).normal(0, 0.5, row.tokens)
    # A sample is drawn from a split that is larger.
    n_targets = row.tokens if row.protocol != "same_targets" else 10 * row.tokens
    contexts = row.measurement.protocol.contexts(n_targets)
    by_context = np.array([loss_of(int(context)) for context in contexts])
    losses = (by_context + noise).astype(np.float32)
    loss = float(losses.astype(np.float64).mean())
    ppl = perplexity(loss)
    run = f"{row.position}-{row.train_length}-{row.seed}-{row.dataset}-{row.recipe}"
    file = losses_file(folder / "runs" / run, row.measurement)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, losses)
    row = dataclasses.replace(row, run=run, loss=loss, ppl=ppl, word_ppl=ppl**3, bpb=loss / 2)
    return Result(row, file)


def bare(**changes: object) -> Result:
    """A row with these changes, without token losses."""
    if "ppl" in changes:
        changes["loss"] = math.log(float(changes["ppl"]))  # type: ignore[arg-type]
    return Result(dataclasses.replace(ROW, **changes))  # type: ignore[arg-type]


def study(folder: Path, **changes: object) -> list[Result]:
    """Two schemes, three lengths, two seeds: past 64 sinusoidal rises."""
    return [
        result(
            folder,
            lambda context, p=position: 3 + (0.5 if p == "sinusoidal" and context > 64 else -0.1),
            **(
                {"position": position, "seed": seed, "eval_length": length, "stride": length}
                | changes
            ),
        )
        for position in ("sinusoidal", "alibi")
        for seed in (0, 1)
        for length in (64, 128, 256)
    ]


def outcome(run: RunFolder) -> dict[str, Any]:
    """All that a run leaves, but for the time that it took."""
    metrics = [json.loads(line) for line in run.curve.read_text().splitlines()]
    for line in metrics:
        del line["seconds"]
    rows, losses = [], []
    results = read_results(run.path) if (run.path / "results.jsonl").exists() else []
    for result in sorted(results, key=lambda result: result.row.measurement.label):
        rows.append(dataclasses.replace(result.row, seconds=0.0))
        assert result.losses_file is not None
        losses.append(result.losses_file.read_bytes())
    weights = run.weights.read_bytes()
    return {"metrics": metrics, "weights": weights, "rows": rows, "losses": losses}


def trained(config: Config) -> Run:
    """The run of a configuration, trained."""
    run = plan_run(config)
    train_run(run)
    return run


def evaluated(
    run: Run, settings: EvaluationConfig | None = None, backend: str = "auto"
) -> list[Result]:
    """What these settings (by default the run's own) want of a trained run, on a CPU."""
    member = plan_evaluation(run, settings or run.config.evaluation, "cpu", backend)
    return evaluate_run(member.run, member.wanted)


def composed(*overrides: str, kind: Any = Config, name: str = "config") -> Any:
    """The settings of a command, as Hydra composes them from these words."""
    register(kind)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return from_hydra(compose(name, list(overrides)), kind)
