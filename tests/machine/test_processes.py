"""Two real processes (gloo, on a CPU) that train and evaluate one model together."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Fork
from samples import outcome

from alibi_lm.config import Config
from alibi_lm.runs.folder import RunFolder
from alibi_lm.training.optim import AdamwConfig

OPTIM = AdamwConfig(steps=20, warmup_steps=2, tokens_per_step=64, micro_batch_size=1)


def finish(processes: list[Any], config: Config) -> dict[str, Any]:
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    (folder,) = (Path(config.output) / "runs").iterdir()
    return outcome(RunFolder(folder))


# A layer of each form: by distance with bounds, by key of the input, on the logits (one within
# another scheme), and one with a loss of its own.
LOSS = {"kind": "seqpe", "encoder_layers": 1, "contrastive": 0.1, "transfer": 0.1}
FORMS = {"kind": "layered", "layers": ["kerple", "fox", "dape", "path_fox", LOSS]}


@pytest.mark.parametrize(
    ("position", "how"),
    [(FORMS, "ddp"), (FORMS, "fsdp"), ("shape", "ddp")],
    ids=["every form ddp", "every form fsdp", "drawn ddp"],
)
def test_the_same_losses_as_one_process_and_resumed_the_very_same(
    small_config: Callable[..., Config], fork: Fork, tmp_path: Path, position: Any, how: str
) -> None:
    config = small_config(position, optim=OPTIM, parallel=how, checkpoint_seconds=0)
    config = replace(config, model=replace(config.model, n_layers=5 if position is FORMS else 2))
    places = [replace(config, output=str(tmp_path / name)) for name in ("one", "two", "killed")]
    one = finish([fork.start(places[0])], places[0])
    two = finish(fork.start_together(places[1]), places[1])
    for alone, shared in zip(one["metrics"], two["metrics"], strict=True):
        assert shared == pytest.approx(alone, rel=1e-5)
    for alone, shared in zip(one["rows"], two["rows"], strict=True):
        assert shared.loss == pytest.approx(alone.loss, rel=1e-5)
        assert (shared.tokens, shared.words, shared.bytes) == (
            alone.tokens,
            alone.words,
            alone.bytes,
        )

    processes = fork.start_together(places[2])
    while not list(Path(places[2].output).glob("runs/*/checkpoints/step-*")):
        assert processes[0].is_alive()
        time.sleep(0.001)
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
    for process in processes:
        process.join()
    assert not list(Path(places[2].output).rglob("model.safetensors"))
    assert finish(fork.start_together(places[2]), places[2]) == two


def test_evaluation_in_shares_gives_the_same_rows(
    small_config: Callable[..., Config], fork: Fork, tmp_path: Path
) -> None:
    config = small_config("alibi", optim=OPTIM)
    evaluation = replace(
        config.evaluation, protocols=["nonoverlapping", "same_targets"], targets=50, batch_tokens=64
    )
    config = replace(config, evaluation=evaluation)
    wanted = finish([fork.start(config)], config)
    (folder,) = (Path(config.output) / "runs").iterdir()
    (folder / "results.jsonl").unlink()
    shutil.rmtree(folder / "losses")
    assert finish(fork.start_together(config, 4), config) == wanted


def test_sequences_that_processes_cannot_share(small_config: Callable[..., Config]) -> None:
    config = small_config(optim=replace(OPTIM, tokens_per_step=96, micro_batch_size=2))
    assert config.sharing_problems(1) == []
    assert config.sharing_problems(2) == [
        "optim.micro_batch_size: given 2, but it must divide the 6 sequences of a step "
        "(optim.tokens_per_step / train_length), 3 per process"
    ]
    assert config.sharing_problems(4) == [
        "4 processes cannot share the 6 sequences of a step (optim.tokens_per_step / train_length) "
        "equally"
    ]
