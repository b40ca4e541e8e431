"""Real processes, killed at random moments and started again, against one that was never killed.

KILLS=200 python -m pytest tests/test_kills.py -s   kills as many, and says where they struck.
"""

import collections
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Fork
from samples import outcome, trained

from alibi_lm.config import Config
from alibi_lm.runs.folder import RunFolder
from alibi_lm.training.optim import AdamwConfig

N_KILLS = int(os.environ.get("KILLS", "20")) // 2  # of each of two schemes


def stage(config: Config, place: Path) -> str:
    """How far a killed run had come."""
    runs = list(place.glob("runs/*"))
    if not list(Path(config.cache).glob("*/manifest.json")):
        return "before the text was tokenized"
    if not runs or not (runs[0] / "manifest.json").exists():
        return "before the run folder was whole"
    if (runs[0] / "model.safetensors").exists():
        done = len(list((runs[0] / "losses").glob("*.npy")))
        return f"evaluating, {done} lengths done"
    return "training"


LOSS = {"kind": "seqpe", "encoder_layers": 1, "contrastive": 0.1}


@pytest.mark.parametrize(
    ("position", "parent"),
    [({"kind": "layered", "layers": ["t5", "path_fox", LOSS]}, None), ("cape", "rotary")],
    ids=["every form", "drawn positions, on another run's weights"],
)
def test_killed_at_any_moment_it_ends_as_if_it_had_not_been(
    small_config: Callable[..., Config],
    fork: Fork,
    tmp_path: Path,
    position: Any,
    parent: str | None,
) -> None:
    optim = AdamwConfig(
        steps=30, warmup_steps=5, tokens_per_step=64, micro_batch_size=1, lr=1e-2, min_lr=1e-3
    )
    config = small_config(position, optim=optim, checkpoint_seconds=0)
    config = replace(config, model=replace(config.model, dropout=0.2, n_layers=3))
    if parent is not None:
        start = trained(replace(small_config(parent), model=config.model))
        config = replace(config, start=str(start.path))

    outcomes = []
    for name in ("first", "reference"):  # the first also waits for the server to start
        begun = time.monotonic()
        reference = fork.start(replace(config, output=str(tmp_path / name)))
        reference.join(60)
        duration = time.monotonic() - begun
        assert reference.exitcode == 0
        (there,) = (tmp_path / name / "runs").iterdir()
        outcomes.append(outcome(RunFolder(there)))
    wanted = outcomes[0]
    assert outcomes[1] == wanted
    assert len(wanted["metrics"]) == 3
    assert len(wanted["rows"]) == 2

    draw = random.Random(0)
    struck: collections.Counter[str] = collections.Counter()
    finished = 0
    while struck.total() < N_KILLS or finished == 0:
        place = tmp_path / f"killed{finished}"
        # Every other run also tokenizes anew, and checkpoints seldom.
        often = finished % 2 == 0
        cache = config.cache if often else str(place / "cache")
        seconds = 0.0 if often else 0.1
        killed = replace(config, output=str(place), cache=cache, checkpoint_seconds=seconds)
        while True:
            process = fork.start(killed)
            process.join(draw.uniform(0, duration) if struck.total() < N_KILLS else 60)
            if process.exitcode is not None:
                assert process.exitcode == 0
                break
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            struck[stage(killed, place)] += 1
        (folder,) = (place / "runs").iterdir()
        run = RunFolder(folder)
        assert outcome(run) == wanted
        assert not run.checkpoints.exists()
        assert not [path for path in place.rglob("*partial*") if "cache" not in path.parts]
        finished += 1
    print(f"\n{struck.total()} kills, {finished} runs ended as the one that was not killed:")
    for where, times in struck.most_common():
        print(f"{times:>5}  {where}")
    # The kills must have struck where there is something to lose.
    assert struck["training"] >= N_KILLS // 4
